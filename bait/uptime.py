"""For how long the LRMS has been up: asked for each lease while its job is being parked (`bait.rules.grace`)."""

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from bait.lrms.base import Lrms, LrmsUnavailable
from protocol.ids import LeaseId
from wnod.fresh import Fresh


@dataclass
class Uptime:
    """What the LRMS has said, lease by lease. Memory only: the next life of the daemon asks again."""

    clock: IReactorTime
    lrms: Lrms
    known: Callable[[LeaseId], None]
    """An answer for this lease has come."""
    _said: dict[LeaseId, tuple[float, float]] = field(default_factory=dict)
    """For how long it had been up, and when it said so."""
    _asking: set[LeaseId] = field(default_factory=set)
    log: Logger = field(default_factory=lambda: Logger("bait.uptime"))

    def __post_init__(self) -> None:
        self._fresh: Fresh[float] = Fresh(self.clock, self._look)

    def of(self, lease: LeaseId, enough_s: float) -> float | None:
        """For how long the LRMS had been up when it last said so; None: nobody knows yet, and it is being asked.

        No answer is older than the first call for this lease. If it is not enough, the first call after the missing
        time asks again. Leases whose call came before a question was put share its answer.
        """
        said, at = self._said.get(lease, (None, 0.0))
        # Our clock says when to ask, never what to believe.
        due = said is None or 0 < enough_s - said <= abs(self.clock.seconds() - at)
        if due and lease not in self._asking:
            self._asking.add(lease)
            asking = Deferred.fromCoroutine(self._ask(lease))
            asking.addErrback(lambda failure: self.log.failure("cannot ask the LRMS for its age", failure))
        return said

    def forget(self, lease: LeaseId) -> None:
        """The lease is over."""
        self._said.pop(lease, None)

    async def _ask(self, lease: LeaseId) -> None:
        try:
            said = await self._fresh.get()
        except LrmsUnavailable as error:
            self.log.warn("the LRMS does not say for how long it has been up: {error}", error=error)
            return  # whoever still needs to know asks again
        finally:
            self._asking.discard(lease)
        self._said[lease] = said, self.clock.seconds()
        self.known(lease)

    async def _look(self) -> float:
        return await self.lrms.up_for_s()
