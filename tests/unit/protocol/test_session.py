"""Sessions: each message once and in order, whatever the connections do; bounded; honest when it is lost."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol import session as session_module
from protocol.errors import OurMistake, TheirMistake
from protocol.ids import BaitName, HostName, LeaseId, RequestId, SessionId
from protocol.messages import Code, Error, Release, Released, Renew, SrvMsg, Welcome
from protocol.session import (
    MAX_UNACKED,
    BaitSession,
    HostSession,
    Overflow,
    Session,
    Side,
    answer,
    read_answer,
    read_hello,
)

LEASE = LeaseId("1" * 32)


def said_by_bait(i: int) -> Release:
    return Release(id=RequestId(f"{i:032x}"), lease=LEASE)


def said_by_host(i: int) -> Released:
    return Released(id=RequestId(f"{i:032x}"), lease=LEASE)


def refusal(text: str) -> Error:
    return Error(code=Code.INTERNAL, text=text, id=RequestId("1" * 32))


def number_in(message: SrvMsg) -> int:
    assert isinstance(message, Release | Released)
    return int(message.id, 16)


@dataclass
class End:
    """What one end said and heard since its session began."""

    said: list[int] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)


class TwoEnds(RuleBasedStateMachine):
    """A bait and a hostmaster back to back: bytes in flight may be lost with their connection, daemons may restart.

    The opening is cut at every point too: Hello lost, Welcome lost, first frame lost.
    """

    @initialize()
    def start(self) -> None:
        self.rng = random.Random(0)
        self.count = 0
        self.bait_epoch = self.host_epoch = 1
        self.bait = self.new_bait()
        self.host: HostSession | None = None
        self.at_bait, self.at_host = End(), End()
        self.bait_up = self.host_up = False  # this end has let the connection's session begin
        self.to_host: list[bytes] = []
        self.to_bait: list[bytes] = []

    def new_bait(self) -> BaitSession:
        return BaitSession(SessionId(f"{self.rng.getrandbits(128):032x}"), BaitName("b"), self.bait_epoch)

    def cut(self) -> None:
        self.bait_up = self.host_up = False
        self.to_host, self.to_bait = [], []

    # --- what happens ---

    @rule(delivered=st.integers(0, 6), lost=st.booleans())
    def connect(self, delivered: int, lost: bool) -> None:
        """A new connection that gets so far; the old one, if any, is gone with what was on it."""
        self.cut()
        self.to_host = [session_module.opening_body(self.bait.hello())]
        for _ in range(delivered):
            self.deliver(to_host=bool(self.to_host))
        if lost:
            self.cut()

    @rule(to_host=st.booleans(), count=st.integers(1, 4))
    def some_arrive(self, to_host: bool, count: int) -> None:
        for _ in range(count):
            self.deliver(to_host)

    @rule(count=st.integers(1, 3))
    def bait_speaks(self, count: int) -> None:
        for _ in range(count if self.bait.established else 0):
            self.count += 1
            self.bait.send(said_by_bait(self.count))
            self.at_bait.said.append(self.count)
        self.flush()

    @rule(count=st.integers(1, 3))
    def host_speaks(self, count: int) -> None:
        for _ in range(count if self.host is not None else 0):
            self.count += 1
            assert self.host is not None
            self.host.send(said_by_host(self.count))
            self.at_host.said.append(self.count)
        self.flush()

    @rule()
    def both_acknowledge(self) -> None:
        if self.bait_up:
            self.to_host.append(self.bait.ack_body())
        if self.host_up and self.host is not None:
            self.to_bait.append(self.host.ack_body())

    @rule(who=st.sampled_from(["bait", "host"]), restart=st.booleans())
    def one_forgets(self, who: str, restart: bool) -> None:
        """A restart with a new epoch, or a session given up within one."""
        self.cut()
        if who == "bait":
            self.bait_epoch += restart
            self.bait = self.new_bait()
        else:
            self.host_epoch += restart
            self.host = None

    def deliver(self, to_host: bool) -> None:
        if to_host and self.to_host:
            self.host_reads(self.to_host.pop(0))
        elif not to_host and self.to_bait:
            self.bait_reads(self.to_bait.pop(0))
        self.flush()

    def host_reads(self, body: bytes) -> None:
        if not self.host_up:
            self.host_opens(body)
            return
        assert self.host is not None
        message = self.host.receive(body)
        if message is not None:
            self.at_host.heard.append(number_in(message))

    def host_opens(self, body: bytes) -> None:
        before = self.host
        self.host, welcome = answer(read_hello(body), before, HostName("h"), self.host_epoch)
        if not welcome.resumed:
            self.at_host = End()
        assert welcome.resumed == (self.host is before)
        self.to_bait.append(session_module.opening_body(welcome))
        self.host_up = True

    def bait_reads(self, body: bytes) -> None:
        if not self.bait_up:
            self.bait_opens(body)
            return
        message = self.bait.receive(body)
        if message is not None:
            self.at_bait.heard.append(number_in(message))

    def bait_opens(self, body: bytes) -> None:
        welcome = read_answer(body)
        assert isinstance(welcome, Welcome)
        if not self.bait.welcomed(welcome):
            self.at_bait = End()
        self.bait_up = True
        self.to_host.append(self.bait.ack_body())

    def flush(self) -> None:
        for up, session, wire in (
            (self.bait_up, self.bait, self.to_host),
            (self.host_up, self.host, self.to_bait),
        ):
            while up and session is not None and (body := session.next_body()) is not None:
                wire.append(body)

    # --- what must hold ---

    @invariant()
    def nothing_is_lost_repeated_or_reordered(self) -> None:
        if self.bait_up and self.host_up:
            assert self.at_host.heard == self.at_bait.said[: len(self.at_host.heard)]
            assert self.at_bait.heard == self.at_host.said[: len(self.at_bait.heard)]

    @precondition(lambda self: self.bait_up and self.host_up)
    @rule()
    def everything_arrives_on_a_connection_that_holds(self) -> None:
        while self.to_host or self.to_bait:
            self.deliver(to_host=bool(self.to_host))
        assert self.at_host.heard == self.at_bait.said
        assert self.at_bait.heard == self.at_host.said


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=150, stateful_step_count=40)


def established() -> tuple[BaitSession, HostSession]:
    bait = BaitSession(SessionId("a" * 32), BaitName("b"), 1)
    host, welcome = answer(bait.hello(), None, HostName("h"), 1)
    assert bait.welcomed(welcome) is False
    host.receive(bait.ack_body())
    return bait, host


@given(st.binary(max_size=200))
def test_garbage_is_their_mistake(body: bytes) -> None:
    for read in (Session(Side.HOST).receive, Session(Side.BAIT).receive, read_hello, read_answer):
        with pytest.raises(TheirMistake):
            read(body)


@given(st.data())
def test_a_damaged_frame_is_read_or_their_mistake(data: st.DataObject) -> None:
    bait, host = established()
    bait.send(Renew(id=RequestId("1" * 32), leases=(LEASE,)))
    body = bytearray(bait.next_body() or b"")
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        host.receive(bytes(body))
    except TheirMistake as e:
        text = str(e)
    else:
        text = "read"
    assert text.isprintable()


def test_unacknowledged_messages_are_bounded_in_number() -> None:
    bait, _ = established()
    for i in range(MAX_UNACKED):
        bait.send(said_by_bait(i))
    with pytest.raises(Overflow):
        bait.send(said_by_bait(0))


def test_unacknowledged_messages_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_UNACKED_BYTES", 1000)
    bait, host = established()
    size = len(b'{"type":"release","id":"","lease":""}') + 64
    for i in range(1000 // size):
        bait.send(said_by_bait(i))
    with pytest.raises(Overflow):
        bait.send(said_by_bait(0))
    while (body := bait.next_body()) is not None:
        host.receive(body)
    bait.receive(host.ack_body())
    for i in range(1000 // size):
        bait.send(said_by_bait(i))


def test_acknowledged_messages_are_forgotten() -> None:
    bait, host = established()
    for i in range(10):
        bait.send(said_by_bait(i))
        host.receive(bait.next_body() or b"")
    assert bait.unacked == 10
    bait.receive(host.ack_body())
    assert bait.unacked == 0
    assert host.owed == 0


def test_a_message_carries_the_acknowledgement() -> None:
    bait, host = established()
    bait.send(said_by_bait(1))
    host.receive(bait.next_body() or b"")
    assert host.owed == 1
    host.send(said_by_host(1))
    bait.receive(host.next_body() or b"")
    assert (host.owed, bait.unacked) == (0, 0)


@pytest.mark.parametrize(
    "message",
    [
        said_by_host(1),
        Renew(id=RequestId("not hex"), leases=()),
        Renew(id=RequestId("1" * 32), leases=(LEASE,) * 4097),
        Error(code=Code.INTERNAL, text="no id"),
        Error(code=Code.INTERNAL, text="\ud800", id=RequestId("1" * 32)),
        BaitSession(SessionId("a" * 32), BaitName("b"), 1).hello(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_what_the_peer_would_refuse_is_our_mistake_and_is_not_sent(message: SrvMsg) -> None:
    bait, _ = established()
    with pytest.raises(OurMistake):
        bait.send(message)
    assert (bait.sent, bait.unacked) == (0, 0)


def test_a_message_too_long_for_a_frame_is_our_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_LENGTH", 200)
    _, host = established()
    host.send(said_by_host(1))
    with pytest.raises(OurMistake, match="does not fit"):
        host.send(refusal("x" * 100))


def test_a_farewell_is_an_error_without_id_and_takes_no_number() -> None:
    bait, host = established()
    farewell = bait.receive(host.farewell_body(Code.SESSION_LOST, "x" * 5000))
    assert isinstance(farewell, Error)
    assert (farewell.code, farewell.id, len(farewell.text)) == (Code.SESSION_LOST, None, 1000)
    assert bait.seen == 0


def test_a_repeated_message_is_acknowledged_again() -> None:
    bait, host = established()
    bait.send(said_by_bait(1))
    body = bait.next_body() or b""
    host.receive(body)
    host.ack_body()
    assert host.owed == 0
    assert host.receive(body) is None
    assert host.owed > 0
