"""How the command line prints: aligned tables for people, colour only on a terminal, JSON for programs."""

import json
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

_COLOURS = {
    32: {"ok", "ready", "bound", "started", "running", "open", "connected", "available", "ended"},
    31: {"bad", "away", "unreachable", "refused", "failed", "lost", "unknown", "disconnected"},
    33: {"warn", "closed", "booting", "creating", "reserved", "destroying", "paused", "parked"},
}
_MAX_CELL = 200


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=True, sort_keys=True))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], out: TextIO | None = None) -> None:
    """Columns as wide as they need to be; words such as phases coloured if `out` is a terminal."""
    out = out or sys.stdout
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    print(_line(header, widths), file=out)
    for row in cells:
        print(_line(row, widths, colour=coloured(out)), file=out)


def print_facts(title: str, facts: Sequence[tuple[str, object]]) -> None:
    """A heading and indented `name  value` lines."""
    print(title)
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        print(f"  {name:<{width}}  {plain(value)}")


def complain(text: str) -> None:
    """A message for people on standard error, safe to print whatever is in it."""
    for line in text.splitlines():
        print(plain(line, 2000), file=sys.stderr)


def plain(value: object, limit: int = _MAX_CELL) -> str:
    """One printable line: control characters (a terminal would obey them) are escaped, long text is cut."""
    text = "-" if value is None or value == "" else str(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def coloured(out: TextIO) -> bool:
    """True if colours may be written there."""
    return out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"


def paint(word: str) -> str:
    """The word in the colour of what it means."""
    for colour, words in _COLOURS.items():
        if word.strip() in words:
            return f"\x1b[{colour}m{word}\x1b[0m"
    return word


def age(since: object, now: float) -> str:
    """Seconds since 1970 as an age: `4.2 s`, `3 min`, `2 h 05`, `6 d`."""
    if not isinstance(since, int | float):
        return "-"
    seconds = max(0.0, now - since)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02}" if minutes < 48 * 60 else f"{minutes // 1440} d"


def shape(value: Mapping[str, Any] | None) -> str:
    """`2 cpus, 2.0 GiB, 512 MiB disk`."""
    if not value:
        return "-"
    return f"{value.get('cpus')} cpus, {mib(value.get('memory_mib'))}, {mib(value.get('disk_mib'))} disk"


def mib(value: object) -> str:
    """A number of MiB in the unit that reads best."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value / 1024:.1f} GiB" if value >= 1024 else f"{value} MiB"


def user_name(uid: object) -> str:
    """A uid's name here, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name if isinstance(uid, int) else str(uid)
    except (KeyError, OverflowError):
        return str(uid)


def tally(words: Sequence[str]) -> str:
    """`2 booting, 1 ready`, or `none`."""
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"


def _line(cells: Sequence[str], widths: Sequence[int], colour: bool = False) -> str:
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(paint(cell) if colour else cell for cell in padded).rstrip()
