"""The published test vectors, run through the code: what another implementation checks itself against."""

import base64
import inspect
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from protocol import guest
from protocol.errors import TheirMistake
from protocol.framing import FIRST_LENGTH, MAX_LENGTH, Frames
from protocol.ids import BaitName, HostName, SessionId
from protocol.messages import FromBait, FromHost, SrvMsg, Welcome
from protocol.session import (
    BaitSession,
    HostSession,
    Session,
    Side,
    answer,
    opening_body,
    read_answer,
    read_hello,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
SESSION = SessionId("5e5510aa5e5510aa5e5510aa5e5510aa")
TO = {"host": Side.HOST, "bait": Side.BAIT}


def named(key: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[key], ids=lambda v: f"{v.get('to', v.get('side'))}: {v['name']}")


def body_of(vector: dict[str, Any], first: int = MAX_LENGTH) -> bytes:
    (body,) = Frames(first=first).feed(bytes.fromhex(vector["hex"]))
    return body


def plain(message: SrvMsg | None) -> Any:
    """A message as parsed JSON, without the fields that are null: those may be left out."""
    return json.loads(msgspec.json.encode(message), object_hook=lambda o: {k: v for k, v in o.items() if v is not None})


def receiver(to: str, sent: int = 0, seen: int = 0) -> Session:
    """A session in the middle of its life."""
    session = Session(TO[to])
    session.sent, session.seen = sent, seen
    return session


def test_the_limits_are_the_published_ones() -> None:
    assert VECTORS["limits"] == {"max_length": MAX_LENGTH, "first_length": FIRST_LENGTH}


@named("opening")
def test_opening(vector: dict[str, Any]) -> None:
    read = read_hello if vector["to"] == "host" else read_answer
    body = body_of(vector, first=FIRST_LENGTH)
    assert json.loads(body) == vector["json"]
    assert opening_body(read(body)) == body


@named("frames")
def test_frame(vector: dict[str, Any]) -> None:
    expected = vector["json"]
    body = body_of(vector)
    assert json.loads(body) == expected
    message = receiver(vector["to"], sent=1000, seen=expected.get("n", 1) - 1).receive(body)
    assert plain(message) == expected.get("msg")


def test_each_message_has_a_frame() -> None:
    seen = {vector["json"]["msg"]["type"] for vector in VECTORS["frames"] if "msg" in vector["json"]}
    seen |= {vector["json"]["type"] for vector in VECTORS["opening"]}
    assert seen == {message.__struct_config__.tag for message in get_args(SrvMsg)}


@named("bad_frames")
def test_bad_frame(vector: dict[str, Any]) -> None:
    with pytest.raises(TheirMistake) as caught:
        receiver(vector["to"]).receive(body_of(vector))
    assert caught.value.code == vector["code"]


def open_with(vector: dict[str, Any]) -> None:
    body = body_of(vector, first=FIRST_LENGTH)
    if vector["to"] == "host":
        answer(read_hello(body), None, HostName("h1"), 3)
    else:
        welcome = read_answer(body)
        assert isinstance(welcome, Welcome)
        BaitSession(SESSION, BaitName("bait-h1"), 12).welcomed(welcome)


@named("bad_opening")
def test_bad_opening(vector: dict[str, Any]) -> None:
    with pytest.raises(TheirMistake) as caught:
        open_with(vector)
    assert caught.value.code == vector["code"]


class Transcript:
    """Plays one side of a transcript."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.bait = BaitSession(SESSION, BaitName("bait-h1"), 12)
        self.host: HostSession | None = None
        self.joined = False
        self.written: list[bytes] = []
        self.heard: list[SrvMsg] = []
        self.was_resumed: bool | None = None
        self.connect()

    @property
    def session(self) -> Session:
        session = self.bait if self.side == "bait" else self.host
        assert session is not None
        return session

    def connect(self) -> None:
        self.joined = False
        if self.side == "bait":
            self.written.append(opening_body(self.bait.hello()))

    def flush(self) -> None:
        while self.joined and (body := self.session.next_body()) is not None:
            self.written.append(body)

    def reads(self, body: bytes) -> None:
        if self.joined:
            message = self.session.receive(body)
            self.heard += [message] if message is not None else []
        elif self.side == "host":
            self.host, welcome = answer(read_hello(body), self.host, HostName("h1"), 3)
            self.written.append(opening_body(welcome))
            self.joined = True
        else:
            welcome_or_error = read_answer(body)
            assert isinstance(welcome_or_error, Welcome)
            self.was_resumed = self.bait.welcomed(welcome_or_error)
            self.joined = True
            if not self.was_resumed:
                self.written.append(self.bait.ack_body())
        self.flush()

    def says(self, message: dict[str, Any]) -> None:
        union: Any = FromBait if self.side == "bait" else FromHost
        self.session.send(msgspec.convert(message, union))
        self.flush()

    def cut(self) -> None:
        assert not self.written
        self.connect()


def play(script: Transcript, step: dict[str, Any]) -> None:
    match step:
        case {"reads": value, "fails": code}:
            with pytest.raises(TheirMistake) as caught:
                script.reads(json.dumps(value).encode())
            assert caught.value.code == code
        case {"reads": value}:
            script.reads(json.dumps(value).encode())
        case {"writes": value}:
            assert json.loads(script.written.pop(0)) == value
        case {"says": value}:
            script.says(value)
        case {"hears": value}:
            assert plain(script.heard.pop(0)) == value
        case {"acknowledges": value}:
            assert script.session.owed
            assert json.loads(script.session.ack_body()) == {"ack": value}
        case {"resumed": value}:
            assert script.was_resumed is value
        case {"cut": True}:
            script.cut()
        case _:
            raise AssertionError(f"no such step: {step}")


@named("transcripts")
def test_transcript(vector: dict[str, Any]) -> None:
    script = Transcript(vector["side"])
    for step in vector["steps"]:
        play(script, step)
    assert not script.written
    assert not script.heard


@pytest.mark.parametrize("vector", VECTORS["guest"]["good"], ids=lambda v: v["line"][:60])
def test_guest_line(vector: dict[str, Any]) -> None:
    said = guest.parse(vector["line"].encode())
    assert {"kind": type(said).__name__} | asdict(said) == vector["means"]


@pytest.mark.parametrize("line", VECTORS["guest"]["bad"])
def test_bad_guest_line(line: str) -> None:
    with pytest.raises(TheirMistake):
        guest.parse(line.encode())


def test_each_guest_message_has_a_line() -> None:
    assert {v["means"]["kind"] for v in VECTORS["guest"]["good"]} == {t.__name__ for t in get_args(guest.FromGuest)}


@pytest.mark.parametrize("vector", VECTORS["guest"]["to_guest"], ids=lambda v: v["line"].strip())
def test_line_to_a_guest(vector: dict[str, Any]) -> None:
    assert getattr(guest, vector["call"])(*vector["arguments"]).decode() == vector["line"]


def test_credential_line() -> None:
    secret = VECTORS["guest"]["credential"]
    content = base64.b64decode(secret["base64"])
    assert guest.credential(secret["name"], secret["mode"], content).decode() == secret["line"]


def test_seed_line() -> None:
    secret = VECTORS["guest"]["seed"]
    assert guest.seed(base64.b64decode(secret["base64"])).decode() == secret["line"]


@pytest.mark.parametrize("size", [0, 31, 65])
def test_a_seed_has_32_to_64_bytes_and_is_not_in_the_complaint(size: int) -> None:
    with pytest.raises(ValueError, match=f"seed of {size} bytes") as raised:
        guest.seed(b"7" * size)
    assert "777" not in str(raised.value)


def test_each_line_to_a_guest_has_a_vector() -> None:
    public = {
        name for name, value in vars(guest).items()
        if inspect.isfunction(value) and value.__module__ == guest.__name__ and not name.startswith("_")
    }  # fmt: skip
    assert public - {"parse"} == {v["call"] for v in VECTORS["guest"]["to_guest"]} | {"credential", "seed"}
