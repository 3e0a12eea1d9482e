"""One line per event on standard error: JSON for machines, or text for people. Journald keeps them.

Events carry the identities of what they speak of as keyword arguments: `log.info("{vm} is ready", vm=vm,
lease=lease)`; every such keyword becomes a field of its own on the JSON line. Secrets are never logged; what
looks like one is blanked all the same.
"""

import contextlib
import json
import re
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import IO, Literal

from twisted.internet.interfaces import IReactorTime
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
_NOT_IDENTITIES = ("log_", "time", "format", "isError", "failure", "message", "system", "factory")
_TAKEN = ("level", "where", "text", "traceback")
MAX_LINE = 16_384
"""Journald splits longer lines, which would no longer be JSON."""


WINDOW_S, MOST_SAID, MOST_WHO = 60.0, 20, 1000


class Sparing:
    """Whether to say what somebody can bring about as often as he likes: MOST_SAID times in a minute for each."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._since = -WINDOW_S
        self._said: Counter[int] = Counter()

    def due(self, who: int) -> bool:
        """True if it is to be said; then it is counted."""
        now: float = self._clock.seconds()
        if now - self._since >= WINDOW_S or len(self._said) >= MOST_WHO:
            self._since, self._said = now, Counter()
        self._said[who] += 1
        return self._said[who] <= MOST_SAID


def start_logs(level: str = "info", format_: Format = "json", stream: IO[str] = sys.stderr) -> None:
    """From now on everything logged goes to the stream, one line each. Call once, before the reactor runs."""
    threshold = LogLevelFilterPredicate(LogLevel.levelWithName(level))
    if level == "info":
        for namespace in ("twisted", "log_legacy"):
            threshold.setLogLevelForNamespace(namespace, LogLevel.warn)  # ports opened and closed are our own story
    observer = FilteringLogObserver(lines_to(stream, format_), [threshold])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=False)


def lines_to(stream: IO[str], format_: Format) -> ILogObserver:
    """An observer that writes each event as one line to that stream."""
    line = json_line if format_ == "json" else text_line

    @implementer(ILogObserver)
    def write(event: LogEvent) -> None:
        with contextlib.suppress(OSError):  # a full disk or a closed pipe must not stop a daemon
            stream.write(line(event) + "\n")
            stream.flush()

    observer: ILogObserver = write
    return observer


def json_line(event: LogEvent) -> str:
    """The event as one JSON object: time (UTC), level, where, text, every identity, and a traceback if any."""
    line: dict[str, object] = {
        "time": _time(event),
        "level": _level(event),
        "where": event.get("log_namespace", ""),
        "text": _text(event),
    }
    line.update((key, _plain(value)) for key, value in _fields(event).items())
    if "log_failure" in event:
        line["traceback"] = _clean(event["log_failure"].getTraceback())[: MAX_LINE // 4]
    return json.dumps(line, ensure_ascii=True)


def text_line(event: LogEvent) -> str:
    """The event for a person: time (UTC), level, where, text; control characters escaped."""
    parts = [_text(event)]
    if "log_failure" in event:
        parts.append(_clean(event["log_failure"].getTraceback())[: MAX_LINE // 4])
    body = " | ".join(" / ".join(part.splitlines()) for part in parts)
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in body)
    return f"{_time(event)} {_level(event):<8} {event.get('log_namespace', '')}: {printable}"


def _time(event: LogEvent) -> str:
    return datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds")


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return str(level.name) if level is not None else "info"


def _text(event: LogEvent) -> str:
    return _clean(formatEvent(event))[: MAX_LINE // 8]


def _fields(event: LogEvent) -> LogEvent:
    return {key: value for key, value in event.items() if not key.startswith(_NOT_IDENTITIES) and key not in _TAKEN}


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | bool | None) else _clean(str(value))[:256]


def _clean(text: str) -> str:
    return _SECRETS.sub("(secret)", text)
