"""Group commit: one wait for the disk, and nobody goes on before what he wrote is there."""

from pathlib import Path

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from wnod.commits import Commits
from wnod.journal import Journal


class Record(msgspec.Struct, frozen=True):
    word: str


class Change:
    """Writes one word, and notes what became of it."""

    def __init__(self, case: "Case", key: str, fails: bool = False) -> None:
        self.case, self.key, self.fails = case, key, fails

    def begin(self) -> None:
        assert self.case.journal.load("it", Record).get(self.key) is None

    def put(self) -> None:
        self.case.memory.add(self.key)
        self.case.journal.put("it", self.key, Record(self.key))
        if self.fails:
            raise ValueError("the disk is full")

    def undo(self) -> None:
        self.case.memory.discard(self.key)

    def done(self) -> None:
        self.case.done.append(self.key)


class Case:
    """A journal whose commits are counted."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.commits: list[float] = []
        self.journal = Journal(str(path / "journal"), "bait", "b1", self.commits.append)
        self.memory: set[str] = set()
        self.done: list[str] = []
        self.said: list[str] = []
        self.group = Commits(self.clock, self.journal)

    def write(self, key: str, fails: bool = False) -> "Deferred[None]":
        written = self.group.write(Change(self, key, fails))
        return written.addCallback(lambda _: self.said.append(key))

    def stored(self) -> set[str]:
        return set(self.journal.load("it", Record))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    case = Case(tmp_path)
    case.commits.clear()
    return case


def test_all_who_write_in_one_moment_share_one_commit(case: Case) -> None:
    for key in ("a", "b", "c"):
        case.write(key)
    assert (case.said, case.stored(), case.commits) == ([], set(), [])
    case.clock.advance(0)
    assert (case.said, case.stored(), len(case.commits)) == (["a", "b", "c"], {"a", "b", "c"}, 1)


def test_nobody_goes_on_before_all_of_the_commit_is_believed(case: Case) -> None:
    seen: list[list[str]] = []
    for key in ("a", "b"):
        case.write(key).addCallback(lambda _: seen.append(list(case.done)))
    case.clock.advance(0)
    assert seen == [["a", "b"], ["a", "b"]]


def test_if_one_cannot_be_written_nothing_of_the_commit_is_kept_or_believed(case: Case) -> None:
    writes = [case.write("a"), case.write("b", fails=True), case.write("c")]
    case.clock.advance(0)
    assert (case.memory, case.stored(), case.said, case.done) == (set(), set(), [], [])
    for write in writes:
        assert write.result.check(ValueError)
        write.addErrback(lambda _: None)
    case.write("d")
    case.clock.advance(0)
    assert case.stored() == {"d"}


def test_who_is_cancelled_while_he_waits_writes_nothing(case: Case) -> None:
    first, second = case.write("a"), case.write("b")
    first.cancel()
    case.clock.advance(0)
    assert (case.stored(), case.said) == ({"b"}, ["b"])
    assert first.result.check(CancelledError)
    first.addErrback(lambda _: None)
    assert second.called


def test_what_is_written_while_the_group_goes_on_is_the_next_group(case: Case) -> None:
    stored: list[set[str]] = []

    def again(_: None) -> None:
        case.write("b")
        stored.append(case.stored())

    case.write("a").addCallback(again)
    case.clock.advance(0)
    assert stored == [{"a"}]
    assert (case.stored(), len(case.commits)) == ({"a", "b"}, 2)
