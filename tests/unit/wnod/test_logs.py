"""Log lines: one per event, with the identities as fields, without secrets and without tricks."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure

from wnod.logs import MAX_LINE, json_line, lines_to, text_line


def event(text: str, /, **fields: Any) -> LogEvent:
    """What Logger.info would make."""
    seen: list[LogEvent] = []
    Logger(namespace="test", observer=seen.append).emit(LogLevel.info, text)
    seen[0].update(fields)
    seen[0]["log_time"] = 1_700_000_000.25
    return seen[0]


def test_a_json_line_has_the_identities_as_fields() -> None:
    line = json.loads(json_line(event("{vm} is ready", vm="h1-vm1", generation=7, lease="ab", bound=True)))
    assert line == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "info",
        "where": "test",
        "text": "h1-vm1 is ready",
        "vm": "h1-vm1",
        "generation": 7,
        "lease": "ab",
        "bound": True,
    }


def test_a_field_cannot_replace_the_lines_own() -> None:
    line = json.loads(json_line(event("hello", level="critical", text="forged", traceback="x")))
    assert (line["level"], line["text"]) == ("info", "hello")
    assert "traceback" not in line


@given(st.text(), st.text())
def test_whatever_is_logged_it_is_one_line(text: str, value: str) -> None:
    made = event("{it}", it=text, other=value)
    for line in (json_line(made), text_line(made)):
        assert line.isprintable() or line.isascii()
        assert len(line.splitlines()) == 1
        assert len(line) <= 2 * MAX_LINE
    json.loads(json_line(made))


def test_a_text_line_shows_control_characters_instead_of_obeying_them() -> None:
    line = text_line(event("{name} came", name="\x1b[2J\nfake: line"))
    assert line.startswith("2023-11-14T22:13:20.250+00:00 info ")
    assert "\\x1b[2J" in line
    assert "\x1b" not in line


def test_a_failure_brings_its_traceback() -> None:
    made = event("it broke")
    made.update(log_failure=Failure(ValueError("why")), log_level=LogLevel.critical)
    line = json.loads(json_line(made))
    assert line["level"] == "critical"
    assert "ValueError: why" in line["traceback"]
    assert "ValueError: why" in text_line(made)


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMHcCAQEE cut off",
        "credential munge.key 0400 MHcCAQEE==",
    ],
)
def test_what_looks_like_a_secret_is_blanked(secret: str) -> None:
    made = event("sent {line}", line=secret, also=secret)
    made["log_failure"] = Failure(ValueError(secret))
    for line in (json_line(made), text_line(made)):
        assert "MHcCAQEE" not in line
        assert "(secret)" in line


def test_a_log_that_cannot_be_written_does_not_stop_the_daemon() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    lines_to(Full(), "json")(event("hello"))
    good = io.StringIO()
    lines_to(good, "text")(event("hello"))
    assert good.getvalue().endswith("test: hello\n")
