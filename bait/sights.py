"""What the LRMS was last seen to say of each job, and whether that is enough to know it."""

from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from bait.lrms.base import JobState, JobView, Lrms, LrmsUnavailable
from protocol.ids import Run

CACHED_S = 0.5
"""How old a view of a job at the bait may be: its starter holds it there, and no deed then touches the LRMS."""
ABSENT_S = 1.0
"""A job counts as unknown to the LRMS after two complete answers without it, this far apart (R13)."""


@dataclass(slots=True)
class _Sight:
    at: float
    view: JobView | None
    missing_since: float | None = None
    leaving_since: float | None = None


@dataclass
class Sights:
    """One bait's looks at its jobs. Memory only."""

    clock: IReactorTime
    lrms: Lrms
    _sights: dict[str, _Sight] = field(default_factory=dict)
    log: Logger = field(default_factory=lambda: Logger("bait.sights"))

    async def look(self, run: Run, at_the_bait: bool) -> tuple[bool, JobView | None]:
        """Whether the LRMS has answered, and the job; a job is absent only after two answers without it."""
        sight = self._sights.get(run.key)
        if sight is not None and at_the_bait and sight.view and self.clock.seconds() - sight.at < CACHED_S:
            return True, sight.view
        try:
            view = (await self.lrms.jobs([run.key])).get(run.key)
        except LrmsUnavailable as error:
            self.log.warn("{run}: the LRMS does not answer: {error}", run=str(run), error=error)
            return False, None
        return self.saw(run.key, view)

    def saw(self, key: str, view: JobView | None) -> tuple[bool, JobView | None]:
        """Remember what the LRMS said of a job just now."""
        now = self.clock.seconds()
        before = self._sights.get(key)
        missing = leaving = None
        if view is None:
            missing = before.missing_since if before is not None and before.missing_since is not None else now
        elif view.state is JobState.LEAVING:
            leaving = before.leaving_since if before is not None and before.leaving_since is not None else now
        self._sights[key] = _Sight(now, view, missing, leaving)
        return view is not None or (missing is not None and now - missing >= ABSENT_S), view

    def leaving_since(self, key: str) -> float | None:
        """Since when the job has been seen to leave its node; None: it does not."""
        sight = self._sights.get(key)
        return None if sight is None else sight.leaving_since

    def forget(self, key: str) -> None:
        """What was seen is out of date, or nobody asks any more."""
        self._sights.pop(key, None)
