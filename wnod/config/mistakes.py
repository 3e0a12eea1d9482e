"""What is wrong with a configuration file, worded for the person who has to mend it."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend. `line` counts from 1; `field` is the path of keys, as in `slots[2].mac`."""

    file: str
    line: int
    field: str
    value: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        place = f"{quoted_path(self.file)}:{self.line}"
        told = ": ".join(part for part in (place, self.field, self.value, self.expected) if part)
        return f"{told}; {self.remedy}" if self.remedy else told


class ConfigMistakes(Exception):
    """A configuration file that cannot be used. `mistakes` holds all of them, in the order of the file."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes)
        self.mistakes = tuple(sorted(mistakes, key=lambda m: (m.file, m.line, m.field)))

    def __str__(self) -> str:
        return "\n".join(str(mistake) for mistake in self.mistakes)


class Complaint(NamedTuple):
    """A mistake that shows only when fields are compared. `path` is relative to the struct that complains."""

    path: tuple[str | int, ...]
    expected: str
    remedy: str = ""


def shown(value: object) -> str:
    """The value as one short printable word: control characters escaped, ten kilobytes cut."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def quoted_path(path: str) -> str:
    """A path that is safe to print: itself if it is printable, else escaped."""
    return path if path.isprintable() and len(path) <= 255 else shown(path)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A remedy that names the nearest known word, or all of them."""
    near = get_close_matches(word[:100], known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else ""
