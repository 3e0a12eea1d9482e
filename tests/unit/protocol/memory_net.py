"""A network in memory for the link: TCP connections as byte queues, real TLS above them, a Clock for the time.

It can refuse, cut, swallow (half-open) and chop into small pieces; nothing happens until settle() or advance().
"""

import datetime as dt
import random
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IConsumer, ITCPTransport
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from protocol.link import Identity, Role, Tls
from protocol.messages import SrvMsg
from wnod import pki

HIGH_WATER = 65536


class Authority:
    """A certificate authority in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        pki.create_authority(directory, dt.datetime.now(dt.UTC))

    def tls(self, role: Role, name: str, issued_ago: dt.timedelta = dt.timedelta(0), days: int = 398) -> Tls:
        made = pki.issue(self.directory, Identity(role, name), dt.datetime.now(dt.UTC) - issued_ago, days)
        return Tls(self.directory / "ca.pem", made.certificate, made.key)

    def host(self, name: str = "h1") -> Tls:
        return self.tls(Role.HOST, name)

    def bait(self, name: str = "bait-h1") -> Tls:
        return self.tls(Role.BAIT, name)


_authorities: dict[str, Authority] = {}
_scratch = tempfile.TemporaryDirectory()


def authority(name: str = "site") -> Authority:
    """The same authority for the same name: keys take time to make."""
    if name not in _authorities:
        _authorities[name] = Authority(Path(_scratch.name) / name)
    return _authorities[name]


@implementer(ITCPTransport, IConsumer)
class Pipe:
    """One side of a TCP connection."""

    disconnecting = False

    def __init__(self, net: "Net", protocol: Any) -> None:
        self.net = net
        self.protocol = protocol
        self.peer: Pipe
        self.outgoing = bytearray()
        self.closed = False
        self.aborted = False
        self.producer: Any = None
        self.reads = True

    def write(self, data: bytes) -> None:
        if not self.closed and not self.disconnecting:
            self.outgoing += data
            if self.producer is not None and len(self.outgoing) > HIGH_WATER:
                self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 1)

    def getHost(self) -> IPv4Address:
        return self.getPeer()

    def step(self) -> bool:
        """Move one piece of data or one end of connection; False if there is nothing to do."""
        if self.closed:
            return False
        if self.aborted or (self.disconnecting and not self.outgoing):
            self._end(ConnectionDone() if not self.aborted else ConnectionLost())
            return True
        return self._deliver()

    def _deliver(self) -> bool:
        if not self.outgoing or (not self.peer.reads and not self.net.swallow):
            return False
        size = self.net.rng.randint(1, self.net.piece) if self.net.piece else len(self.outgoing)
        piece = bytes(self.outgoing[:size])
        del self.outgoing[:size]
        if not self.net.swallow and not self.peer.closed:
            self.peer.protocol.dataReceived(piece)
        if not self.outgoing and self.producer is not None:
            self.producer.resumeProducing()
        return True

    def _end(self, why: Exception) -> None:
        self.closed = True
        if not self.peer.closed and not self.net.swallow:
            self.peer.closed = True
            self.peer.protocol.connectionLost(Failure(why))
        self.protocol.connectionLost(Failure(why))

    def cut(self) -> None:
        """The connection breaks for both sides; what was on its way is lost."""
        if not self.closed:
            self._end(ConnectionLost())


class Net:
    """One listening end and any number of connecting ones."""

    def __init__(self, seed: int = 0) -> None:
        self.reactor = MemoryReactorClock()
        self.rng = random.Random(seed)
        self.pipes: list[tuple[Pipe, Pipe]] = []
        self.refuse = False
        self.swallow = False
        self.piece = 0
        self.tries: list[float] = []

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(100_000):
            self.reactor.advance(0)
            if not (self._connect() or self._step()):
                self.reactor.advance(0)
                if not (self._connect() or self._step()):
                    return
        raise AssertionError("the network never comes to rest")

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, in steps, settling after each."""
        for _ in range(round(seconds / step)):
            self.reactor.advance(step)
            self.settle()

    def cut(self) -> None:
        """Break every connection."""
        for client, _ in self.pipes:
            client.cut()
        self.settle()

    def open(self, client: Any) -> tuple[Pipe, Pipe]:
        """Connect any protocol to the listener."""
        address = IPv4Address("TCP", "192.0.2.1", 1)
        server = self.reactor.tcpServers[-1][1].buildProtocol(address)
        near, far = Pipe(self, client), Pipe(self, server)
        near.peer, far.peer = far, near
        self.pipes.append((near, far))
        server.makeConnection(far)
        client.makeConnection(near)
        return near, far

    def _connect(self) -> bool:
        if not self.reactor.tcpClients:
            return False
        factory = self.reactor.tcpClients.pop(0)[2]
        connector = self.reactor.connectors.pop(0)
        self.tries.append(self.reactor.seconds())
        if self.refuse or not self.reactor.tcpServers:
            factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))
        else:
            self.open(factory.buildProtocol(IPv4Address("TCP", "192.0.2.2", 9610)))
        return True

    def _step(self) -> bool:
        moved = [pipe.step() for pair in self.pipes for pipe in pair]
        self.pipes = [pair for pair in self.pipes if not (pair[0].closed and pair[1].closed)]
        return any(moved)


class Heard:
    """A Listener that writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.messages: list[tuple[str, SrvMsg]] = []
        self.fail: Exception | None = None
        self.fail_at = ""

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        self.events.append(("connected", peer, epoch, resumed))
        if self.fail_at == "connected":
            raise RuntimeError("a bug")

    def received(self, peer: str, message: SrvMsg) -> None:
        self.messages.append((peer, message))
        if self.fail is not None:
            raise self.fail

    def disconnected(self, peer: str) -> None:
        self.events.append(("disconnected", peer))
        if self.fail_at == "disconnected":
            raise RuntimeError("a bug")
