"""Requests for VMs whose owner's account the name service has not told yet: kept for a moment, and then asked again."""

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from protocol.ids import LeaseId
from protocol.messages import RequestVm

WAIT_S = 5.0
"""Less than a bait waits for a grant: then it hears why there is none."""

Do = Callable[[str, RequestVm], None]


@dataclass
class Owners:
    """At most one request for each lease waits. Losing them is harmless: baits ask again."""

    clock: IReactorTime
    again: Do
    """The account is known now."""
    late: Do
    """It still is not."""
    _waiting: dict[LeaseId, tuple[str, RequestVm, IDelayedCall]] = field(default_factory=dict)

    def wait(self, peer: str, ask: RequestVm) -> None:
        """Keep it until `known`, `forget`, or WAIT_S have passed."""
        self.forget(ask.lease)
        timer = self.clock.callLater(WAIT_S, self._late, ask.lease)
        self._waiting[ask.lease] = (peer, ask, timer)

    def forget(self, lease: LeaseId) -> None:
        """Nobody wants it any more."""
        waiting = self._waiting.pop(lease, None)
        if waiting is not None and waiting[2].active():
            waiting[2].cancel()

    def known(self, owner: int) -> None:
        """The name service has answered."""
        for peer, ask, _ in tuple(self._waiting.values()):
            if ask.owner == owner:
                self.forget(ask.lease)
                self.again(peer, ask)

    def _late(self, lease: LeaseId) -> None:
        peer, ask, _ = self._waiting.pop(lease)
        self.late(peer, ask)
