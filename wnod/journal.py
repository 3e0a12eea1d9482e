"""What must survive a crash: a daemon's intentions and bindings, in one SQLite file.

A record is put before the deed it justifies and before the reply that speaks of it; when `put` or the
outermost `transaction` returns, it is on disk (WAL, synchronous=FULL). A transaction is all or nothing.
Everything happens on the calling thread, at once: never await inside a transaction, or what another
coroutine writes meanwhile becomes part of it. docs/decisions/0002-journal.md says why it is made so.
"""

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, TypeVar

import msgspec

from wnod.journalfile import (
    MAX_WORD,
    JournalBroken,
    JournalBusy,
    JournalError,
    JournalFull,
    JournalNewer,
    JournalNotOurs,
    JournalOld,
    apply_upgrades,
    check_words,
    connect,
    damaged,
    is_word,
    read_meta,
    told,
)
from wnod.journalmark import Mark, Reached

__all__ = [
    "Entry",
    "Journal",
    "JournalBroken",
    "JournalBusy",
    "JournalError",
    "JournalFull",
    "JournalNewer",
    "JournalNotOurs",
    "JournalOld",
]

T = TypeVar("T", bound=msgspec.Struct)
Role = Literal["hostmaster", "bait"]

HISTORY_PER_KEY = 200
HISTORY_IN_ALL = 200_000
MAX_TEXT = 1024
KEPT_BELOW = "generation"
"""The counter whose values must not come again, though the journal be lost: see `Journal.below`."""
_COUNT = "INSERT INTO numbers VALUES ('commits', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"

_TELL = "INSERT INTO history (kind, key, at, text) VALUES (?, ?, ?, ?)"
_PRUNE = (
    "DELETE FROM history WHERE key = ?1 AND number <= "
    "(SELECT number FROM history WHERE key = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)"
)
_PRUNE_ALL = "DELETE FROM history WHERE number <= (SELECT max(number) FROM history) - ?"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a key's history; `at` is what the caller gave: seconds since 1970."""

    at: float
    kind: str
    text: str


class Journal:
    """The open journal of one daemon. Only one process can have it open; a crash leaves nothing to clean.

    Opening raises JournalBusy (another process has it), JournalNotOurs (another role or owner, or not a
    journal), JournalNewer (written by a newer wnod), JournalOld (a copy that is older than what this daemon has
    written since), JournalBroken (damaged). Writing raises JournalFull when the disk refuses: nothing of that
    transaction is kept then.
    """

    def __init__(
        self, path: str, role: Role, owner: str, committed: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """`owner` is the host's or bait's name. `committed` hears how long each commit took."""
        self.path = path
        self._committed = committed
        self._depth = 0
        self._doomed = False
        self._lines: list[tuple[str, str, float, str]] = []
        """The history of this transaction."""
        self._commits = 0
        self._id = ""
        with contextlib.ExitStack() as undo:
            self._lock = _lock(path)
            undo.callback(os.close, self._lock)
            self._db = connect(path)
            undo.callback(self._db.close)
            self._mark = _open_mark(path)
            undo.callback(self._mark.close)
            with _worded(path):
                self._adopt(role, owner)
            self.epoch = self.next_number("epoch")
            """Counts this journal's openings; starts at 1, never repeats."""
            undo.pop_all()

    def _adopt(self, role: Role, owner: str) -> None:
        """Bring the file to this schema and make sure that it is this daemon's."""
        with self.transaction():
            begins = apply_upgrades(self._db, self.path)
            check_words(self._db, self.path)
            meta = read_meta(self._db)
            for name, value in (("role", role), ("owner", owner)):
                if meta.setdefault(name, value) != value:
                    raise JournalNotOurs(
                        f"{self.path}: this is the journal of {name} {meta[name]!r}, not of {value!r}: "
                        "give each daemon its own `state` directory, or move this file away if its daemon is gone"
                    )
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
            self._id = meta.get("id") or secrets.token_hex(8)
            if not (str(self._id).isascii() and str(self._id).isalnum()):
                raise self._damaged("its id", self._id)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?)", (self._id,))
            last = self._mark.read()
            self._reached = last._replace(journal=self._id)
            if not begins:
                self._compare(last)

    def _compare(self, last: Reached) -> None:
        """A journal that begins is a lost one, which is safe; one that goes back is not (R15)."""
        row = self._db.execute("SELECT value FROM numbers WHERE name = 'commits'").fetchone()
        self._commits = 0 if row is None else row[0]
        if not isinstance(self._commits, int):
            raise self._damaged("its number of commits", self._commits)
        if last.journal and (last.journal != self._id or self._commits < last.commits):
            raise JournalOld(
                f"{self.path}: an older copy: journal {self._id} with {self._commits} commits, and the last here was "
                f"{last.journal} with {last.commits}. What it says is no longer so. Move it away: without a journal "
                "the daemon takes up what libvirt and the batch system show"
            )

    def _damaged(self, what: str, is_now: object) -> JournalBroken:
        return damaged(self.path, f"{what} is {is_now!r:.60}")

    def transaction(self) -> "_Transaction":
        """Make everything inside one commit. Nested ones join the outermost.

        If anything inside fails, all is undone, and whoever swallows that gets JournalError at the next write.
        """
        return _Transaction(self)

    def _enter(self) -> None:
        if self._depth == 0:
            self._execute("BEGIN IMMEDIATE")
        else:
            self._must_stand()
        self._depth += 1

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise told(self.path, error) from error

    def _leave(self, doomed: bool) -> None:
        self._depth -= 1
        self._doomed |= doomed
        if self._depth == 0 and self._doomed and self._db.in_transaction:  # some failures undo it by themselves
            self._db.execute("ROLLBACK")
        if self._depth == 0 and doomed:
            self._doomed = False
            self._lines.clear()

    def _must_stand(self) -> None:
        """After some errors (a full disk) SQLite undoes all by itself: what came then would be committed alone."""
        if self._doomed or not self._db.in_transaction:
            raise JournalError(f"{self.path}: a part of this transaction failed, so all of it was undone")

    def _end(self) -> None:
        lines, self._lines = self._lines, []
        try:
            self._must_stand()
        finally:
            self._doomed = False
        before = perf_counter()
        try:
            self._tell(lines)
            self._execute(_COUNT, (self._commits + 1,))
            self._execute("COMMIT")
        except JournalError:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._commits += 1
        self._reached = self._reached._replace(commits=self._commits)
        self._mark.write(self._reached)
        self._committed(perf_counter() - before)

    def put(self, kind: str, key: str, record: msgspec.Struct) -> None:
        """Store the record under (kind, key), replacing an older one. On disk on return, or with the transaction."""
        body = msgspec.json.encode(record)
        self._write("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", _word(kind), _word(key), body)

    def remove(self, kind: str, key: str) -> None:
        """Forget the record; one already gone is a success."""
        self._write("DELETE FROM records WHERE kind = ? AND key = ?", _word(kind), _word(key))

    def load(self, kind: str, type_: type[T]) -> dict[str, T]:
        """Every record of that kind by key, in the order of the keys. JournalBroken names one that does not decode."""
        with _worded(self.path):
            rows = self._db.execute("SELECT key, body FROM records WHERE kind = ? ORDER BY key", (kind,)).fetchall()
        decoder = msgspec.json.Decoder(type_)
        return {key: self._decode(decoder, kind, key, body) for key, body in rows}

    def _decode(self, decoder: "msgspec.json.Decoder[T]", kind: str, key: str, body: bytes) -> T:
        try:
            return decoder.decode(body)
        except (ValueError, RecursionError, TypeError) as error:  # msgspec's errors are ValueErrors, as a bad UTF-8's
            raise JournalBroken(
                f"{self.path}: record {kind}/{key} does not decode: {error}. Was it written by another version of wnod?"
            ) from error

    def next_number(self, name: str) -> int:
        """The counter's next value, from 1: never given twice once committed. Use it only after the commit."""
        return self._step(name, "value + 1", 1)

    def raise_number(self, name: str, at_least: int) -> int:
        """Make the counter at least that (the world shows a higher number than a restored journal); its value."""
        return self._step(name, "max(value, excluded.value)", at_least)

    def _step(self, name: str, change: str, first: int) -> int:
        statement = (
            f"INSERT INTO numbers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = {change} RETURNING value"  # noqa: S608 - `change` is one of two constants
        )
        with self.transaction(), _worded(self.path):
            ((value,),) = self._db.execute(statement, (_word(name), first)).fetchall()
            if name == KEPT_BELOW:
                self._reached = self._reached.covering(int(value))
        return int(value)

    @property
    def below(self) -> int:
        """KEPT_BELOW's values were all below this, also a lost journal's. 0: nobody knows, its mark is lost as well."""
        return self._reached.below

    def history(self, kind: str, key: str, text: str, at: float) -> None:
        """Append one line to the key's audit history. Text is cut at 1024 characters; the oldest lines go first."""
        clean = text.encode("utf-8", "replace").decode("utf-8")[:MAX_TEXT]
        with self.transaction():
            self._lines.append((_word(kind), _word(key), at, clean))

    def _tell(self, lines: list[tuple[str, str, float, str]]) -> None:
        """Append what a transaction has told, all at once: many jobs' lines come in one commit."""
        if not lines:
            return
        try:
            self._db.executemany(_TELL, lines)
            self._db.executemany(_PRUNE, [(key, HISTORY_PER_KEY) for key in dict.fromkeys(line[1] for line in lines)])
            self._db.execute(_PRUNE_ALL, (HISTORY_IN_ALL,))
        except sqlite3.Error as error:
            raise told(self.path, error) from error

    def read_history(self, key: str) -> tuple[Entry, ...]:
        """The key's history, oldest first."""
        with _worded(self.path):
            rows = self._db.execute("SELECT at, kind, text FROM history WHERE key = ? ORDER BY number", (key,))
            return tuple(Entry(*row) for row in rows)

    def close(self) -> None:
        """Stop using it. An unfinished transaction is undone. Idempotent."""
        if self._lock >= 0:
            self._db.close()
            self._mark.close()
            os.close(self._lock)
            self._lock = -1

    def _write(self, statement: str, *values: str | bytes) -> None:
        if self._depth == 0:
            with self.transaction():
                self._write(statement, *values)
            return
        self._must_stand()
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            self._doomed = True  # whoever catches this inside a transaction has lost it all the same
            raise told(self.path, error) from error


class _Transaction:
    """One `with` of `Journal.transaction`. A class, because every record passes through one or two."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        self._journal._enter()

    def __exit__(self, kind: object, *_: object) -> None:
        journal = self._journal
        journal._leave(doomed=kind is not None)
        if kind is None and journal._depth == 0:
            journal._end()


def _word(text: str) -> str:
    """Kinds, keys and names are short printable words: anything else is a bug upstream."""
    if not is_word(text):
        raise ValueError(f"not a journal key: {text[:60]!r} (1 to {MAX_WORD} printable characters)")
    return text


@contextlib.contextmanager
def _worded(path: str) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: SQLite's text quotes what is damaged
        raise told(path, error) from error


def _open_mark(path: str) -> Mark:
    try:
        return Mark(path)
    except OSError as error:
        raise JournalFull(f"{path}.mark: cannot be opened: {error.strerror}. Check its owner and mode") from error


def _lock(path: str) -> int:
    """Hold `path`.lock as long as the process lives: SQLite's own locks would also keep readers out."""
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise JournalFull(f"{path}: cannot be opened: {error.strerror}. Check the `state` directory's owner") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise JournalBusy(f"{path}: another process has it open: is this daemon running already?") from error
    return fd
