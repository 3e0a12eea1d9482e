"""Since when the LRMS has been up: asked once for each lease while its job is being parked (`bait.rules.grace`)."""

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
    """The answer for this lease has come."""
    _since: dict[LeaseId, float] = field(default_factory=dict)
    _asking: set[LeaseId] = field(default_factory=set)
    log: Logger = field(default_factory=lambda: Logger("bait.uptime"))

    def __post_init__(self) -> None:
        self._fresh: Fresh[float] = Fresh(self.clock, self._look)

    def since(self, lease: LeaseId) -> float | None:
        """When the LRMS came up, by our clock, at the latest; None: nobody knows yet, and it is being asked.

        The answer is never older than the first call for this lease. Leases whose first call came before a question
        was put share its answer.
        """
        if lease not in self._since and lease not in self._asking:
            self._asking.add(lease)
            asking = Deferred.fromCoroutine(self._ask(lease))
            asking.addErrback(lambda failure: self.log.failure("cannot ask the LRMS for its age", failure))
        return self._since.get(lease)

    def forget(self, lease: LeaseId) -> None:
        """The lease is over."""
        self._since.pop(lease, None)

    async def _ask(self, lease: LeaseId) -> None:
        try:
            self._since[lease] = await self._fresh.get()
        except LrmsUnavailable as error:
            self.log.warn("the LRMS does not say since when it has been up: {error}", error=error)
            return  # whoever still needs to know asks again
        finally:
            self._asking.discard(lease)
        self.known(lease)

    async def _look(self) -> float:
        age = await self.lrms.up_for_s()
        return self.clock.seconds() - age
