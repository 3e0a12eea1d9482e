"""What shows that the LRMS and this host are in contact, so that no healthy VM is paused (ADR 0008, R9).

Two things show it: the bait's word that the LRMS has a run in its VM (message `renew`), and any answer of the
controller's machine to a connection, a refused one included: an LRMS that does not run starts nothing elsewhere.
A dead bait alone is therefore no loss of contact. Nor is a controller that never yet has answered this host:
there the probe may simply be impossible (name, firewall), and what was never there cannot be lost.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from protocol.ids import LeaseId
from wnod.config.words import split_address
from wnod.journal import Journal

LOOK_EVERY_S = 10.0
WORD_IS_ENOUGH_S = 25.0
"""While every run has been vouched for so lately, the controller is not asked: its log shows each such question."""
ANSWER_S = 5.0
"""For each address of the controller's name."""
ASKED_S = 15.0
"""For all of it: a host that is cut off may get no answer to that name either, for minutes."""


@dataclass
class Contact:
    """When this host was last in contact with the LRMS, for all VMs and for each."""

    clock: IReactorTime
    journal: Journal
    controller: str
    """Its address; only names the fact in the journal that it has once answered."""
    answers: Callable[[], Awaitable[bool]]
    """Whether the controller's machine answers now."""
    noticed: Callable[[], None] = lambda: None
    """Called when an answer has come after a silence."""
    lost: bool = False
    """The last question was not answered. Only a question that failed is a silence."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster.contact"))

    def __post_init__(self) -> None:
        self._answered = self.clock.seconds()  # a daemon that has just started knows of no silence
        self._heard = float("-inf")
        self._words: dict[LeaseId, float] = {}
        self._asking = False
        self._proven = self.journal.raise_number(self._fact, 0) > 0

    @property
    def _fact(self) -> str:
        return f"answered {self.controller}"[:255]

    def word(self, lease: LeaseId) -> float:
        """When the bait last said that the LRMS has this lease's run in its VM; minus infinity: not in this life."""
        return self._words.get(lease, float("-inf"))

    def last(self, lease: LeaseId, since: float) -> float:
        """When there was last contact as far as this lease's VM, whose run began at `since`, is concerned."""
        if not (self._proven and self.lost):  # also if this daemon, or the machine, has slept: it has not asked since
            return self.clock.seconds()
        return max(self._answered, since, self.word(lease))

    def heard(self, lease: LeaseId) -> float:
        """When contact was positively seen; what a VM that is paused needs to go on, also after a restart."""
        return max(self._heard, self.word(lease))

    def said(self, lease: LeaseId) -> None:
        """The bait gives its word."""
        self._words[lease] = self.clock.seconds()

    def assume(self) -> None:
        """There are VMs of a journal that is lost: they came about in contact with the LRMS, so silence counts."""
        self._proven = self.journal.raise_number(self._fact, 1) > 0

    def forget(self, lease: LeaseId) -> None:
        """The lease is over."""
        self._words.pop(lease, None)

    def look(self, started: Collection[LeaseId]) -> None:
        """Ask the controller, if some run among these has not been vouched for of late. Call every LOOK_EVERY_S."""
        fresh = self.clock.seconds() - WORD_IS_ENOUGH_S
        vouched = all(self.word(lease) > fresh for lease in started)
        if not self._asking and ((started and not vouched) or self.lost or not self._proven):
            self._asking = True
            Deferred.fromCoroutine(self._ask()).addErrback(self._failed)

    async def _ask(self) -> None:
        try:
            answered = await self.answers()
        finally:
            self._asking = False
        if not answered:
            if not self.lost:
                self.log.warn("the controller {controller} does not answer this host", controller=self.controller)
            self.lost = True
            return
        self._answered = self._heard = self.clock.seconds()
        if not self._proven:
            self._proven = self.journal.raise_number(self._fact, 1) > 0
        if self.lost:
            self.log.info("the controller {controller} answers again", controller=self.controller)
            self.lost = False
            self.noticed()

    def _failed(self, failure: Failure) -> None:
        self.log.failure("cannot ask the controller", failure)


def tcp(reactor: Any, address: str, known: Mapping[str, str]) -> Callable[[], Awaitable[bool]]:
    """Ask by a TCP connection that is closed at once. `known`: addresses of names, as the guests are told them."""
    name, port = split_address(address)
    endpoint = HostnameEndpoint(reactor, known.get(name, name), port, timeout=ANSWER_S)

    async def answers() -> bool:
        try:
            asking = endpoint.connect(Factory.forProtocol(Protocol)).addTimeout(
                ASKED_S, reactor
            )  # and its name's lookup
            protocol = cast(Protocol, await asking)
        except ConnectionRefusedError:
            return True
        except Exception:  # whatever keeps the answer away: none came
            return False
        cast(ITCPTransport, protocol.transport).abortConnection()
        return True

    return answers
