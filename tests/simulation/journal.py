"""The real journal over a disk in memory: what was committed survives a crash, what was not is gone."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.simulation.clock import Crash, Life
from wnod.journal import Journal, Role

POINTS = ("before-commit", "after-commit")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a transaction has written: a record (None: removed), or a line of history."""

    kind: str
    key: str
    record: Any = None
    line: str = ""


class Disk:
    """One daemon's journal file. It outlives the daemon."""

    def __init__(self, committed: Callable[[list[Change]], None] = lambda changes: None) -> None:
        self.db = _empty()
        self.committed = committed

    def recover(self) -> None:
        """The daemon is gone: what it had not committed never happened."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def lose(self) -> None:
        """The file is deleted."""
        self.db.close()
        self.db = _empty()

    def copy(self) -> bytes:
        """A backup of the file."""
        content: bytes = self.db.serialize()
        return content

    def restore(self, content: bytes) -> None:
        """An older state comes back."""
        self.lose()
        self.db.deserialize(content)


def _empty() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, cached_statements=64)


class _Gone:
    """The disk as a dead daemon sees it."""

    in_transaction = False

    def execute(self, *args: Any) -> Any:
        raise Crash("dead daemons write nothing")


class DiskJournal(Journal):
    """Journal without a file and its lock; `Life.point` is asked before and after every commit."""

    def __init__(self, disk: Disk, role: Role, owner: str, life: Life) -> None:
        self.path = f"{owner}.sqlite"
        self._committed = lambda seconds: None
        self._depth = 0
        self._doomed = False
        self._lock = -1
        self._life = life
        self._db = disk.db
        self._disk = disk
        self._changes: list[Change] = []
        self._adopt(role, owner)
        self.epoch = self.next_number("epoch")

    def _end(self) -> None:
        if not self._doomed:
            self._life.point("before-commit")
        changes, self._changes = self._changes, []
        super()._end()
        if changes:
            self._disk.committed(changes)
        self._life.point("after-commit")

    def _leave(self, doomed: bool) -> None:
        super()._leave(doomed)
        if self._depth == 0 and doomed:
            self._changes.clear()

    def put(self, kind: str, key: str, record: msgspec.Struct) -> None:
        with self.transaction():
            self._changes.append(Change(kind, key, record))
            super().put(kind, key, record)

    def remove(self, kind: str, key: str) -> None:
        with self.transaction():
            self._changes.append(Change(kind, key))
            super().remove(kind, key)

    def history(self, kind: str, key: str, text: str, at: float) -> None:
        with self.transaction():
            self._changes.append(Change(kind, key, line=text))
            super().history(kind, key, text, at)

    def unplug(self) -> None:
        """The daemon is dead."""
        self._db = _Gone()  # type: ignore[assignment]


def numbers(disk: Disk) -> Iterator[tuple[str, int]]:
    """The counters on a disk."""
    yield from disk.db.execute("SELECT name, value FROM numbers")
