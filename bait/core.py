"""The bait without its surroundings: the parts that catch jobs and follow them, put together once.

`bait.daemon` puts it on Slurm, a socket and TLS; the tests put the same parts on theirs, so that what they see is
how the daemon is wired. Whoever owns a core builds the link, listens for starters and ends the process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from bait.follower import Follower, Link, Observer
from bait.hearing import hear
from bait.hookserver import HookServer, peer_uid
from bait.interception import Interception
from bait.lrms.base import Lrms
from bait.opening import Opening
from bait.rescue import LOOK_EVERY_S, Rescue
from bait.rules.hostview import HostView
from bait.rules.lease import Times
from protocol.messages import BaitInventory, SrvMsg
from wnod.config import Gate, Hook, Rule
from wnod.journal import Journal
from wnod.loops import Loops

RENEW_EVERY_S = 30.0
CLOSE_LIMIT_S = 8.0
"""A stop waits no longer for the LRMS to close the node and for the jobs on it to leave."""

_log = Logger(namespace="bait.core")


@dataclass
class BaitCore:
    """One life of a bait, a `protocol.link.Listener`. In this order: build it, `join` a link, `load`, open the link
    and `hooks`, `start`.
    """

    clock: Any
    """A reactor; of its sockets only `hooks.start` makes use."""
    bait: str
    cluster: str
    journal: Journal
    lrms: Lrms
    times: Times
    gate: Gate
    rules: Sequence[Rule]
    hook: Hook
    new_id: Callable[[], str]
    """128 random bits for a lease or a request."""
    observer: Observer
    broken: Callable[[Failure], None]
    """A loop has failed, and has ended."""
    opened: Callable[[bool], None] = lambda is_open: None
    """The bait's node was opened (True) or closed (False)."""
    answered: Callable[[float], None] = lambda seconds: None
    """A starter has been answered, or has gone, so long after its question."""
    uid_of: Callable[[Any], int] = peer_uid
    view: HostView = field(default_factory=HostView)
    link: Link = field(init=False)

    def __post_init__(self) -> None:
        self._loops = Loops(self.clock, self.broken)
        clock, lrms = self.clock, self.lrms
        self.follower = Follower(
            clock=clock,
            bait=self.bait,
            journal=self.journal,
            lrms=lrms,
            view=self.view,
            times=self.times,
            new_id=self.new_id,
            observer=self.observer,
        )
        self.opening = Opening(clock, self.bait, lrms, self.view, self.gate, self.opened)
        self.interception = Interception(clock, self.cluster, self.bait, lrms, self.follower, self.rules, self.new_id)
        self.rescue = Rescue(clock, lrms, self.follower)
        intercepted = self.interception.intercepted
        self.hooks = HookServer(clock, self.hook.socket, intercepted, self.hook.limit_s, uid_of=self.uid_of)
        self.hooks.answered = self.answered

    def join(self, link: Link) -> None:
        """The hostmaster is spoken to over this; what it says must reach `connected`, `disconnected`, `received`."""
        self.link = self.follower.link = link

    def load(self) -> None:
        """Read the journal and resume every lease."""
        self.follower.load()

    def start(self) -> None:
        """Open the bait if there is room, and begin all that is done from time to time."""
        self.opening.kick()
        self.every(RENEW_EVERY_S, self._renew)
        self.every(LOOK_EVERY_S, self.rescue.look)
        self.rescue.soon()

    def halt(self) -> None:
        """Nothing is begun any more from time to time. Idempotent."""
        self._loops.halt()
        self.rescue.halt()

    async def stop(self) -> None:
        """Close the bait and answer whoever is there or on his way; who still waits after CLOSE_LIMIT_S is handed back.
        Returns when no lease is being seen to."""
        self.halt()
        # The node first: a job that comes to an open node without a daemon loses 20 s to its starter, 121 s in Slurm.
        closing = Deferred.fromCoroutine(self.opening.close()).addTimeout(CLOSE_LIMIT_S, self.clock)
        await closing.addErrback(self._not_closed)
        await self.hooks.stop()
        await self.follower.duties.stop()

    def _not_closed(self, failure: Failure) -> None:
        if isinstance(failure.value, TimeoutError):
            text = "{bait} was not seen to be closed and empty within {limit} s"
            _log.warn(text, bait=self.bait, limit=CLOSE_LIMIT_S)
        else:
            _log.failure("{bait} could not be closed; stopping all the same", failure, bait=self.bait)

    def every(self, seconds: float, call: Callable[[], Any]) -> None:
        """Do it again and again, until `halt`; if it fails, `broken` hears of it."""
        self._loops.every(seconds, call)

    def _renew(self) -> None:
        self.link.send(BaitInventory(leases=tuple(self.follower.leases)))

    # --- protocol.link.Listener ------------------------------------------------------------------------

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """Say what leases there are; the host answers with what it has."""
        self.view.connected(resumed)
        self._renew()
        self._see_to_all()

    def disconnected(self, peer: str) -> None:
        """Jobs in VMs need no link; the bait closes until it is back."""
        self.view.disconnected()
        self._see_to_all()

    def received(self, peer: str, message: SrvMsg) -> None:
        """One message of the hostmaster."""
        hear(message, self.follower, self.opening)

    def _see_to_all(self) -> None:
        self.follower.kick_all()
        self.opening.kick()
