"""Opens and closes the bait's node as `bait.rules.gate` decides, and never touches a node that a human closed."""

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from bait.lrms.base import Lrms, LrmsRefused, LrmsUnavailable, NodeState
from bait.rules.gate import REASON, Choice, Gate, Limits, choose
from bait.rules.hostview import HostView
from protocol.ids import Shape
from wnod.config import Gate as GateConfig
from wnod.duties import Duties, Next

LOOK_S = 10.0
RETRY_S = 2.0
EMPTY_LOOK_S = 0.25
"""Between two looks at whether a node that was closed has become empty."""


@dataclass
class Opening:
    """The bait's node in the LRMS, kept as the gate wants it."""

    clock: IReactorTime
    bait: str
    lrms: Lrms
    view: HostView
    config: GateConfig
    told: Callable[[bool], None]
    """Called when the bait has been opened (True) or closed (False) in the LRMS."""
    gate: Gate = field(init=False)
    human: str = ""
    """A human's reason, if a human has closed the node."""
    is_open: bool = False
    """True if the LRMS was last seen, or made, to send jobs here: the fact, where `gate` is the intent."""
    up: bool = True
    """False while the LRMS does not answer."""
    _looked_at: float = float("-inf")
    """When the LRMS was last seen to be as the gate wants it."""
    log: Logger = field(default_factory=lambda: Logger("bait.opening"))

    def __post_init__(self) -> None:
        self.gate = Gate(False, self.clock.seconds(), f"{REASON} the bait daemon is starting")
        self.duties = Duties(self.clock, self._step, "gate")

    def kick(self) -> None:
        """The host's capacity or the link has changed."""
        if not (self.is_open and self._choice().gate is self.gate):  # it changes with every VM, an open gate seldom
            self.duties.kick("gate")

    def _choice(self) -> Choice:
        capacity = self.view.capacity if self.view.linked else None
        return choose(self.gate, capacity, self.limits(), self.clock.seconds())

    @property
    def reason(self) -> str:
        """Why no jobs are sent here; empty if they are."""
        if self.human:
            return f"closed by a human: {self.human}"
        if self.is_open or self.gate.reason:
            return self.gate.reason
        return "the LRMS does not see the bait's node up and open yet"

    def limits(self) -> Limits:
        """As configured; by default room for the smallest job that says nothing."""
        capacity = self.view.capacity
        usual = [offer.usual for offer in capacity.offers if offer.available] if capacity is not None else []
        smallest = Shape(
            cpus=min((shape.cpus for shape in usual), default=1),
            memory_mib=min((shape.memory_mib for shape in usual), default=64),
            disk_mib=min((shape.disk_mib for shape in usual), default=16),
        )
        close = self.config.close_below or smallest
        return Limits(close, self.config.open_above or close, self.config.hold_s)

    async def _step(self, key: str) -> Next:
        choice = self._choice()
        news = (choice.gate.open, _gist(choice.gate.reason)) != (self.gate.open, _gist(self.gate.reason))
        self.gate = choice.gate
        if news or not 0.0 <= self.clock.seconds() - self._looked_at < LOOK_S:
            self._looked_at = float("-inf")
            try:
                await self._make_so()
            except (LrmsUnavailable, LrmsRefused) as error:
                self.up = False
                self.log.warn("cannot open or close {bait}: {error}", bait=self.bait, error=error)
                return RETRY_S
            self.up = True
            self._looked_at = self.clock.seconds()
        soon = self._looked_at + LOOK_S if choice.wake_at is None else choice.wake_at
        return min(LOOK_S, max(0.05, soon - self.clock.seconds()))

    async def _make_so(self) -> None:
        node = await self.lrms.node(self.bait)
        if node is None:
            raise LrmsRefused(f"the LRMS knows no node {self.bait!r}: is its LRMS daemon running, is the name right?")
        self.human = node.reason if node.state is NodeState.CLOSED_BY_OTHERS else ""
        closed = node.state is NodeState.CLOSED_BY_US
        if self.gate.open and closed:
            await self.lrms.open_node(self.bait)
            self.is_open = True
            self.log.info("{bait} opened", bait=self.bait)
            self.told(True)
        elif not self.gate.open and node.state in (NodeState.READY, NodeState.BUSY):
            await self.lrms.close_node(self.bait, self.gate.reason)
            self.is_open = False
            self.log.info("{bait} closed: {reason}", bait=self.bait, reason=self.gate.reason)
            self.told(False)
        else:
            self.is_open = self.gate.open and node.state in (NodeState.READY, NodeState.BUSY)
        if not self.gate.open and closed and _gist(node.reason) != _gist(self.gate.reason):
            await self.lrms.close_node(self.bait, self.gate.reason)

    async def close(self) -> None:
        """The daemon stops: attract no more jobs, and come back when none is left on the node. Best effort.

        Starters must be answered until then: a job that was on its way when the node was closed asks after that.
        """
        await self.duties.stop()
        self.gate = Gate(False, self.clock.seconds(), f"{REASON} the bait daemon is stopped")
        try:
            await self._make_so()
            while await self._occupied():
                await deferLater(self.clock, EMPTY_LOOK_S)
        except (LrmsUnavailable, LrmsRefused) as error:
            self.log.warn("cannot close {bait}: {error}", bait=self.bait, error=error)

    async def _occupied(self) -> bool:
        node = await self.lrms.node(self.bait)
        return node is not None and node.occupied


def _gist(reason: str) -> str:
    """The reason without the figures that change with every VM."""
    return reason.split(" (", maxsplit=1)[0].strip()
