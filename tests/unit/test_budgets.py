"""The budgets of design.md section 5, measured: small files, small functions, names that say something."""

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protocol", "wnod", "bait", "hostmaster")
BANNED = re.compile(r"(?:^|_)(?:handlers?|managers?|engines?|processors?|helpers?|utils?|utilities|misc)(?:_|$)")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> list[Path]:
    """Every Python file that is shipped, and the lab's."""
    return sorted(path for name in (*PACKAGES, "deploy") for path in (ROOT / name).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_measure() -> None:
    assert len(files()) > 30


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in files()}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_no_function_is_longer_than_50_lines() -> None:
    long = [f"{name_of(p)}:{f.lineno} {f.name}: {length(f)}" for p in files() for f in functions(p) if length(f) > 50]
    assert long == []


def test_the_median_function_is_shorter_than_10_lines_and_nine_of_ten_than_31() -> None:
    lengths = [length(function) for path in files() for function in functions(path)]
    assert statistics.median(lengths) < 10
    assert statistics.quantiles(lengths, n=10)[-1] <= 30


def test_every_module_says_what_it_is_for() -> None:
    empty = [name_of(path) for path in files() if path.read_text().strip() and not ast.get_docstring(tree(path))]
    assert empty == []


def test_no_name_is_one_of_those_that_say_nothing() -> None:
    named = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, Function | ast.ClassDef) and BANNED.search(snake(node.name))
    ]
    modules = [name_of(path) for path in files() if BANNED.search(snake(path.stem))]
    assert named + modules == []


@pytest.mark.parametrize("name", ["VmManager", "handler", "event_handlers", "StringUtil", "misc", "job_processor"])
def test_the_banned_words_are_recognised(name: str) -> None:
    assert BANNED.search(snake(name))


@pytest.mark.parametrize("name", ["Engineer", "handle", "manage_nothing", "utilisation", "helpful"])
def test_other_words_are_not(name: str) -> None:
    assert not BANNED.search(snake(name))


def test_public_names_have_docstrings() -> None:
    missing = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in files()
        if not name_of(path).startswith("deploy")
        for node in tree(path).body
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert missing == []
