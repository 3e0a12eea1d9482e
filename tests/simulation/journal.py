"""The real journal over a disk in memory: what was committed survives a crash, what was not is gone."""

import sqlite3
from collections.abc import Iterator
from typing import Any

from tests.simulation.clock import Crash, Life
from wnod.journal import Journal, Role

POINTS = ("before-commit", "after-commit")


class Disk:
    """One daemon's journal file. It outlives the daemon."""

    def __init__(self) -> None:
        self.db = _empty()

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
        self._adopt(role, owner)
        self.epoch = self.next_number("epoch")

    def _end(self) -> None:
        if not self._doomed:
            self._life.point("before-commit")
        super()._end()
        self._life.point("after-commit")

    def unplug(self) -> None:
        """The daemon is dead."""
        self._db = _Gone()  # type: ignore[assignment]


def numbers(disk: Disk) -> Iterator[tuple[str, int]]:
    """The counters on a disk."""
    yield from disk.db.execute("SELECT name, value FROM numbers")
