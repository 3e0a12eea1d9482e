"""A YAML file as a tree of nodes that know their line; nothing in it is ever constructed or executed."""

import os
import stat

import yaml

from wnod.config.mistakes import Mistake

MAX_BYTES = 1 << 20
"""Larger files are refused: no site's configuration is, and YAML can be made to take for ever."""


class Unreadable(Exception):
    """The file cannot be turned into a tree; `mistake` says why and where."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def read_tree(path: str) -> yaml.Node:
    """The root node of the one YAML document in that file. Raises Unreadable."""
    text = _read_text(path)
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        raise _unreadable(path, line, f"not YAML: {problem}", "look at the indentation and quotes there") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(path, line, "a control character that YAML does not allow", "remove it") from error
    except RecursionError as error:
        raise _unreadable(path, 1, "nested too deeply", "configuration has a handful of levels") from error
    if root is None:
        raise _unreadable(path, 1, "the file is empty", "docs/configure.md has a complete example")
    return root


def _read_text(path: str) -> str:
    try:
        with open(path, "rb", opener=_open_now) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _unreadable(path, 1, "not a regular file", "name a YAML file")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, 1, f"cannot be read: {error.strerror}", _remedy(error)) from error
    except ValueError as error:  # a null byte in the name
        raise _unreadable(path, 1, f"cannot be read: {error}", "name a YAML file") from error
    if len(content) > MAX_BYTES:
        raise _unreadable(path, 1, f"larger than {MAX_BYTES} bytes", "is this the right file?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, line, "not UTF-8 text", "save the file as UTF-8") from error


def _open_now(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not make us wait


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "create it, or name another with --config or --etc"
    if isinstance(error, PermissionError):
        return "run as a user who may read it"
    return "name a YAML file"


def _unreadable(path: str, line: int, expected: str, remedy: str) -> Unreadable:
    return Unreadable(Mistake(file=path, line=line, field="", value="", expected=expected, remedy=remedy))
