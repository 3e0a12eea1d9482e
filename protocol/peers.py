"""What both ends of the link share: whom they tell, how they log, and which connections they have."""

from collections.abc import Callable
from typing import Any, Final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from protocol.connection import Connection, Times
from protocol.errors import TheirMistake
from protocol.messages import Code, SrvMsg

DEFAULT_TIMES: Final = Times()
SAY_AGAIN_S: Final = 60.0

# Needs IReactorTime and IReactorTCP, and name resolution on a bait; zope has no type for both at once.
Reactor = Any


class Listener(Interface):
    """What a daemon hears. Calls are never concurrent; connected and disconnected alternate for each peer."""

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """The peer is there. `resumed` false: what was sent and not answered is gone; send state anew."""

    def received(self, peer: str, message: SrvMsg) -> None:
        """One message. TheirMistake raised here ends the session with its code, anything else with INTERNAL."""

    def disconnected(self, peer: str) -> None:
        """The peer is not there; what is sent now waits for it."""


def parse_address(address: str) -> tuple[str, int]:
    """Split "addr:port" or "[v6]:port". Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"address {address!r}: expected NAME:PORT, ADDRESS:PORT or [ADDRESS]:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


class SparingLog:
    """Logs; the same thing about the same peer at most once per SAY_AGAIN_S."""

    def __init__(self, reactor: Reactor) -> None:
        self._log = Logger(namespace="protocol.link")
        self._reactor = reactor
        self._said: dict[tuple[str, str], float] = {}

    def warn(self, peer: str, why: str) -> None:
        """Something to look at."""
        now: float = self._reactor.seconds()
        if now - self._said.get((peer, why), -SAY_AGAIN_S) < SAY_AGAIN_S:
            return
        if len(self._said) > 1000:
            self._said.clear()
        self._said[(peer, why)] = now
        self._log.warn("peer {peer}: {why}", peer=peer, why=why)

    def info(self, peer: str, what: str) -> None:
        """Something that is as it should be; never left out."""
        self._log.info("peer {peer}: {what}", peer=peer, what=what)

    def failure(self, peer: str) -> None:
        """A bug on this side, with the exception that is being handled; never left out."""
        self._log.failure("peer {peer}: a message of it failed here", peer=peer)


class Connections(Factory):
    """Makes connections for one end and knows all of them until they are gone."""

    noisy = False

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._all: set[Connection] = set()
        self._waiting: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> Connection:  # noqa: N802 - Twisted's name
        """One connection more."""
        connection = self._make()
        self._all.add(connection)
        return connection

    def gone(self, connection: Connection) -> None:
        """Its connectionLost was called."""
        self._all.discard(connection)
        while not self._all and self._waiting:
            self._waiting.pop().callback(None)

    def close(self) -> Deferred[None]:
        """Close all; fires when none is left."""
        for connection in list(self._all):
            connection.leave("this daemon stops")
        if not self._all:
            return succeed(None)
        self._waiting.append(Deferred())
        return self._waiting[-1]


def tell(log: SparingLog, peer: str, listener_hears: Callable[[], None]) -> None:
    """Call the daemon. Whatever goes wrong there ends this peer's session and nobody else's: TheirMistake."""
    try:
        listener_hears()
    except TheirMistake:
        raise
    except Exception as e:
        log.failure(peer)
        raise TheirMistake("a message failed at the receiver; its log says more", Code.INTERNAL) from e


def tell_of_loss(log: SparingLog, peer: str, listener: Listener) -> None:
    """Call `disconnected`. There is no session left to end, so a failure is only logged."""
    try:
        listener.disconnected(peer)
    except Exception:
        log.failure(peer)
