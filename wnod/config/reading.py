"""From a YAML tree to a frozen type, going on after each mistake so that all of them are reported at once."""

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final, Literal, TypeVar, get_type_hints

import msgspec
import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from wnod.config.fields import Wanted, accepts, suggestion, wanted
from wnod.config.mistakes import Complaint, ConfigMistakes, Mistake, did_you_mean, quoted_path, shown
from wnod.config.yamltree import Unreadable, read_tree

T = TypeVar("T", bound=msgspec.Struct)
Path = tuple[str | int, ...]

BROKEN: Final = object()
"""Stands for a value that could not be read; its mistake is on the list already."""

_NULL = "tag:yaml.org,2002:null"
_INT = re.compile(r"[+-]?[0-9]{1,20}\Z")
_FLOAT = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\Z")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_file(path: str, type_: type[T], whole: bool = True) -> T:
    """The file's content as that type, or ConfigMistakes with everything that is wrong in it.

    Not `whole`: fields that the type has not are passed over, right or wrong.
    """
    try:
        root = read_tree(path)
    except Unreadable as error:
        raise ConfigMistakes([error.mistake]) from error
    reader = _Reader(path, whole)
    value = reader.struct(root, type_, ())
    if reader.mistakes:
        raise ConfigMistakes(reader.mistakes)
    assert isinstance(value, type_)
    return value


class _Reader:
    """Walks tree and type together. Scalars are read from their text: YAML's guesses (`no`, 010, 1:30) never count."""

    def __init__(self, file: str, whole: bool) -> None:
        self.mistakes: list[Mistake] = []
        self._file = file
        self._whole = whole
        self._nodes: dict[Path, Node] = {}
        self._parts: dict[Path, dict[str, Any]] = {}

    def struct(self, node: Node, type_: type[msgspec.Struct], path: Path) -> Any:
        """A mapping as that struct; BROKEN if anything in it is wrong."""
        self._nodes[path] = node
        if not isinstance(node, MappingNode):
            return self._wrong(node, path, "expected a mapping (lines of `key: value`)", "see docs/configure.md")
        before = len(self.mistakes)
        annotations = get_type_hints(type_, include_extras=True)
        values = self._values(node, annotations, path)
        self._missing(node, type_, values, path)
        self._parts[path] = {name: value for name, value in values.items() if value is not BROKEN}
        self._compare(type_, path)
        return type_(**values) if len(self.mistakes) == before else BROKEN

    def _values(self, node: MappingNode, annotations: Mapping[str, Any], path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, child in self._entries(node, path):
            if key in annotations:
                values[key] = self.value(child, wanted(annotations[key]), (*path, key))
            elif self._whole:
                remedy = did_you_mean(key, list(annotations))
                self._wrong(child, (*path, key), "no such field", remedy, at=child.start_mark, show=False)
        return values

    def _entries(self, node: MappingNode, path: Path) -> list[tuple[str, Node]]:
        """The pairs of a mapping, later repeats of a key refused."""
        entries: dict[str, Node] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, ScalarNode):
                self._wrong(key_node, path, "expected a word as key", "")
            elif key_node.value in entries:
                key = (*path, key_node.value)
                self._wrong(key_node, key, "this key is there twice", "remove one", show=False)
            else:
                child.start_mark = child.start_mark if isinstance(child, ScalarNode) else key_node.start_mark
                entries[key_node.value] = child
        return list(entries.items())

    def _missing(self, node: Node, type_: type[msgspec.Struct], values: dict[str, Any], path: Path) -> None:
        for field in msgspec.structs.fields(type_):
            if field.required and field.name not in values:
                noun = _noun(wanted(field.type))
                self._wrong(node, (*path, field.name), f"missing; expected {noun}", "add it", show=False)
            elif field.name not in values:
                values[field.name] = _default(field)

    def _compare(self, type_: type[msgspec.Struct], path: Path) -> None:
        complaints: Callable[[Mapping[str, Any]], list[Complaint]] | None = getattr(type_, "complaints", None)
        if complaints is None:
            return
        for relative, expected, remedy in complaints(self._parts[path]):
            self._complain((*path, *relative), expected, remedy)

    def _complain(self, field: Path, expected: str, remedy: str) -> None:
        known = field
        while known not in self._nodes:
            known = known[:-1]
        self._wrong(self._nodes[known], field, expected, remedy, show=known == field)

    def value(self, node: Node, want: Wanted, path: Path) -> Any:
        """Any node as what is wanted; BROKEN after a mistake."""
        self._nodes[path] = node
        if isinstance(node, ScalarNode) and node.tag == _NULL and node.style is None:
            return None if want.optional else self._wrong(node, path, f"expected {_noun(want)}", "nothing is there")
        if isinstance(want.base, type) and issubclass(want.base, msgspec.Struct):
            return self.struct(node, want.base, path)
        if want.base is tuple:
            return self._tuple(node, want, path)
        if want.base is dict:
            return self._dict(node, want, path)
        return self._scalar(node, want, path)

    def _tuple(self, node: Node, want: Wanted, path: Path) -> Any:
        if not isinstance(node, SequenceNode):
            return self._wrong(node, path, "expected a list", "write [a, b], or one `- item` per line")
        item = wanted(want.arguments[0])
        values = [self.value(child, item, (*path, index)) for index, child in enumerate(node.value)]
        if not _length_ok(want, len(values)):
            return self._wrong(node, path, f"expected {_length(want)}", f"there are {len(values)}", show=False)
        return tuple(self._whole_or_part(value, (*path, index)) for index, value in enumerate(values))

    def _whole_or_part(self, value: Any, path: Path) -> Any:
        """A broken list item's readable fields, so that comparing items finds its other mistakes too."""
        return SimpleNamespace(**self._parts.get(path, {})) if value is BROKEN else value

    def _dict(self, node: Node, want: Wanted, path: Path) -> Any:
        if not isinstance(node, MappingNode):
            return self._wrong(node, path, "expected a mapping (lines of `key: value`)", "see docs/configure.md")
        keys, values = (wanted(argument) for argument in want.arguments)
        result = {}
        for key, child in self._entries(node, path):
            if self._text(child, key, keys, (*path, key)) is not BROKEN:
                result[key] = self.value(child, values, (*path, key))
        if not _length_ok(want, len(node.value)):
            return self._wrong(node, path, f"expected {_length(want)}", "there is none", show=False)
        return result

    def _scalar(self, node: Node, want: Wanted, path: Path) -> Any:
        if not isinstance(node, ScalarNode):
            return self._wrong(node, path, f"expected {want.noun}", "")
        text = node.value
        if want.base is Literal:
            known = [str(argument) for argument in want.arguments]
            if text in known:
                return text
            return self._wrong(node, path, f"expected {want.noun}", did_you_mean(text, known))
        if want.base is str:
            return self._text(node, text, want, path)
        value = _number(text, want.base)
        if value is None or not accepts(want, value):
            return self._wrong(node, path, f"expected {want.noun}", "")
        return value

    def _text(self, node: Node, text: str, want: Wanted, path: Path) -> Any:
        if not accepts(want, text):
            return self._wrong(node, path, f"expected {want.noun}", suggestion(want, text))
        for check in want.checks:
            objection = check.objection(text)
            if objection:
                return self._wrong(node, path, f"expected {check.expected}", objection)
        return text

    def _wrong(
        self, node: Node, path: Path, expected: str, remedy: str, *, at: yaml.Mark | None = None, show: bool = True
    ) -> object:
        line = (at or node.start_mark).line + 1
        value = _value_text(node) if show else ""
        self.mistakes.append(Mistake(self._file, line, field_name(path), value, expected, remedy))
        return BROKEN


def field_name(path: Path) -> str:
    """A path of keys as people write it: `slots[2].mac`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{quoted_path(part)}" if text else quoted_path(part)
    return text


def _default(field: Any) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _number(text: str, base: Any) -> int | float | bool | None:
    if base is bool:
        return _BOOLS.get(text.lower())
    if base is int:
        return int(text) if _INT.match(text) else None
    return float(text) if _FLOAT.match(text) else None


def _noun(want: Wanted) -> str:
    if isinstance(want.base, type) and issubclass(want.base, msgspec.Struct):
        required = [field.name for field in msgspec.structs.fields(want.base) if field.required]
        return f"a mapping with {', '.join(required)}" if required else "a mapping"
    return {tuple: "a list", dict: "a mapping"}.get(want.base) or want.noun


def _length_ok(want: Wanted, length: int) -> bool:
    return all((m.min_length or 0) <= length <= (m.max_length or length) for m in want.metas)


def _length(want: Wanted) -> str:
    most = [str(meta.max_length) for meta in want.metas if meta.max_length]
    return f"one entry to {most[0]}" if most else "at least one entry"


def _value_text(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return shown(node.value) if node.value or node.style else ""
    return "a mapping" if isinstance(node, MappingNode) else "a list"
