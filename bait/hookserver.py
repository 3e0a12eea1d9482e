"""The bait's end of the job starter's question: who asks is the kernel's word (SO_PEERCRED), the rest is a claim.

One connection is one question and one answer, each a line of JSON. Whatever goes wrong, a starter that is still
there gets an answer, and in doubt that answer is "hand-back".
"""

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from wnod import unixsocket
from wnod.logs import Sparing

LINE_LIMIT = 1024
TEXT_LIMIT = 500
BACKLOG = 1024

Word = Literal["park", "hand-back", "refuse"]
"""What a starter can be told. The words are the wire format."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one starter; the text of a refusal is written into the job's error file."""

    answer: Word
    text: str = ""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a starter claims. Nothing of it is true before the LRMS says so."""

    version: Literal[1]
    job: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")]
    task: Annotated[int, Meta(ge=0, le=2**31)] | None
    restart: Annotated[int, Meta(ge=0, le=2**31)]
    step: Literal["batch"]


_QUESTION = msgspec.json.Decoder(Question)


@dataclass(slots=True)  # not frozen: making a frozen one takes three times as long
class HookCall:
    """One starter that waits for an answer."""

    job: str
    task: int | None
    restart: int
    uid: int
    """From the kernel."""
    gone: "Deferred[None]" = field(default_factory=Deferred, compare=False)
    """Fires when the starter is gone, answered or not; `gone.called` is the flag."""


Intercepted = Callable[[HookCall], Coroutine[Any, Any, Answer]]


def peer_uid(transport: Any) -> int:
    """The uid of the process at the other end of a Unix socket, as the kernel knows it."""
    return unixsocket.peer_uid(transport.socket)


class HookServer:
    """Listens at `path` (mode 0666: every user's jobs ask here) and calls `intercepted` for each question.

    `limit_s` after the question the starter is told "hand-back" and `intercepted` is cancelled; the same answer
    goes out at once if `intercepted` raises, if the line is malformed or late, or if there are too many
    connections (of one uid, or in all).
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        intercepted: Intercepted,
        limit_s: float = 15.0,
        *,
        per_uid: int = 600,
        in_all: int = 2000,
        line_s: float = 5.0,
        uid_of: Callable[[Any], int] = peer_uid,
    ) -> None:
        self.reactor = reactor
        self.intercepted = intercepted
        self.limit_s = limit_s
        self.line_s = line_s
        self.uid_of = uid_of
        self.sparing = Sparing(reactor)
        self.answered: Callable[[float], None] = lambda seconds: None
        """Called when a starter has hung up, with the seconds from its question to its answer, if not to its end."""
        self._path = path
        self._per_uid = per_uid
        self._in_all = in_all
        self._connections: Counter[int] = Counter()
        self._open: set[_Connection] = set()
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Listen. A socket that a dead predecessor left is replaced; anything else at the path is an OSError."""
        unixsocket.remove_socket(self._path)
        self._port = self.reactor.listenUNIX(self._path, self.factory(), backlog=BACKLOG, mode=0o666)

    async def stop(self) -> None:
        """Hand back whoever still waits, and stop listening."""
        for connection in tuple(self._open):
            connection.tell(Answer("hand-back", "the bait daemon is stopping"))
        if self._port is not None:
            port, self._port = self._port, None
            stopped = port.stopListening()
            if stopped is not None:
                await stopped

    def factory(self) -> ServerFactory:
        """What listens; separate so that tests can connect in memory."""
        return _Starters(self)

    def waiting(self) -> int:
        """How many starters are connected now."""
        return len(self._open)

    def entered(self, connection: "_Connection", uid: int) -> bool:
        """Counts a connection in; False if there are too many."""
        self._open.add(connection)
        self._connections[uid] += 1
        return self._connections[uid] <= self._per_uid and len(self._open) <= self._in_all

    def left(self, connection: "_Connection", uid: int) -> None:
        """Counts a connection out."""
        self._open.discard(connection)
        self._connections[uid] -= 1
        if not self._connections[uid]:
            del self._connections[uid]


class _Connection(LineOnlyReceiver):
    """One starter."""

    delimiter = b"\n"
    MAX_LENGTH = LINE_LIMIT
    log = Logger(namespace="bait.hookserver")

    def __init__(self, server: HookServer) -> None:
        self._server = server
        self._uid = -1
        self._call: HookCall | None = None
        self._deciding: Deferred[Answer] | None = None
        self._timer: Any = None
        self._asked_at = 0.0
        self._told_at: float | None = None
        self._answered = False

    def connectionMade(self) -> None:  # noqa: N802 (Twisted's name)
        self._uid = self._server.uid_of(self.transport)
        self._timer = self._server.reactor.callLater(self._server.line_s, self._late)
        if not self._server.entered(self, self._uid):
            self._doubt("too many connections")

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 (Twisted's name)
        if self._answered or self._call is not None:
            return self._doubt("more than one question")
        try:
            asked = _QUESTION.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
            return self._doubt(f"question not understood: {error}")
        self._asked_at = self._server.reactor.seconds()
        self._timer.reset(self._server.limit_s)
        self._call = HookCall(asked.job, asked.task, asked.restart, self._uid)
        self._deciding = Deferred.fromCoroutine(self._server.intercepted(self._call))
        self._deciding.addCallbacks(self.tell, self._failed)
        return None

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 (Twisted's name)
        self._doubt(f"question longer than {LINE_LIMIT} bytes")

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 (Twisted's name)
        if self._timer.active():
            self._timer.cancel()
        self._server.left(self, self._uid)
        if self._call is not None and not self._call.gone.called:
            self._call.gone.callback(None)
            # Counted when nobody waits for it any more.
            self._server.answered((self._told_at or self._server.reactor.seconds()) - self._asked_at)

    def tell(self, answer: Answer) -> None:
        """Answer once; what comes later is dropped."""
        if self._answered:
            return
        self._answered = True
        self._told_at = self._server.reactor.seconds()
        if self._deciding is not None and not self._deciding.called:
            self._deciding.cancel()
        transport: Any = self.transport
        if transport is not None:
            short = Answer(answer.answer, answer.text[:TEXT_LIMIT])
            # At once, not when the reactor finds the socket writable: an answer always fits its empty buffer.
            transport.writeSomeData(msgspec.json.encode(short) + b"\n")
            # In the next turn: of many who are answered in this one nobody waits while another is hung up on.
            self._server.reactor.callLater(0, transport.loseConnection)

    def _late(self) -> None:
        self._doubt("no question came in time" if self._call is None else "no decision in time")

    def _doubt(self, why: str) -> None:
        """Hand back because of the starter or the clock, not because anybody decided so."""
        if not self._answered:
            if self._server.sparing.due(self._uid):
                self.log.warn("hook: uid {uid}: {why}; handed back", uid=self._uid, why=why, call=self._call)
            self.tell(Answer("hand-back", why))

    def _failed(self, failure: Failure) -> None:
        if self._answered and isinstance(failure.value, CancelledError):
            return
        self.log.failure("hook: {call} could not be decided; handed back", failure, call=self._call)
        self.tell(Answer("hand-back", "the bait could not decide"))


class _Starters(ServerFactory):
    noisy = False

    def __init__(self, server: HookServer) -> None:
        self._server = server

    def buildProtocol(self, addr: Any) -> _Connection:  # noqa: N802 (Twisted's name)
        return _Connection(self._server)
