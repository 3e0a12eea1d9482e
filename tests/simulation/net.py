"""A network in memory under the real link: streams of bytes with delay, pieces, resets, silence and walls.

TLS is left out (tests/unit/protocol proves it): `without_tls` puts a plain wrapper in its place, and the identity a
certificate would prove is the machine's own name.
"""

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.python.failure import Failure

from protocol.tls import Identity, Role
from tests.simulation.clock import Crash, Life, World

HIGH_WATER = 65536


class Path:
    """The way between one bait and one host."""

    def __init__(self) -> None:
        self.delay_s = 0.001
        self.jitter_s = 0.001
        self.pieces = 0
        """Greater than 0: data arrives in pieces of at most so many bytes."""
        self.walls: set[Role] = set()
        """Data of these ends does not get through for now."""
        self.pipes: list[Pipe] = []

    def mend(self) -> None:
        """Nothing is in the way any more."""
        self.walls.clear()
        self.delay_s, self.jitter_s, self.pieces = 0.001, 0.001, 0
        for pipe in tuple(self.pipes):
            pipe.go_on()


class Pipe:
    """One end of a connection, as Twisted's transport."""

    disconnecting = False

    def __init__(self, net: "Net", path: Path, life: Life, role: Role, identity: Identity) -> None:
        self.net = net
        self.path = path
        self.life = life
        self.role = role
        self.identity = identity
        """Who the other end is, as its certificate would prove."""
        self.protocol: Any = None
        self.peer: Pipe
        self.closed = False
        self.lost = False
        """The other end will never hear anything of this one any more, nor this one of it."""
        self._out: deque[bytes] = deque()
        self._size = 0
        self._moving = False
        self._producer: Any = None

    # --- ITransport ---

    def write(self, data: bytes) -> None:
        self.life.point("before-send")
        if self.closed or self.disconnecting:
            return
        self._out.append(data)
        self._size += len(data)
        if self._producer is not None and self._size > HIGH_WATER:
            self._producer.pauseProducing()
        self._move()
        self.life.point("after-send")

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self._move()

    def abortConnection(self) -> None:
        self._out.clear()
        self.net.world.callLater(0.0, self.end, ConnectionLost())

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 1)

    getHost = getPeer  # noqa: N815 - Twisted's name

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    # --- the wire ---

    def _move(self) -> None:
        if not self._moving and not self.closed:
            self._moving = True
            delay = self.path.delay_s + self.path.jitter_s * self.net.rng.random()
            self.net.world.callLater(delay, self._arrive)

    def go_on(self) -> None:
        """A wall may have gone."""
        if self._out or self.disconnecting:
            self._move()

    def _arrive(self) -> None:
        self._moving = False
        if self.closed or self.lost or self.role in self.path.walls:
            return
        if not self._out:
            if self.disconnecting:
                self.end(ConnectionDone())
            return
        data = self._take()
        if not self.peer.closed:
            self.peer.hear(data)
        if self._producer is not None and self._size <= HIGH_WATER // 2:
            self.call(self._producer.resumeProducing)
        if self._out or self.disconnecting:
            self._move()

    def _take(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        if self.path.pieces and len(data) > 1:
            size = self.net.rng.randint(1, min(len(data), self.path.pieces))
            if size < len(data):
                self._out.append(data[size:])
                data = data[:size]
        self._size -= len(data)
        return data

    def hear(self, data: bytes) -> None:
        self.call(self.protocol.dataReceived, data)

    def call(self, what: Callable[..., Any], *args: Any) -> None:
        """Call into the daemon at this end, if it lives."""
        if self.life.dead:
            return
        with contextlib.suppress(Crash):
            what(*args)

    def end(self, why: Exception) -> None:
        """The connection is over for this end; the other hears of it if anything gets through."""
        if self.closed:
            return
        self.closed = True
        if self in self.path.pipes:
            self.path.pipes.remove(self)
        if not (self.lost or self.role in self.path.walls):
            self.net.world.callLater(self.path.delay_s, self.peer.end, why)
        if self.protocol is not None:
            self.call(self.protocol.connectionLost, Failure(why))  # type: ignore[no-untyped-call]


class Port:
    """A listening port."""

    def __init__(self, net: "Net", life: Life, address: str, factory: Any) -> None:
        self.net = net
        self.life = life
        self.address = address
        self.factory = factory

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.address, 9610)

    def stopListening(self) -> "Deferred[None]":
        self.net.ports.pop(self.address, None)
        return succeed(None)


class Net:
    """All machines' network."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.ports: dict[str, Port] = {}
        self.paths: dict[tuple[str, str], Path] = {}
        self._paths_of: dict[str, list[Path]] = {}

    def path(self, bait: str, host: str) -> Path:
        """The way between these two."""
        if (bait, host) not in self.paths:
            path = self.paths[bait, host] = Path()
            for name in (bait, host):
                self._paths_of.setdefault(name, []).append(path)
        return self.paths[bait, host]

    def listen(self, life: Life, address: str, port: int, factory: Any) -> Port:
        self.ports[address] = Port(self, life, address, factory)
        return self.ports[address]

    def gone(self, life: Life, *, silently: bool = False) -> None:
        """That process is gone; `silently`: with its whole machine, so that nobody is told."""
        port = self.ports.get(life.name)
        if port is not None and port.life is life:
            del self.ports[life.name]
        for path in self._paths_of.get(life.name, ()):
            for pipe in tuple(path.pipes):
                if pipe.life is life:
                    pipe.lost = pipe.peer.lost = silently
                    pipe.end(ConnectionLost())

    def end(self) -> None:
        """There is no network any more."""
        self._paths_of.clear()

    def reset(self, path: Path) -> None:
        """Connections break, and both ends hear of it."""
        for pipe in tuple(path.pipes):
            pipe.end(ConnectionLost())

    def half_open(self, path: Path) -> None:
        """Connections break, and nobody hears of it."""
        for pipe in path.pipes:
            pipe.lost = True

    def connect(self, life: Life, address: str, timeout: float, factory: Any) -> "Deferred[Any]":
        """A bait's attempt."""
        path = self.path(life.name, address)
        attempt: Deferred[Any] = Deferred(lambda d: None)
        if path.walls:
            life.callLater(timeout, self._fail, attempt, TimeoutError())  # type: ignore[no-untyped-call]
        else:
            life.callLater(path.delay_s * 2 + 0.001, self._open, life, address, path, attempt, factory)
        return attempt

    @staticmethod
    def _fail(attempt: "Deferred[Any]", why: Exception) -> None:
        if not attempt.called:
            attempt.errback(Failure(why))  # type: ignore[no-untyped-call]

    def _open(self, life: Life, address: str, path: Path, attempt: "Deferred[Any]", factory: Any) -> None:
        port = self.ports.get(address)
        if port is None or port.life.dead:
            self._fail(attempt, ConnectionRefusedError())  # type: ignore[no-untyped-call]
            return
        if attempt.called:
            return
        near = Pipe(self, path, life, Role.BAIT, Identity(Role.HOST, address))
        far = Pipe(self, path, port.life, Role.HOST, Identity(Role.BAIT, life.name))
        near.peer, far.peer = far, near
        path.pipes += [near, far]
        for pipe, maker in ((far, port.factory), (near, factory)):
            pipe.protocol = maker.buildProtocol(pipe.getPeer())
            pipe.call(pipe.protocol.makeConnection, pipe)
        attempt.callback(near.protocol)
        for pipe in (far, near):
            self.world.callLater(path.delay_s * 2, self._secured, pipe)

    @staticmethod
    def _secured(pipe: Pipe) -> None:
        if not pipe.closed and not pipe.life.dead:
            pipe.call(pipe.protocol.handshakeCompleted)


class _Plain:
    """Stands where TLSMemoryBIOFactory stands."""

    noisy = False

    def __init__(self, tls: object, is_client: bool, factory: Any, clock: object = None) -> None:
        self.buildProtocol = factory.buildProtocol


class _Endpoint:
    """Stands where HostnameEndpoint stands."""

    def __init__(self, reactor: Life, address: str, port: int, timeout: float) -> None:
        self._reactor, self._address, self._timeout = reactor, address, timeout

    def connect(self, factory: Any) -> "Deferred[Any]":
        found: Deferred[Any] = self._reactor.net.connect(self._reactor, self._address, self._timeout, factory)
        return found


class NoTls:
    """Stands where protocol.tls.Tls stands: everybody is who he says."""

    def require(self, role: Role, name: str) -> None:
        """There is no certificate to look at."""


@contextlib.contextmanager
def without_tls() -> Iterator[None]:
    """While it lasts, the link's two ends talk over this network."""
    with contextlib.ExitStack() as stack:
        for where in ("protocol.baitend", "protocol.hostend"):
            stack.enter_context(mock.patch(f"{where}.TLSMemoryBIOFactory", _Plain))
        stack.enter_context(mock.patch("protocol.baitend.HostnameEndpoint", _Endpoint))
        stack.enter_context(mock.patch("protocol.connection.peer_identity", lambda transport: transport.identity))
        yield
