"""A conversation that outlives its connections: numbers, acknowledgements, resumption. No input or output.

Each end numbers its messages from 1 and keeps them until they are acknowledged. After a lost connection the
opening frames say how far each end has seen; the rest is written again and repetitions are dropped, so each
message arrives once and in order. When either end has forgotten (a restart, an overflow, a mistake), a new
session begins: both drop what is unacknowledged and speak of their state anew. docs/decisions/0005.
"""

import enum
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar, get_args

import msgspec
from msgspec import Meta

from protocol.errors import OurMistake, ProtocolError, TheirMistake
from protocol.framing import MAX_LENGTH
from protocol.ids import BaitName, HostName, SessionId
from protocol.messages import VERSIONS, Code, Error, FromBait, FromHost, Hello, SrvMsg, Welcome

M = TypeVar("M")
Count = Annotated[int, Meta(ge=0, le=2**53)]

MAX_UNACKED: Final = 4096
MAX_UNACKED_BYTES: Final = 8 * 2**20
_ENVELOPE_ROOM: Final = 64  # bytes that {"ack":…,"n":…,"msg":…} may need around a message


class Side(enum.Enum):
    """Which end of the conversation a session is."""

    BAIT = "bait"
    HOST = "host"


class Envelope(msgspec.Struct, Generic[M], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every frame after the first one each way. With `n` and `msg` a message; with neither a heartbeat;
    with `msg` alone the Error a connection ends with."""

    ack: Count
    n: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    msg: M | None = None


class Overflow(ProtocolError):
    """The peer has acknowledged nothing for too long; the session is given up and its state sent anew."""

    code = Code.SESSION_LOST


@dataclass(frozen=True, slots=True)
class _Numbered:
    n: int
    body: bytes


_FROM: Final = {Side.BAIT: FromBait, Side.HOST: FromHost}
_OPENING: Final = (Hello, Welcome)
_SAYS: Final = {side: tuple(kind for kind in get_args(union) if kind not in _OPENING) for side, union in _FROM.items()}
_ENCODER: Final = msgspec.json.Encoder()
_Decoders = dict[Side, msgspec.json.Decoder[Any]]
_OWN: Final[_Decoders] = {side: msgspec.json.Decoder(union) for side, union in _FROM.items()}
_READ: Final[_Decoders] = {
    Side.HOST: msgspec.json.Decoder(Envelope[FromBait]),
    Side.BAIT: msgspec.json.Decoder(Envelope[FromHost]),
}


def _not_understood(what: str, error: Exception) -> TheirMistake:
    text = f"{what} not understood: {error}"[:500]
    return TheirMistake("".join(c if c.isprintable() else "?" for c in text))  # it may quote the peer


class Session:
    """One end of one conversation."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.begin()

    def begin(self) -> None:
        """Number anew, both ways; whatever is unacknowledged is dropped."""
        self.sent = 0
        self.acked = 0
        self.seen = 0
        self._told = 0
        self._waiting: deque[_Numbered] = deque()
        self._flight: deque[_Numbered] = deque()
        self._held_bytes = 0

    @property
    def unacked(self) -> int:
        """How many messages the peer has not acknowledged."""
        return len(self._waiting) + len(self._flight)

    @property
    def owed(self) -> int:
        """How many acknowledgements the peer waits for."""
        return self.seen - self._told

    def can_resume(self, peer_seen: int) -> bool:
        """True if the peer's count of what it has seen continues this session without a hole."""
        return self.acked <= peer_seen <= self.sent

    def resume(self, peer_seen: int) -> None:
        """A new connection: forget what the peer has seen, write the rest again. Check can_resume first."""
        self._acknowledge(peer_seen)
        self._flight.extend(self._waiting)
        self._waiting, self._flight = self._flight, deque()
        self._told = self.seen

    def send(self, message: SrvMsg) -> None:
        """Number a message and hold it until it is acknowledged; next_body() gives it to the wire.

        Raises OurMistake if this side may not say it, Overflow if too much is unacknowledged.
        """
        body = self._checked(message)
        if self.unacked >= MAX_UNACKED or self._held_bytes + len(body) > MAX_UNACKED_BYTES:
            raise Overflow(f"{self.unacked} messages, {self._held_bytes} bytes are unacknowledged")
        self.sent += 1
        self._waiting.append(_Numbered(self.sent, body))
        self._held_bytes += len(body)

    def next_body(self) -> bytes | None:
        """The next message that this connection has not carried, as a frame's body; None if there is none."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        self._flight.append(item)
        self._told = self.seen
        return _ENCODER.encode(Envelope(ack=self.seen, n=item.n, msg=msgspec.Raw(item.body)))

    def ack_body(self) -> bytes:
        """A frame's body that acknowledges and says nothing: the heartbeat."""
        self._told = self.seen
        return _ENCODER.encode(Envelope[None](ack=self.seen))

    def farewell_body(self, code: Code, text: str) -> bytes:
        """The last frame's body of a connection that this side closes."""
        return _ENCODER.encode(Envelope(ack=self.seen, msg=Error(code=code, text=text[:1000])))

    def receive(self, body: bytes) -> SrvMsg | None:
        """Read one frame's body; None if it repeats a message or only acknowledges.

        An Error without id is the peer's farewell. Raises TheirMistake; the session is then over.
        """
        try:
            envelope: Envelope[SrvMsg] = _READ[self.side].decode(body)
        except (ValueError, RecursionError) as e:  # msgspec's errors and UnicodeDecodeError are ValueErrors
            raise _not_understood("frame", e) from e
        self._check(envelope)
        self._acknowledge(envelope.ack)
        if envelope.n is None:
            return envelope.msg
        return self._in_order(envelope.n, envelope.msg)

    def _check(self, envelope: Envelope[SrvMsg]) -> None:
        is_farewell = isinstance(envelope.msg, Error) and envelope.msg.id is None
        if envelope.n is None and envelope.msg is not None and not is_farewell:
            raise TheirMistake("a message without its number `n`")
        if envelope.n is not None and (envelope.msg is None or is_farewell):
            raise TheirMistake(f"frame {envelope.n}: a number needs a `msg`, and an Error with one needs an `id`")
        if isinstance(envelope.msg, _OPENING):
            raise TheirMistake("Hello and Welcome only open a connection")
        if envelope.ack > self.sent:
            raise TheirMistake(f"acknowledges {envelope.ack}, but {self.sent} were sent", Code.SESSION_LOST)

    def _in_order(self, n: int, message: SrvMsg | None) -> SrvMsg | None:
        if n > self.seen + 1:
            raise TheirMistake(f"message {n} after {self.seen}: some are missing", Code.SESSION_LOST)
        if n <= self.seen:
            self._told = -1  # it does not know that we have it: acknowledge again
            return None
        self.seen = n
        return message

    def _acknowledge(self, upto: int) -> None:
        self.acked = max(self.acked, upto)
        for queue in (self._flight, self._waiting):
            while queue and queue[0].n <= upto:
                self._held_bytes -= len(queue.popleft().body)

    def _checked(self, message: SrvMsg) -> bytes:
        what = type(message).__name__
        if not isinstance(message, _SAYS[self.side]):
            raise OurMistake(f"{what}: a {self.side.value} does not say this in a session")
        if isinstance(message, Error) and message.id is None:
            raise OurMistake("Error without id ends a connection; only the link says it")
        try:
            body = _ENCODER.encode(message)
            _OWN[self.side].decode(body)
        except ValueError as e:
            raise OurMistake(f"{what} breaks the protocol: {e}") from e
        if len(body) > MAX_LENGTH - _ENVELOPE_ROOM:
            raise OurMistake(f"{what} of {len(body)} bytes does not fit a frame of {MAX_LENGTH}")
        return body


# --- opening -----------------------------------------------------------------------------------------


def opening_body(message: Hello | Welcome | Error) -> bytes:
    """The body of the first frame of either side: it has no envelope."""
    return _ENCODER.encode(message)


_HELLO: Final = msgspec.json.Decoder(Hello)
_ANSWER: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(Welcome | Error)


def read_hello(body: bytes) -> Hello:
    """A bait's first frame. Raises TheirMistake."""
    try:
        return _HELLO.decode(body)
    except (ValueError, RecursionError) as e:
        raise _not_understood("first frame", e) from e


def read_answer(body: bytes) -> Welcome | Error:
    """A hostmaster's first frame. Raises TheirMistake."""
    try:
        opening: Welcome | Error = _ANSWER.decode(body)
    except (ValueError, RecursionError) as e:
        raise _not_understood("first frame", e) from e
    return opening


def choose_version(theirs: tuple[int, ...]) -> int:
    """The newest version both ends speak. Raises TheirMistake(WRONG_VERSION)."""
    for version in VERSIONS:
        if version in theirs:
            return version
    raise TheirMistake(f"speaks versions {list(theirs)}, here are {list(VERSIONS)}", Code.WRONG_VERSION)


class HostSession(Session):
    """A hostmaster's end of its conversation with one bait."""

    def __init__(self, id: SessionId, epoch: int) -> None:
        super().__init__(Side.HOST)
        self.id = id
        self.epoch = epoch
        self.confirmed = False

    def receive(self, body: bytes) -> SrvMsg | None:
        """As Session.receive. The first frame proves that the bait has heard the Welcome."""
        message = super().receive(body)
        self.confirmed = True
        return message

    def continued_by(self, hello: Hello) -> bool:
        """True if this session goes on.

        Not if the bait may have missed the Welcome that began it: its counts are then those of an older one.
        """
        same = (hello.session, hello.epoch) == (self.id, self.epoch)
        return same and self.confirmed and self.can_resume(hello.seen)


def answer(hello: Hello, known: HostSession | None, name: HostName, epoch: int) -> tuple[HostSession, Welcome]:
    """A hostmaster's answer to Hello: the known session resumed, or a new one. Raises TheirMistake."""
    version = choose_version(hello.versions)
    resumed = known is not None and known.continued_by(hello)
    session = known if known is not None and resumed else HostSession(hello.session, hello.epoch)
    if resumed:
        session.resume(hello.seen)
    welcome = Welcome(
        version=version, name=name, epoch=epoch, session=session.id, resumed=resumed, seen=session.seen
    )  # fmt: skip
    return session, welcome


class BaitSession(Session):
    """A bait's end of its conversation with its hostmaster."""

    def __init__(self, id: SessionId, name: BaitName, epoch: int) -> None:
        super().__init__(Side.BAIT)
        self.id = id
        self.name = name
        self.epoch = epoch
        self.host_epoch: int | None = None

    @property
    def established(self) -> bool:
        """True once a Welcome was read: from then on messages are kept for the peer."""
        return self.host_epoch is not None

    def hello(self) -> Hello:
        """This bait's first frame."""
        return Hello(versions=VERSIONS, name=self.name, epoch=self.epoch, session=self.id, seen=self.seen)

    def welcomed(self, welcome: Welcome) -> bool:
        """Take the answer; True if the session was resumed. Raises TheirMistake."""
        if welcome.version not in VERSIONS:
            raise TheirMistake(f"chose version {welcome.version}, offered were {list(VERSIONS)}", Code.WRONG_VERSION)
        if welcome.session != self.id:
            raise TheirMistake(f"welcomes session {welcome.session}, asked was {self.id}", Code.SESSION_LOST)
        if welcome.resumed:
            self._resumed(welcome)
        else:
            self._begun(welcome)
        return welcome.resumed

    def _resumed(self, welcome: Welcome) -> None:
        if welcome.epoch != self.host_epoch or not self.can_resume(welcome.seen):
            raise TheirMistake(
                f"resumes at epoch {welcome.epoch}, seen {welcome.seen}; known here: epoch {self.host_epoch}, "
                f"acknowledged {self.acked}, sent {self.sent}",
                Code.SESSION_LOST,
            )
        self.resume(welcome.seen)

    def _begun(self, welcome: Welcome) -> None:
        if welcome.seen != 0:
            raise TheirMistake(f"a new session that has seen {welcome.seen}", Code.SESSION_LOST)
        self.begin()
        self.host_epoch = welcome.epoch
