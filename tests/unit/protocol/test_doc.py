"""docs/protocol.md says what the types say: every message, field, bound, code and word, and nothing else."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from protocol import connection, framing, guest, hostend, messages, session
from protocol.ids import Room, Run, Shape
from protocol.messages import Code, Disposition, FromBait, FromHost, Offer, SrvMsg, VmPhase, VmStatus

DOC = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
PATTERNS = {
    r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z": "name",
    r"^[0-9a-f]{32}\Z": "id128",
    r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z": "word",
    r"^[0-9a-f-]{36}\Z": "boot id",
}
PARTS = {"Run": Run, "Shape": Shape, "Room": Room, "Offer": Offer, "VmStatus": VmStatus}


def kind(type_: inspect.Type) -> str:
    """How the document words a field's type and bounds."""
    match type_:
        case inspect.Metadata():
            return kind(type_.type)
        case inspect.BoolType():
            return "boolean"
        case inspect.IntType():
            return f"integer ≥ {type_.ge}" if type_.le is None else f"integer {type_.ge} to {type_.le}"
        case inspect.FloatType():
            return f"number {type_.ge} to {type_.le}"
        case inspect.StrType():
            return PATTERNS[type_.pattern] if type_.pattern else f"text ≤ {type_.max_length}"
        case inspect.EnumType() | inspect.StructType():
            return type_.cls.__name__
        case inspect.VarTupleType():
            least = f"{type_.min_length} to " if type_.min_length else "≤ "
            return f"list of {least}{type_.max_length} × {kind(type_.item_type)}"
        case inspect.UnionType():
            return next(kind(t) for t in type_.types if not isinstance(t, inspect.NoneType))
    raise AssertionError(f"no words for {type_}")


def default(field: inspect.Field) -> str:
    if field.required:
        return ""
    if field.default is None:
        return " or null"
    if field.default is inspect.NODEFAULT or field.default == ():
        return ", default []"
    return f", default {msgspec.json.encode(field.default).decode()}"


def fields_of(struct: Any) -> dict[str, str]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name: kind(field.type) + default(field) for field in info.fields}


def section(heading: str) -> str:
    found = re.search(rf"^#+ (?:\d+\. )?{re.escape(heading)}\n(.*?)(?=^#|\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert found, f"docs/protocol.md has no section {heading!r}"
    return found[1]


def table(text: str) -> dict[str, str]:
    """First and second column of the rows whose first column is in backticks."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", text, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a row twice"
    return {key: value.strip() for key, value in rows}


@pytest.mark.parametrize("message", get_args(SrvMsg), ids=lambda m: m.__name__)
def test_each_message_has_its_section_with_exactly_its_fields(message: Any) -> None:
    assert table(section(f"`{message.__struct_config__.tag}`")) == fields_of(message)


@pytest.mark.parametrize("name", PARTS)
def test_each_part_has_its_section_with_exactly_its_fields(name: str) -> None:
    assert table(section(name)) == fields_of(PARTS[name])


def test_no_section_is_about_a_message_that_does_not_exist() -> None:
    documented = set(re.findall(r"^#+ `([a-z_]+)`$", DOC, re.MULTILINE))
    assert documented == {message.__struct_config__.tag for message in get_args(SrvMsg)}


def test_who_may_say_what() -> None:
    for heading, union in (("What a bait says", FromBait), ("What a hostmaster says", FromHost)):
        assert set(re.findall(r"`([a-z_]+)`", section(heading))) == {
            message.__struct_config__.tag for message in get_args(union)
        }


def test_each_code_has_its_row() -> None:
    assert set(table(section("Codes"))) == {code.value for code in Code}


@pytest.mark.parametrize("words", [Disposition, VmPhase], ids=lambda w: w.__name__)
def test_each_word_has_its_row(words: Any) -> None:
    assert set(table(section(words.__name__))) == {word.value for word in words}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("largest body", framing.MAX_LENGTH),
        ("largest first body", framing.FIRST_LENGTH),
        ("unacknowledged messages", session.MAX_UNACKED),
        ("unacknowledged bytes", session.MAX_UNACKED_BYTES),
        ("opening", connection.Times().handshake_s),
        ("heartbeat", connection.Times().heartbeat_s),
        ("silence", connection.Times().silence_s),
        ("acknowledgement", connection.Times().ack_s),
        ("farewell", connection.Times().farewell_s),
        ("connections without Hello", hostend.MAX_PENDING),
        ("guest line", guest.MAX_LINE),
    ],
)
def test_limits(name: str, value: float) -> None:
    rows = dict(re.findall(r"^\| ([a-zH ]+) \| ([0-9.]+) ", section("Limits"), re.MULTILINE))
    assert float(rows[name]) == value


def test_versions_and_verbs() -> None:
    assert f"Version {messages.VERSIONS[0]}" in DOC
    for verb in ("hello", "standby", "ready", "may-start", "finished", "failed"):
        assert f"| `{verb}` |" in section("From the guest")
    told = "welcome set host mount account group credential file time seed standby go allow deny"
    for verb in told.split():
        assert f"| `{verb}` |" in section("To the guest")
