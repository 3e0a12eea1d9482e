"""What strangers may send, and what must hold whatever they send. A target raises only if a promise is broken."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.task import Clock

from bait.hookserver import LINE_LIMIT, Answer, HookCall, HookServer
from hostmaster.edges import guests
from protocol import guest
from protocol.connection import Connection, Times
from protocol.errors import TheirMistake
from protocol.framing import FIRST_LENGTH, HEADER, Frames, frame
from protocol.ids import BaitName, HostName, SessionId
from protocol.messages import Error, SrvMsg, Welcome
from protocol.session import BaitSession, HostSession, Session, Side, answer, read_answer, read_hello
from tests.fuzz.mutate import pieces

VECTORS: dict[str, Any] = json.loads(Path("tests/unit/protocol/vectors.json").read_text(encoding="utf-8"))
SESSION = SessionId("5e5510aa" * 4)
SENT = 1000
"""How far the sessions under test have come: acknowledgements of the vectors then fit."""


@dataclass(frozen=True)
class Target:
    """One kind of input. `check` takes the input and randomness for how it arrives; its outcome in a word or two."""

    name: str
    seeds: Sequence[bytes]
    check: Callable[[random.Random, bytes], str]
    share: float


def _frames(*keys: str) -> list[bytes]:
    return [bytes.fromhex(vector["hex"]) for key in keys for vector in VECTORS[key]]


def word_of(error: BaseException) -> str:
    """An outcome's name: the text without what differs from input to input."""
    text = str(error).split(" - at ", maxsplit=1)[0]
    return f"{type(error).__name__}: {''.join(c for c in text if c.isalpha() or c == ' ')[:60]}"


# --- frames -----------------------------------------------------------------------------------------------

LIMIT = 8192


def _fed(chunks: Sequence[bytes]) -> tuple[list[bytes], str]:
    frames = Frames(first=FIRST_LENGTH, limit=LIMIT)
    bodies: list[bytes] = []
    for chunk in chunks:
        try:
            bodies.extend(_kept(frames, chunk, bodies))
        except TheirMistake as error:
            assert len(frames) == 0, "bytes are held after a mistake"
            _refuses_for_ever(frames)
            return bodies, word_of(error)
        assert len(frames) < HEADER + LIMIT, "more than one frame is held"
    return bodies, "waits" if len(frames) else "whole"


def _kept(frames: Frames, chunk: bytes, bodies: list[bytes]) -> Iterator[bytes]:
    for body in frames.feed(chunk):
        bodies.append(body)
    yield from ()


def _refuses_for_ever(frames: Frames) -> None:
    for more in (b"", frame(b"{}")):
        try:
            list(frames.feed(more))
        except TheirMistake:
            continue
        raise AssertionError("reads on after a mistake")


def check_frames(rng: random.Random, data: bytes) -> str:
    """Only TheirMistake; any chunks give the same bodies; no more than a frame is held."""
    whole = _fed([data])
    assert _fed(pieces(rng, data)) == whole, "the chunks make a difference"
    return f"{min(len(whole[0]), 3)} bodies, {whole[1]}"


# --- sessions ---------------------------------------------------------------------------------------------


def _session(side: Side) -> Session:
    session = HostSession(SESSION, 1) if side is Side.HOST else BaitSession(SESSION, BaitName("bait-h1"), 1)
    session.sent = SENT
    return session


def check_session(rng: random.Random, data: bytes) -> str:
    """Only TheirMistake, and the counts stay in order, whichever side reads it; what was read can be said again."""
    said = []
    for side in Side:
        session = _session(side)
        session.seen = rng.choice((0, 0, 6, 40, 99))
        before = session.seen
        try:
            message = session.receive(data)
        except TheirMistake as error:
            said.append(word_of(error))
        else:
            said.append(type(message).__name__)
            if message is not None:
                assert msgspec.json.decode(msgspec.json.encode(message), type=type(message)) == message
        assert 0 <= session.acked <= session.sent == SENT
        assert before <= session.seen <= before + 1
    return " | ".join(said)


def check_opening(rng: random.Random, data: bytes) -> str:
    """Only TheirMistake from the first frame, and from what follows of it."""
    said = []
    try:
        session, welcome = answer(read_hello(data), None, HostName("h1"), 3)
        assert (session.seen, welcome.resumed) == (0, False)
        said.append("hello")
    except TheirMistake as error:
        said.append(word_of(error))
    try:
        opening = read_answer(data)
        if isinstance(opening, Welcome):
            BaitSession(SESSION, BaitName("bait-h1"), 7).welcomed(opening)
        said.append(type(opening).__name__)
    except TheirMistake as error:
        said.append(word_of(error))
    return " | ".join(said)


# --- connections ------------------------------------------------------------------------------------------


class _Transport:
    """As much of a transport as a connection needs."""

    def __init__(self) -> None:
        self.closed = False
        self.written = 0

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after it was closed"
        self.written += len(data)

    def loseConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.loseConnection()

    def getPeer(self) -> object:
        return self

    def registerProducer(self, producer: object, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...


@dataclass
class _Owner:
    """What protocol.hostend does, without its bookkeeping."""

    heard: list[SrvMsg] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def secured(self, connection: Connection) -> None: ...

    def opened(self, connection: Connection, body: bytes) -> None:
        session, welcome = answer(read_hello(body), None, HostName("h1"), 3)
        session.sent = SENT
        connection.open(welcome)
        connection.join(session)

    def said(self, connection: Connection, message: SrvMsg) -> None:
        assert not connection.closing, "heard after it was closed"
        self.heard.append(message)
        if isinstance(message, Error) and message.id is None:
            connection.leave("farewell")

    def mistaken(self, connection: Connection, mistake: TheirMistake) -> None:
        self.mistakes.append(word_of(mistake))
        connection.close(mistake.code, str(mistake))

    def ended(self, connection: Connection, why: str) -> None: ...


def _connected(chunks: Sequence[bytes]) -> tuple[list[SrvMsg], list[str], bool]:
    clock, owner, transport = Clock(), _Owner(), _Transport()
    connection = Connection(clock, Times(), owner, FIRST_LENGTH)
    connection.transport = transport  # type: ignore[assignment]
    connection.connectionMade()
    for chunk in chunks:
        connection.dataReceived(chunk)
        assert len(connection._frames) <= HEADER + 2**20
        assert transport.closed == connection.closing
        if owner.mistakes:
            assert transport.closed, "open after a malformed frame"
    assert len(owner.mistakes) <= 1, "read on after a malformed frame"
    connection.connectionLost()
    assert not clock.getDelayedCalls(), "a timer outlives the connection"
    return owner.heard, owner.mistakes, transport.closed


def check_connection(rng: random.Random, data: bytes) -> str:
    """The first malformed frame closes it, nothing is heard after that, and chunks make no difference."""
    whole = _connected([data])
    assert _connected(pieces(rng, data)) == whole, "the chunks make a difference"
    return f"{min(len(whole[0]), 3)} heard, {whole[1]}, closed: {whole[2]}"


# --- guests -----------------------------------------------------------------------------------------------


class _Channel:
    """Stands where hostmaster.edges.guests._Channel stands."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.channels = self
        self.lines: list[bytes] = []
        self.ignored = 0

    def connected(self, line: object) -> bool:
        return True

    def disconnected(self, line: object) -> None: ...

    def heard(self, line: object, text: bytes) -> None:
        self.lines.append(text)

    def ignore(self) -> None:
        self.ignored += 1


def _lines(chunks: Sequence[bytes]) -> tuple[list[bytes], int]:
    channel = _Channel()
    line = guests._Line(channel)  # type: ignore[arg-type]
    line.transport = _Producer()  # type: ignore[assignment]
    line.connectionMade()
    for chunk in chunks:
        line.dataReceived(chunk)
        while channel.reactor.getDelayedCalls():
            channel.reactor.advance(1.0)
        assert len(line._buffer) < guest.MAX_LINE, "more than a line is held"
    line.connectionLost()
    return channel.lines, channel.ignored


class _Producer(_Transport):
    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


def check_guest(rng: random.Random, data: bytes) -> str:
    """Only TheirMistake; chunks make no difference; no more than a line is held."""
    whole = _lines([data])
    assert _lines(pieces(rng, data)) == whole, "the chunks make a difference"
    said = set()
    for text in whole[0]:
        try:
            said.add(type(guest.parse(text)).__name__)
        except TheirMistake as error:
            said.add(word_of(error).split(" not understood b")[0])
    return " ".join(sorted(said)[:3])


# --- starters ---------------------------------------------------------------------------------------------


def _asked(server: HookServer, chunks: Sequence[bytes]) -> bytes:
    connection: Any = server.factory().buildProtocol(None)
    transport = _Starter()
    connection.makeConnection(transport)
    for chunk in chunks:
        if not transport.closed:
            connection.dataReceived(chunk)
            assert len(connection._buffer) <= LINE_LIMIT + len(chunk)
            server.reactor.advance(0)
    connection.connectionLost()
    return transport.said


class _Starter(_Transport):
    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.disconnecting = False

    def writeSomeData(self, data: bytes) -> None:
        self.said += data

    def loseConnection(self) -> None:
        self.closed = self.disconnecting = True


async def _parks(call: HookCall) -> Answer:
    return Answer("park")


def check_starter(rng: random.Random, data: bytes) -> str:
    """At most one answer, which is a line with a known word; nobody is let go but by the decision."""
    clock = Clock()
    server = HookServer(clock, "/nowhere", _parks, uid_of=lambda transport: 1000)
    said = _asked(server, pieces(rng, data))
    assert not clock.getDelayedCalls(), "a timer outlives the connection"
    if not said:
        return "waits"
    assert said.endswith(b"\n")
    return msgspec.json.decode(said, type=Answer).answer


_MESSAGES = _frames("frames", "bad_frames")
_OPENINGS = _frames("opening", "bad_opening")
_HELLO = next(data for data in _frames("opening") if b'"hello"' in data)
_STREAMS = [_HELLO + b"".join(_MESSAGES[n : n + 4]) for n in range(len(_MESSAGES))]
_SAID = [*(vector["line"] for vector in VECTORS["guest"]["good"]), *VECTORS["guest"]["bad"]]
_GUEST = [f"{line}\n".encode() for line in _SAID]
_QUESTIONS = [
    b'{"version":1,"job":"12","task":null,"restart":0,"step":"batch"}\n',
    b'{"version":1,"job":"1234567","task":77,"restart":3,"step":"batch"}\n',
]

TARGETS = (
    Target("frames", [*_MESSAGES, *_STREAMS], check_frames, 0.25),
    Target("session", [data[HEADER:] for data in _MESSAGES], check_session, 0.25),
    Target("opening", [data[HEADER:] for data in _OPENINGS], check_opening, 0.1),
    Target("connection", _STREAMS, check_connection, 0.15),
    Target("guest", [*_GUEST, b"".join(_GUEST)], check_guest, 0.1),
    Target("starter", _QUESTIONS, check_starter, 0.05),
)
