"""What a field's annotation asks of its value: one place that takes Python's typing apart."""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from protocol.ids import EnvironmentField, HostNameField
from wnod.config.words import Check

_NOUNS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _pattern(field: Any) -> str:
    """The pattern of one of protocol.ids' annotated names."""
    return str(get_args(field)[1].pattern)


_SPOKEN = {
    _pattern(HostNameField): "write lower-case letters, digits and inner hyphens, at most 63",
    _pattern(EnvironmentField): "write letters, digits and . _ + -, at most 64, a letter or digit first",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An annotation taken apart. `base` is str, int, float, bool, Literal, a Struct class, tuple or dict."""

    base: Any
    arguments: tuple[Any, ...]
    metas: tuple[Meta, ...]
    checks: tuple[Check, ...]
    optional: bool

    @property
    def noun(self) -> str:
        """What is expected, in words."""
        named = [check.expected for check in self.checks] or [m.description for m in self.metas if m.description]
        if self.base is Literal:
            return f"one of {', '.join(map(repr, self.arguments))}"
        return " ".join([str(named[0]) if named else _NOUNS.get(self.base, "a value"), *_limits(self.metas)])


def wanted(annotation: Any) -> Wanted:
    """Take a field's annotation apart."""
    base, extras, optional = annotation, [], False
    while True:
        origin = get_origin(base)
        if origin in (Union, types.UnionType):
            (base,) = [argument for argument in get_args(base) if argument is not type(None)]
            optional = True
        elif origin is Annotated:
            base, *more = get_args(base)
            extras += more
        elif hasattr(base, "__supertype__"):  # NewType
            base = base.__supertype__
        else:
            break
    return Wanted(
        base=origin or base,
        arguments=get_args(base),
        metas=tuple(extra for extra in extras if isinstance(extra, Meta)),
        checks=tuple(extra for extra in extras if isinstance(extra, Check)),
        optional=optional,
    )


def accepts(want: Wanted, value: object) -> bool:
    """True if the value keeps every Meta of the annotation (ranges, lengths, patterns)."""
    try:
        msgspec.convert(value, Annotated[(want.base, *want.metas)] if want.metas else want.base)
    except msgspec.ValidationError:
        return False
    return True


def suggestion(want: Wanted, text: str) -> str:
    """A remedy for a text that does not match: the nearest one that does, or the pattern."""
    tidy = text.strip().lower().replace("_", "-").replace(" ", "-")
    if 0 < len(tidy) < 100 and tidy != text and accepts(want, tidy):
        return f"did you mean {tidy!r}?"
    patterns = [meta.pattern for meta in want.metas if meta.pattern]
    if not patterns:
        return ""
    return _SPOKEN.get(patterns[0]) or "it has to match " + patterns[0].replace(r"\Z", "$")


def _limits(metas: Sequence[Meta]) -> list[str]:
    words: list[str] = []
    for meta in metas:
        words += _between(meta.ge, meta.le) if meta.ge is not None else []
        words += [f"above {meta.gt}, at most {meta.le}"] if meta.gt is not None else []
        words += [f"of at most {meta.max_length} characters"] if meta.max_length is not None else []
    return words


def _between(low: float | None, high: float | None) -> list[str]:
    return [f"from {low} to {high}"] if high is not None else [f"of at least {low}"]
