"""HostEnd: a hostmaster listens for its baits and talks with each of them."""

from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.protocols.tls import TLSMemoryBIOFactory

from protocol.connection import Connection, Times
from protocol.errors import TheirMistake
from protocol.framing import FIRST_LENGTH
from protocol.ids import HostName
from protocol.messages import Code, Error, Hello, SrvMsg
from protocol.peers import DEFAULT_TIMES, Connections, Listener, Reactor, SparingLog, parse_address, tell, tell_of_loss
from protocol.session import HostSession, Overflow, answer, read_hello
from protocol.tls import Role, Tls

MAX_PENDING: Final = 128
"""Connections that have not said Hello; the oldest gives way to the next, so a flood cannot lock baits out."""


class HostEnd:
    """A hostmaster's end: one session and at most one connection for each bait; the newest connection wins."""

    def __init__(
        self, reactor: Reactor, tls: Tls, address: str, name: HostName, epoch: int, baits: frozenset[str],
        listener: Listener, times: Times = DEFAULT_TIMES,
    ) -> None:  # fmt: skip
        """`address` is "addr:port" to listen on, `baits` who may connect. Raises TlsMistake, ValueError."""
        tls.require(Role.HOST, name)
        self.baits = baits
        self._reactor = reactor
        self._tls = tls
        self._address = parse_address(address)
        self._name = name
        self._epoch = epoch
        self._listener = listener
        self._times = times
        self._log = SparingLog(reactor)
        self._connections = Connections(self._make)
        self._port: IListeningPort | None = None
        self._pending: dict[Connection, None] = {}
        self._live: dict[str, Connection] = {}
        self._sessions: dict[str, HostSession] = {}

    def start(self) -> Deferred[int]:
        """Listen. Fires with the port number, or fails with CannotListenError."""
        return maybeDeferred(self._listen)

    def stop(self) -> Deferred[None]:
        """Stop listening and close all connections. Fires when the last is gone."""
        port, self._port = self._port, None
        return Deferred.fromCoroutine(self._close(port))

    def send(self, bait: str, message: SrvMsg) -> None:
        """Say it to this bait, now or when it is back; dropped if there is no session with it.

        A session that is lost meanwhile drops it too: connected(resumed=False) says so. Raises OurMistake.
        """
        session = self._sessions.get(bait)
        if session is None:
            return
        try:
            session.send(message)
        except Overflow as e:
            self._lose(bait, e.code, str(e))
        else:
            if bait in self._live:
                self._live[bait].flush()

    def permit(self, baits: frozenset[str]) -> None:
        """From now on exactly these baits may connect; others that are connected are cut off."""
        self.baits = baits
        for bait in [bait for bait in self._sessions if bait not in baits]:
            self._lose(bait, Code.WRONG_PEER, f"not a bait of host {self._name} any more")

    def connected_baits(self) -> frozenset[str]:
        """Who is there now."""
        return frozenset(self._live)

    # --- Owner ---

    def secured(self, connection: Connection) -> None:
        """Only a bait of ours may go on."""
        identity = connection.identity
        if identity is None or identity.role is not Role.BAIT or identity.name not in self.baits:
            raise TheirMistake(f"{identity} is not a bait of host {self._name}", Code.WRONG_PEER)

    def opened(self, connection: Connection, body: bytes) -> None:
        """The bait's Hello."""
        hello = read_hello(body)
        self._check(connection, hello)
        session, welcome = answer(hello, self._sessions.get(hello.name), self._name, self._epoch)
        self._replace(hello.name)
        self._pending.pop(connection, None)
        self._live[hello.name] = connection
        self._sessions[hello.name] = session
        connection.open(welcome)
        connection.join(session)
        self._log.info(hello.name, f"connected from {connection.address}, resumed: {welcome.resumed}")
        tell(self._log, hello.name, lambda: self._listener.connected(hello.name, hello.epoch, welcome.resumed))

    def said(self, connection: Connection, message: SrvMsg) -> None:
        """One message of a bait."""
        bait = self._who(connection)
        if isinstance(message, Error) and message.id is None:
            self._log.warn(bait, f"closes ({message.code}): {message.text}")
            connection.leave(f"{message.code}: {message.text}")
        else:
            tell(self._log, bait, lambda: self._listener.received(bait, message))

    def mistaken(self, connection: Connection, mistake: TheirMistake) -> None:
        """Close; if it was in a session, the session is over."""
        self._log.warn(self._who(connection), f"refused ({mistake.code}): {mistake}")
        if self._live.get(self._who(connection)) is connection:
            self._sessions.pop(self._who(connection), None)
        connection.close(mistake.code, str(mistake))

    def ended(self, connection: Connection, why: str) -> None:
        """The connection is gone; the session stays for the next."""
        self._pending.pop(connection, None)
        self._connections.gone(connection)
        bait = self._who(connection)
        if self._live.get(bait) is connection:
            del self._live[bait]
            self._log.warn(bait, f"disconnected: {why}")
            tell_of_loss(self._log, bait, self._listener)
        elif connection.session is None:
            self._log.warn(bait, f"gone before it was let in: {why}")

    # --- inside ---

    async def _close(self, port: IListeningPort | None) -> None:
        if port is not None:
            await maybeDeferred(port.stopListening)
        await self._connections.close()

    def _listen(self) -> int:
        address, port = self._address
        factory = TLSMemoryBIOFactory(self._tls, False, self._connections, clock=self._reactor)
        factory.noisy = False
        listening: Any = self._reactor.listenTCP(port, factory, interface=address)
        self._port = listening
        bound: int = listening.getHost().port
        return bound

    def _make(self) -> Connection:
        if len(self._pending) >= MAX_PENDING:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.abort("too many connections that say nothing")
        connection = Connection(self._reactor, self._times, self, FIRST_LENGTH)
        self._pending[connection] = None
        return connection

    def _who(self, connection: Connection) -> str:
        return connection.identity.name if connection.identity is not None else connection.address

    def _check(self, connection: Connection, hello: Hello) -> None:
        identity = connection.identity
        if identity is None or hello.name != identity.name:
            raise TheirMistake(f"{identity} says it is {hello.name!r}", Code.WRONG_PEER)
        if hello.name not in self.baits:
            raise TheirMistake(f"{identity} is not a bait of host {self._name} any more", Code.WRONG_PEER)
        known = self._sessions.get(hello.name)
        if hello.name in self._live and known is not None and hello.epoch < known.epoch:
            raise TheirMistake(f"epoch {hello.epoch}, but epoch {known.epoch} is connected", Code.WRONG_PEER)

    def _replace(self, bait: str) -> None:
        if bait in self._live:
            self._live.pop(bait).close(Code.SUPERSEDED, "a newer connection of this bait has taken over")
            tell_of_loss(self._log, bait, self._listener)

    def _lose(self, bait: str, code: Code, why: str) -> None:
        del self._sessions[bait]
        self._log.warn(bait, f"session given up: {why}")
        if bait in self._live:
            self._live[bait].close(code, why)
