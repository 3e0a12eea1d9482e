"""The journal's file: its schema, how an older one is brought up to date, and how to look into one read-only."""

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

APPLICATION = 0x776E6F64
"""SQLite's application_id of our files: `wnod` in ASCII."""

UPGRADES: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key))"
        " WITHOUT ROWID",
        "CREATE TABLE history (number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL,"
        " at REAL NOT NULL, text TEXT NOT NULL)",
        "CREATE INDEX history_by_key ON history (key, number)",
    ),
)
"""UPGRADES[n] brings schema n to n + 1; schema 0 is an empty file. Steps that were released never change."""

SCHEMA = len(UPGRADES)

MAX_WORD = 255
"""So many characters has a kind, a key or a name at most."""

_WORDS = (
    ("a record's kind", "SELECT DISTINCT typeof(kind), CAST(kind AS BLOB) FROM records"),
    ("a record's key", "SELECT typeof(key), CAST(key AS BLOB) FROM records"),
    ("a number's name", "SELECT typeof(name), CAST(name AS BLOB) FROM numbers"),
    ("a fact's name", "SELECT typeof(name), CAST(name AS BLOB) FROM meta"),
)
"""What things are found by; as bytes, because Python itself fails at text that is none."""

_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
_REFUSED = (
    "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_NOMEM", "SQLITE_PERM",
    "SQLITE_INTERRUPT", "SQLITE_MISUSE",
)  # fmt: skip
"""What the disk or the machine does; the last: the journal has been closed already."""


class JournalError(Exception):
    """Root of what can be wrong with a journal. The text names the file and the remedy."""


class JournalBusy(JournalError):
    """Another process has it open."""


class JournalNotOurs(JournalError):
    """It belongs to another daemon, or is no journal at all."""


class JournalNewer(JournalError):
    """A newer wnod wrote it."""


class JournalOld(JournalError):
    """An older copy was put in the place of a journal that had come further (R15)."""


class JournalBroken(JournalError):
    """Its content is damaged."""


class JournalFull(JournalError):
    """The disk refused; nothing of the transaction was kept."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a journal says of itself, read without changing it."""

    schema: int
    role: str
    owner: str
    epoch: int
    records: dict[str, int]


def connect(path: str) -> sqlite3.Connection:
    """Open or create the file with every commit synced to disk. Raises JournalError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            header = os.pread(fd, 20, 0)
        finally:
            os.close(fd)  # before SQLite opens it: closing any descriptor of a file drops all locks on it
    except OSError as error:
        raise JournalFull(f"{path}: cannot be opened: {error.strerror}. Check its owner and mode") from error
    _check_writable(header, path)
    db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        _check_content(db, path)
        _check_kind(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        db.close()
        raise told(path, error) from error
    except JournalError:
        db.close()
        raise
    return db


def told(path: str, error: Exception) -> JournalError:
    """SQLite's error as ours. What is neither a lock nor the disk's doing is damage: to try again would not help."""
    # Python itself reads the text of a key: what it cannot read has no name of SQLite's.
    unreadable = isinstance(error, UnicodeDecodeError) or "decode to UTF-8" in str(error)
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT" if unreadable else "SQLITE_MISUSE")
    if name.startswith(_LOCKED):
        return JournalBusy(f"{path}: another program holds a lock on it: {error}")
    if name.startswith(_REFUSED):
        return JournalFull(f"{path}: cannot be written: {error}. Free disk space, or look at the disk's health")
    return damaged(path, str(error))


def damaged(path: str, what: str) -> JournalBroken:
    """The error that names the damage, and where an administrator reads on."""
    return JournalBroken(f"{path}: damaged: {what}. See docs/troubleshoot.md, 'The journal is damaged'")


def _check_writable(header: bytes, path: str) -> None:
    """SQLite opens a file of a write version it does not know read-only, which would sound like the disk's doing."""
    if header.startswith(b"SQLite format 3\0") and header[18:19] not in (b"\0", b"\1", b"\2"):
        is_now = header[18:19].hex() or "missing"
        raise damaged(path, f"byte 18 of its header is {is_now}, SQLite writes 01 or 02")


def _check_content(db: sqlite3.Connection, path: str) -> None:
    try:
        ((verdict,),) = db.execute("PRAGMA quick_check(1)").fetchall()
    except UnicodeDecodeError:
        verdict = "its damage cannot even be put into words"  # SQLite's verdict quotes what it found
    if verdict != "ok":
        raise damaged(path, verdict)


def _check_kind(db: sqlite3.Connection, path: str) -> None:
    ((application,),) = db.execute("PRAGMA application_id").fetchall()
    ((tables,),) = db.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if application != APPLICATION and tables:
        raise JournalNotOurs(f"{path}: an SQLite file, but not a wnod journal: give `state` a directory of its own")


def apply_upgrades(db: sqlite3.Connection, path: str, upgrades: Sequence[Sequence[str]] = UPGRADES) -> bool:
    """Bring the file from its schema to the newest, inside the caller's transaction. True if it was empty."""
    ((schema,),) = db.execute("PRAGMA user_version").fetchall()
    if schema > len(upgrades):
        raise JournalNewer(
            f"{path}: written by a newer wnod (schema {schema}, this one knows {len(upgrades)}): "
            "install that version again"
        )
    for step in upgrades[schema:]:
        for statement in step:
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {len(upgrades)}")
    return bool(schema == 0)


def is_word(text: str) -> bool:
    """True if something may be kept under this kind, key or name."""
    return 0 < len(text) <= MAX_WORD and text.isprintable()


def check_words(db: sqlite3.Connection, path: str) -> None:
    """Raise JournalBroken if something is kept where nobody finds it: under a garbled word, or out of its order.

    `quick_check` sees no damage in either. A record's daemon would go on without it, and without a word.
    """
    for what, statement in _WORDS:
        for type_, word in db.execute(statement):
            if type_ != "text" or not _reads(word):
                raise damaged(path, f"{what} is {(word or b'')[:20]!r}")  # a garbled row may lack it
    for table in ("records", "numbers", "meta"):  # not the history, which is long and decides nothing
        verdict = db.execute(f"PRAGMA integrity_check({table})").fetchone()[0]
        if verdict != "ok":
            raise damaged(path, verdict)


def _reads(word: bytes) -> bool:
    try:
        return is_word(word.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def read_meta(db: sqlite3.Connection) -> dict[str, str]:
    """The file's own facts by name."""
    return dict(db.execute("SELECT name, value FROM meta").fetchall())


def look(path: str) -> Look:
    """Look into a journal that another process may have open, changing nothing. Raises JournalError."""
    try:
        with open(path, "rb") as file:
            _check_writable(file.read(20), path)
        db = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=1.0)
    except (OSError, sqlite3.Error) as error:
        raise JournalBroken(f"{path}: cannot be opened: {error}") from error
    try:
        _check_content(db, path)
        _check_kind(db, path)
        check_words(db, path)
        ((schema,),) = db.execute("PRAGMA user_version").fetchall()
        meta = read_meta(db)
        epoch = db.execute("SELECT value FROM numbers WHERE name = 'epoch'").fetchone()
        records = dict(db.execute("SELECT kind, count(*) FROM records GROUP BY kind").fetchall())
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise JournalBroken(f"{path}: {error}. See docs/troubleshoot.md, 'The journal is damaged'") from error
    finally:
        db.close()
    return Look(schema, meta.get("role", ""), meta.get("owner", ""), epoch[0] if epoch else 0, records)
