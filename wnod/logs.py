"""One line per event on standard error: JSON for machines, or text for people. Journald keeps them.

Events carry the identities of what they speak of as keyword arguments: `log.info("{vm} is ready", vm=vm,
lease=lease)`; every such keyword becomes a field of its own on the JSON line. Secrets are never logged; what
looks like one is blanked all the same.
"""

import json
import re
import sys
from datetime import UTC, datetime
from typing import IO, Literal

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

Format = Literal["json", "text"]
LEVELS = ("debug", "info", "warn", "error", "critical")

_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=\bcredential )\S+ [0-7]{4} [A-Za-z0-9+/=]+",
    re.DOTALL,
)
_OURS = ("log_", "time", "format", "isError", "failure", "message")
_PRIORITY = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}
MAX_LINE = 16_384
"""Journald splits longer lines, which would no longer be JSON."""


def start_logs(level: str = "info", format_: Format = "json", stream: IO[str] = sys.stderr) -> None:
    """From now on everything logged goes to the stream, one line each. Call once, before the reactor runs."""
    observer = FilteringLogObserver(_Lines(format_, stream), [LogLevelFilterPredicate(LogLevel.levelWithName(level))])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=False)


@implementer(ILogObserver)
class _Lines:
    def __init__(self, format_: Format, stream: IO[str]) -> None:
        self._line = json_line if format_ == "json" else text_line
        self._stream = stream

    def __call__(self, event: LogEvent) -> None:
        try:
            self._stream.write(self._line(event) + "\n")
            self._stream.flush()
        except OSError:
            pass  # a full disk or a closed pipe must not stop a daemon


def json_line(event: LogEvent) -> str:
    """The event as one JSON object: time (UTC), level, where, text, every identity, and a traceback if any."""
    line: dict[str, object] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds"),
        "level": _level(event),
        "where": event.get("log_namespace", ""),
        "text": _text(event),
    }
    line.update((key, _plain(value)) for key, value in _fields(event).items())
    if "log_failure" in event:
        line["traceback"] = _clean(event["log_failure"].getTraceback())[: MAX_LINE // 4]
    return json.dumps(line, ensure_ascii=True)


def text_line(event: LogEvent) -> str:
    """The event for a terminal, control characters escaped. Begins with the priority that journald understands."""
    level = _level(event)
    lines = [_text(event)]
    if "log_failure" in event:
        lines.append(_clean(event["log_failure"].getTraceback())[: MAX_LINE // 4])
    body = " | ".join(" / ".join(text.splitlines()) for text in lines)
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in body)
    return f"<{_PRIORITY[level]}>{level}: {event.get('log_namespace', '')}: {printable}"


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return str(level.name) if level is not None else "info"


def _text(event: LogEvent) -> str:
    return _clean(formatEvent(event))[: MAX_LINE // 8]


def _fields(event: LogEvent) -> LogEvent:
    return {key: value for key, value in event.items() if not key.startswith(_OURS) and key not in _TAKEN}


_TAKEN = ("level", "where", "text", "traceback")


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | bool | None) else _clean(str(value))[:256]


def _clean(text: str) -> str:
    return _SECRETS.sub("(secret)", text)
