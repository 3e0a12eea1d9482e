"""The real journal over a disk in memory: what was committed survives a crash, what was not is gone."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.simulation.clock import Crash, Life
from wnod.journal import Journal, JournalError, Role, _worded
from wnod.journalfile import _check_content
from wnod.journalmark import Mark, Reached

POINTS = ("before-commit", "after-commit")


@dataclass(slots=True)
class Change:
    """One thing that a transaction has written: a record (None: removed), or a line of history."""

    kind: str
    key: str
    record: Any = None
    line: str = ""


class MemoryMark(Mark):
    """The file beside the journal, in memory."""

    def __init__(self) -> None:
        self._last = Reached()

    def read(self) -> Reached:
        return self._last

    def write(self, reached: Reached) -> None:
        self._last = reached


class Disk:
    """One daemon's journal file. It outlives the daemon."""

    def __init__(self, committed: Callable[[list[Change]], None] = lambda changes: None) -> None:
        self.db = _empty()
        self.committed = committed
        self.full = False
        """Nothing can be written."""
        self.suspect = False
        """It may be damaged."""
        self.mark = MemoryMark()

    def recover(self) -> None:
        """The daemon is gone: what it had not committed never happened."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def lose(self) -> None:
        """The file is deleted."""
        self.db.close()
        self.db = _empty()
        self.suspect = False

    def copy(self) -> bytes:
        """A backup of the file."""
        try:
            content: bytes = self.db.serialize()
        except sqlite3.OperationalError:  # there is nothing yet
            return b""
        return content

    def hides_damage(self) -> bool:
        """Damage that the daemon cannot notice when it opens the file: it would meet it later."""
        try:
            _check_content(self.db, "")
            ((verdict,),) = self.db.execute("PRAGMA integrity_check(1)").fetchall()
        except (JournalError, sqlite3.Error, UnicodeDecodeError):
            return False
        return bool(verdict != "ok")

    def restore(self, content: bytes) -> None:
        """An older state comes back."""
        self.db.close()
        self.db = _empty()
        if content:
            self.db.deserialize(content)


def _empty() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=64)
    db.execute("PRAGMA page_size=1024")  # of many journals small pages fit a cache better
    return db


class _Gone:
    """The disk as a dead daemon sees it."""

    in_transaction = False

    def execute(self, *args: Any) -> Any:
        raise Crash("dead daemons write nothing")

    executemany = execute


class _Full:
    """The disk of a machine that has no space left."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, statement: str, *args: Any) -> Any:
        if statement != "ROLLBACK":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return self._db.execute(statement)

    executemany = execute


class DiskJournal(Journal):
    """Journal without a file and its lock; `Life.point` is asked before and after every commit."""

    def __init__(self, disk: Disk, role: Role, owner: str, life: Life) -> None:
        self.path = f"{owner}.sqlite"
        self._committed = lambda seconds: None
        self._depth = 0
        self._doomed = False
        self._lines = []
        self._lock = -1
        self._life = life
        self._db = disk.db
        self._disk = disk
        self._changes: list[Change] = []
        self._mark, self._commits, self._id = disk.mark, 0, ""
        if disk.suspect:
            with _worded(self.path):
                _check_content(self._db, self.path)
        with _worded(self.path):
            self._adopt(role, owner)
        self.epoch = self.next_number("epoch")

    def _end(self) -> None:
        if not self._doomed:
            self._life.point("before-commit")
        changes, self._changes = self._changes, []
        if self._disk.full:
            self._db = _Full(self._disk.db)  # type: ignore[assignment]
        try:
            super()._end()
        finally:
            self._db = self._disk.db
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
            self._changes.append(Change(kind, key, line=text))  # for the audit; no daemon decides by what it once told

    def unplug(self) -> None:
        """The daemon is dead."""
        self._db = _Gone()  # type: ignore[assignment]


def numbers(disk: Disk) -> Iterator[tuple[str, int]]:
    """The counters on a disk."""
    yield from disk.db.execute("SELECT name, value FROM numbers")
