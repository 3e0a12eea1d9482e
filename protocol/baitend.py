"""BaitEnd: a bait keeps a connection to its hostmaster and talks with it."""

import random
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from protocol.connection import Connection, Times
from protocol.errors import TheirMistake
from protocol.framing import MAX_LENGTH
from protocol.ids import BaitName, HostName, SessionId
from protocol.messages import Code, Error, SrvMsg, Welcome
from protocol.peers import DEFAULT_TIMES, Connections, Listener, Reactor, SparingLog, parse_address, tell, tell_of_loss
from protocol.session import BaitSession, Overflow, read_answer
from protocol.tls import Identity, Role, Tls

FIRST_DELAY_S: Final = 0.25
MAX_DELAY_S: Final = 10.0
REFUSED_DELAY_S: Final = 30.0


class BaitEnd:
    """A bait's end: keeps connecting to its one hostmaster, with growing, jittered delays."""

    def __init__(  # noqa: PLR0913, PLR0917 - one call in the daemon, one in each test
        self, reactor: Reactor, tls: Tls, address: str, name: BaitName, epoch: int, host: HostName,
        listener: Listener, times: Times = DEFAULT_TIMES, rng: random.Random | None = None,
    ) -> None:  # fmt: skip
        """`address` is the hostmaster's "addr:port", `host` the name its certificate must have."""
        tls.require(Role.BAIT, name)
        self._reactor = reactor
        self._tls = tls
        self._endpoint = HostnameEndpoint(reactor, *parse_address(address), timeout=times.handshake_s)
        self._name = name
        self._epoch = epoch
        self._host = host
        self._listener = listener
        self._times = times
        self._rng = rng if rng is not None else random.SystemRandom()
        self._log = SparingLog(reactor)
        self._connections = Connections(lambda: Connection(reactor, times, self, MAX_LENGTH))
        self._session = self._new_session()
        self._live: Connection | None = None
        self._running = False
        self._failures = 0
        self._refused = False
        self._attempt: Deferred[Any] | None = None
        self._next: Any = None

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost, until stop()."""
        self._running = True
        self._connect()

    def stop(self) -> Deferred[None]:
        """Disconnect for good. Fires when the connection is gone."""
        self._running = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._attempt is not None:
            self._attempt.cancel()
        return self._connections.close()

    def send(self, message: SrvMsg) -> None:
        """Say it to the hostmaster, now or when it is back; dropped if no session has begun.

        A session that is lost meanwhile drops it too: connected(resumed=False) says so. Raises OurMistake.
        """
        if not self._session.established:
            return
        try:
            self._session.send(message)
        except Overflow as e:
            self._lose(e.code, str(e))
        else:
            if self._live is not None:
                self._live.flush()

    @property
    def connected(self) -> bool:
        """True while the hostmaster is there."""
        return self._live is not None

    # --- Owner ---

    def secured(self, connection: Connection) -> None:
        """Only our host may hear our Hello."""
        expected = Identity(Role.HOST, self._host)
        if connection.identity != expected:
            raise TheirMistake(f"{connection.identity} answered, expected {expected}", Code.WRONG_PEER)
        connection.open(self._session.hello())

    def opened(self, connection: Connection, body: bytes) -> None:
        """The hostmaster's answer to Hello."""
        match read_answer(body):
            case Error() as error:
                self._farewell(connection, error)
            case Welcome() as welcome:
                self._welcomed(connection, welcome)

    def said(self, connection: Connection, message: SrvMsg) -> None:
        """One message of the hostmaster."""
        if isinstance(message, Error) and message.id is None:
            self._farewell(connection, message)
        else:
            tell(self._log, self._host, lambda: self._listener.received(self._host, message))

    def mistaken(self, connection: Connection, mistake: TheirMistake) -> None:
        """Close; the session is over."""
        self._log.warn(self._host, f"refused ({mistake.code}): {mistake}")
        self._session = self._new_session()
        self._refused = True
        connection.close(mistake.code, str(mistake))

    def ended(self, connection: Connection, why: str) -> None:
        """The connection is gone: try again later."""
        self._connections.gone(connection)
        self._log.warn(self._host, f"not connected: {why}")
        if self._live is connection:
            self._live = None
            tell_of_loss(self._log, self._host, self._listener)
        self._later()

    # --- inside ---

    def _welcomed(self, connection: Connection, welcome: Welcome) -> None:
        if welcome.name != self._host:
            raise TheirMistake(f"welcomed by {welcome.name!r}, expected {self._host!r}", Code.WRONG_PEER)
        resumed = self._session.welcomed(welcome)
        self._failures = 0
        self._live = connection
        connection.join(self._session)
        connection.acknowledge()  # proves that the Welcome was heard
        self._log.info(self._host, f"connected to {connection.address}, resumed: {resumed}")
        tell(self._log, self._host, lambda: self._listener.connected(self._host, welcome.epoch, resumed))

    def _farewell(self, connection: Connection, error: Error) -> None:
        self._log.warn(self._host, f"closes ({error.code}): {error.text}")
        self._refused = error.code is not Code.SESSION_LOST
        connection.leave(f"{error.code}: {error.text}")

    def _lose(self, code: Code, why: str) -> None:
        self._log.warn(self._host, f"session given up: {why}")
        self._session = self._new_session()
        if self._live is not None:
            self._live.close(code, why)

    def _new_session(self) -> BaitSession:
        return BaitSession(SessionId(f"{self._rng.getrandbits(128):032x}"), self._name, self._epoch)

    def _connect(self) -> None:
        self._next = None
        factory = TLSMemoryBIOFactory(self._tls, True, self._connections, clock=self._reactor)
        factory.noisy = False
        self._attempt = self._endpoint.connect(factory)
        self._attempt.addCallbacks(self._tcp_is_up, self._no_connection)

    def _tcp_is_up(self, _: object) -> None:
        self._attempt = None

    def _no_connection(self, failure: Failure) -> None:
        self._attempt = None
        self._log.warn(self._host, f"no connection: {failure.getErrorMessage()}")
        self._later()

    def _later(self) -> None:
        if not self._running or self._next is not None:
            return
        self._next = self._reactor.callLater(self._delay(), self._connect)
        self._failures += 1
        self._refused = False

    def _delay(self) -> float:
        """Half to one and a half of a time that doubles with each failure; long after a refusal."""
        base = REFUSED_DELAY_S if self._refused else min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures, 10))
        return base * (0.5 + self._rng.random())
