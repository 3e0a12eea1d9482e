"""The journal's promises: what is committed is there after a crash at any instant, and nothing else is."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wnod import journalfile
from wnod.journal import (
    HISTORY_PER_KEY,
    MAX_TEXT,
    Entry,
    Journal,
    JournalBroken,
    JournalBusy,
    JournalError,
    JournalFull,
    JournalNewer,
    JournalNotOurs,
)
from wnod.journalfile import told


class Thing(msgspec.Struct, frozen=True):
    """A record such as daemons keep."""

    number: int
    text: str = ""


class Put(msgspec.Struct, frozen=True):
    kind: str
    key: str
    number: int


class Remove(msgspec.Struct, frozen=True):
    kind: str
    key: str


class Count(msgspec.Struct, frozen=True):
    name: str


class Tell(msgspec.Struct, frozen=True):
    key: str
    text: str


class Group(msgspec.Struct, frozen=True):
    """A transaction; `fails`: something in it raises at the end."""

    steps: tuple[object, ...]
    fails: bool


KINDS = ("lease", "vm")
KEYS = ("a", "b", "ü/../'\"")
keys = st.sampled_from(KEYS)
kinds = st.sampled_from(KINDS)
simple = st.one_of(
    st.builds(Put, kinds, keys, st.integers(0, 9)),
    st.builds(Remove, kinds, keys),
    st.builds(Count, st.sampled_from(("generation", "request"))),
    st.builds(Tell, keys, st.text(max_size=5)),
)
groups = st.builds(Group, st.lists(simple, max_size=4).map(tuple), st.booleans())
nested = st.builds(Group, st.lists(st.one_of(simple, groups), max_size=4).map(tuple), st.booleans())
operations = st.lists(st.one_of(simple, nested), max_size=8)


class Model:
    """What the journal must contain, the plain way."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], int] = {}
        self.numbers: dict[str, int] = {}
        self.history: list[tuple[str, str]] = []

    def copy(self) -> "Model":
        other = Model()
        other.records, other.numbers = dict(self.records), dict(self.numbers)
        other.history = list(self.history)
        return other

    def apply(self, operation: object) -> None:
        match operation:
            case Put(kind, key, number):
                self.records[kind, key] = number
            case Remove(kind, key):
                self.records.pop((kind, key), None)
            case Count(name):
                self.numbers[name] = self.numbers.get(name, 0) + 1
            case Tell(key, text):
                self.history.append((key, text.encode("utf-8", "replace").decode()))
            case Group(steps):
                trial = self.copy()
                for step in steps:
                    trial.apply(step)
                if not _fails(operation):
                    self.records, self.numbers, self.history = trial.records, trial.numbers, trial.history

    def seen(self) -> tuple[object, ...]:
        told = {key: [text for k, text in self.history if k == key] for key in KEYS}
        return (dict(self.records), dict(self.numbers), told)


def _fails(operation: object) -> bool:
    return isinstance(operation, Group) and (operation.fails or any(map(_fails, operation.steps)))


class Boom(Exception):
    """What a failing transaction raises."""


def perform(journal: Journal, operation: object) -> None:
    match operation:
        case Put(kind, key, number):
            journal.put(kind, key, Thing(number))
        case Remove(kind, key):
            journal.remove(kind, key)
        case Count(name):
            journal.next_number(name)
        case Tell(key, text):
            journal.history("step", key, text, 1.0)
        case Group(steps, fails):
            with journal.transaction():
                for step in steps:
                    perform(journal, step)
                if fails:
                    raise Boom


def carry_out(journal: Journal, operation: object) -> None:
    try:
        perform(journal, operation)
    except Boom:
        assert _fails(operation)


def read(journal: Journal) -> tuple[object, ...]:
    records = {(kind, key): thing.number for kind in KINDS for key, thing in journal.load(kind, Thing).items()}
    told = {key: [entry.text for entry in journal.read_history(key)] for key in KEYS}
    numbers = {name: journal.raise_number(name, 0) for name in ("generation", "request")}
    return (records, {name: number for name, number in numbers.items() if number}, told)


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wnod-journal-") as directory:
        yield Path(directory)


def after_crash(path: Path, directory: Path, keep_wal: int | None = None) -> Journal:
    """The journal as the next process would find it: its files as they are now, the write-ahead log cut if asked."""
    directory.mkdir()
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            shutil.copy(source, directory / f"j{suffix}")
    if keep_wal is not None:
        os.truncate(directory / "j-wal", keep_wal)
    return Journal(str(directory / "j"), "bait", "b1")


@settings(max_examples=60)
@given(operations)
def test_a_crash_after_any_operation_keeps_exactly_what_was_committed(todo: list[object]) -> None:
    model = Model()
    with place() as directory:
        journal = Journal(str(directory / "j"), "bait", "b1")
        for index, operation in enumerate(todo):
            carry_out(journal, operation)
            model.apply(operation)
            survivor = after_crash(directory / "j", directory / str(index))
            assert read(survivor) == model.seen()
            assert survivor.epoch == journal.epoch + 1
            survivor.close()
        journal.close()


@settings(max_examples=60)
@given(operations, st.lists(simple, min_size=1, max_size=5))
def test_a_crash_inside_a_transaction_keeps_nothing_of_it(before: list[object], inside: list[object]) -> None:
    model = Model()
    with place() as directory:
        journal = Journal(str(directory / "j"), "bait", "b1")
        for operation in before:
            carry_out(journal, operation)
            model.apply(operation)
        with journal.transaction():
            for index, operation in enumerate(inside):
                perform(journal, operation)
                survivor = after_crash(directory / "j", directory / str(index))
                assert read(survivor) == model.seen()
                survivor.close()
        journal.close()


@settings(max_examples=60)
@given(st.lists(st.one_of(simple, nested), min_size=1, max_size=6), st.floats(0, 1))
def test_a_torn_write_ahead_log_is_some_earlier_commit_and_never_half_of_one(todo: list[object], cut: float) -> None:
    model = Model()
    states = [model.seen()]
    with place() as directory:
        journal = Journal(str(directory / "j"), "bait", "b1")
        settled = os.path.getsize(directory / "j-wal")
        for operation in todo:
            carry_out(journal, operation)
            model.apply(operation)
            states.append(model.seen())
        size = os.path.getsize(directory / "j-wal")
        survivor = after_crash(directory / "j", directory / "torn", settled + int(cut * (size - settled)))
        # A top-level operation is one commit, except that raising a number in `read` adds nothing here.
        assert read(survivor) in states
        survivor.close()
        journal.close()


def test_a_killed_process_has_kept_every_number_it_spoke_of(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom wnod.journal import Journal\nj = Journal(sys.argv[1], 'bait', 'b1')\n"
        "while True:\n    print(j.next_number('generation'), flush=True)\n"
    )
    spoken = 0
    for epoch in range(1, 4):
        argv = [sys.executable, "-c", program, str(tmp_path / "j")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            first = int(child.stdout.readline())
            assert first > spoken
            for _ in range(20 * epoch):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            rest = [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            spoken = max([first, *rest])
    journal = Journal(str(tmp_path / "j"), "bait", "b1")
    assert journal.epoch == 4
    assert journal.next_number("generation") > spoken
    journal.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "journal.sqlite")


@pytest.fixture
def journal(path: str) -> Iterator[Journal]:
    opened = Journal(path, "bait", "b1")
    yield opened
    opened.close()


def test_records_keep_their_type_and_the_order_of_their_keys(journal: Journal) -> None:
    journal.put("lease", "b", Thing(2, "zwei"))
    journal.put("lease", "a", Thing(1))
    journal.put("vm", "a", Thing(9))
    assert list(journal.load("lease", Thing).items()) == [("a", Thing(1)), ("b", Thing(2, "zwei"))]
    journal.remove("lease", "a")
    journal.remove("lease", "a")
    assert journal.load("lease", Thing) == {"b": Thing(2, "zwei")}


def test_numbers_start_at_one_and_can_be_raised_but_never_lowered(journal: Journal) -> None:
    assert [journal.next_number("generation") for _ in range(3)] == [1, 2, 3]
    assert journal.raise_number("generation", 10) == 10
    assert journal.raise_number("generation", 4) == 10
    assert journal.next_number("generation") == 11


def test_each_opening_is_a_new_epoch(path: str) -> None:
    for expected in (1, 2, 3):
        journal = Journal(path, "hostmaster", "h1")
        assert journal.epoch == expected
        journal.close()
        journal.close()


def test_history_is_bounded_per_key_and_keeps_the_newest(journal: Journal) -> None:
    for number in range(HISTORY_PER_KEY + 5):
        journal.history("job", "12", f"step {number}", float(number))
    journal.history("job", "13", "x" * 5000, 1.0)
    told = journal.read_history("12")
    assert len(told) == HISTORY_PER_KEY
    assert told[-1] == Entry(float(HISTORY_PER_KEY + 4), "job", f"step {HISTORY_PER_KEY + 4}")
    assert told[0].at == 5.0
    assert len(journal.read_history("13")[0].text) == MAX_TEXT
    assert journal.read_history("14") == ()


def test_history_is_bounded_in_all(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wnod.journal.HISTORY_IN_ALL", 10)
    for number in range(25):
        journal.history("job", str(number), "text", 1.0)
    assert [len(journal.read_history(str(number))) for number in (14, 15, 24)] == [0, 1, 1]


def test_text_that_is_no_unicode_is_kept_as_far_as_it_goes(journal: Journal) -> None:
    journal.history("job", "12", "bad \udcff byte", 1.0)
    assert journal.read_history("12")[0].text == "bad ? byte"


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 10_000, "nul\0", "\udcff"])
def test_a_key_that_is_no_word_is_refused(journal: Journal, key: str) -> None:
    with pytest.raises(ValueError, match="not a journal key"):
        journal.put("lease", key, Thing(1))
    assert journal.load("lease", Thing) == {}


@pytest.mark.parametrize("key", ["../../etc/passwd", "a'; DROP TABLE records; --", 'quo"te', "пример", "x" * 255])
def test_a_key_with_odd_characters_is_just_a_key(journal: Journal, key: str) -> None:
    journal.put("lease", key, Thing(1))
    assert journal.load("lease", Thing) == {key: Thing(1)}


def test_a_failure_that_is_swallowed_still_undoes_the_whole_transaction(journal: Journal) -> None:
    def half() -> None:
        with journal.transaction():
            journal.put("lease", "a", Thing(1))
            raise Boom

    def whole() -> None:
        with journal.transaction():
            with pytest.raises(Boom):
                half()
            journal.put("lease", "b", Thing(2))

    with pytest.raises(JournalError, match="all of it was undone"):
        whole()
    assert journal.load("lease", Thing) == {}
    journal.put("lease", "c", Thing(3))
    assert journal.load("lease", Thing) == {"c": Thing(3)}


def test_commits_are_timed_one_per_transaction(path: str) -> None:
    times: list[float] = []
    journal = Journal(path, "bait", "b1", times.append)
    opened = len(times)
    with journal.transaction():
        journal.put("lease", "a", Thing(1))
        journal.next_number("generation")
        journal.history("job", "12", "text", 1.0)
    assert len(times) == opened + 1
    assert all(0 <= seconds < 60 for seconds in times)
    journal.close()


def test_every_commit_is_synced_to_disk(journal: Journal) -> None:
    """Only a power cut could show the difference, so the settings themselves are looked at."""
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_full_disk_undoes_the_transaction_and_says_so(path: str, journal: Journal) -> None:
    journal.put("lease", "a", Thing(1))
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(JournalFull, match="Free disk space"):
        journal.put("lease", "b", Thing(2, "x" * 100_000))
    assert journal.load("lease", Thing) == {"a": Thing(1)}
    journal.put("lease", "a", Thing(3))
    assert journal.load("lease", Thing) == {"a": Thing(3)}


@pytest.mark.parametrize(
    "write",
    [
        lambda journal: journal.put("lease", "after", Thing(9)),
        lambda journal: journal.remove("lease", "before"),
        lambda journal: journal.history("lease", "12", "after", 1.0),
        lambda journal: journal.next_number("after"),
    ],
    ids=["put", "remove", "history", "next_number"],
)
def test_after_a_full_disk_in_the_middle_nothing_of_the_block_is_committed_by_itself(
    journal: Journal, write: Callable[[Journal], object]
) -> None:
    """SQLite undoes the transaction at once: each statement after it would be a commit of its own."""
    journal.put("lease", "before", Thing(0))

    def block() -> None:
        with journal.transaction():
            journal.put("lease", "inside", Thing(1))
            fill_the_disk(journal)
            assert not journal._db.in_transaction, "SQLite has not undone it: this test shows nothing"
            write(journal)

    with pytest.raises(JournalError, match="all of it was undone"):
        block()
    assert journal.load("lease", Thing) == {"before": Thing(0)}
    assert journal.read_history("12") == ()
    journal._db.execute("PRAGMA max_page_count = 1000000")
    assert journal.next_number("after") == 1
    journal.put("lease", "later", Thing(2))
    assert journal.load("lease", Thing) == {"before": Thing(0), "later": Thing(2)}


def test_a_block_that_sqlite_undid_is_no_success_even_if_nothing_is_written_after(journal: Journal) -> None:
    def block() -> None:
        with journal.transaction():
            journal.put("lease", "inside", Thing(1))
            fill_the_disk(journal)

    counted = journal._commits
    with pytest.raises(JournalError, match="all of it was undone"):
        block()
    assert (journal.load("lease", Thing), journal._commits) == ({}, counted)


def test_a_block_that_sqlite_undid_without_a_write_of_ours_is_no_success(journal: Journal) -> None:
    """A read that fails (a bad disk, no memory) may undo it too."""

    def block() -> None:
        with journal.transaction():
            journal.put("lease", "inside", Thing(1))
            journal._db.execute("ROLLBACK")

    with pytest.raises(JournalError, match="all of it was undone"):
        block()
    assert journal.load("lease", Thing) == {}


def fill_the_disk(journal: Journal) -> None:
    """Inside a transaction, and swallow what it says."""
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalFull, match="Free disk space"):
        journal.put("lease", "large", Thing(2, "x" * 100_000))


# --- what is refused, and in which words -----------------------------------------------------------------


@pytest.mark.parametrize(("role", "owner"), [("hostmaster", "b1"), ("bait", "b2")])
def test_another_daemons_journal_is_refused(path: str, role: str, owner: str) -> None:
    Journal(path, "bait", "b1").close()
    with pytest.raises(JournalNotOurs, match="give each daemon its own `state` directory"):
        Journal(path, role, owner)  # type: ignore[arg-type]
    again = Journal(path, "bait", "b1")
    assert again.epoch == 2, "a refused opening must not count"
    again.close()


def test_a_second_process_is_refused_while_the_first_lives(path: str, journal: Journal) -> None:
    with pytest.raises(JournalBusy, match="running already"):
        Journal(path, "bait", "b1")
    journal.close()
    Journal(path, "bait", "b1").close()


def test_a_newer_schema_is_refused_and_left_alone(path: str) -> None:
    Journal(path, "bait", "b1").close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalNewer, match="schema 99"):
        Journal(path, "bait", "b1")
    assert journalfile.look(path).schema == 99


def test_a_foreign_database_is_refused_and_left_alone(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (cake TEXT)")
    db.close()
    before = Path(path).read_bytes()
    with pytest.raises(JournalNotOurs, match="not a wnod journal"):
        Journal(path, "bait", "b1")
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all" * 50, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_corrupt_file_is_refused(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(content)
    with pytest.raises(JournalBroken, match="The journal is damaged"):
        Journal(path, "bait", "b1")
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("at", [0, 16, 18, 19, 20, 21, 28, 36, 52, 64, 100])
def test_a_garbled_header_is_damage_and_no_full_disk(path: str, journal: Journal, at: int) -> None:
    """A daemon that took it for a full disk would tell its administrator to free space."""
    journal.put("lease", "a", Thing(1))
    journal.close()
    content = bytearray(Path(path).read_bytes())
    content[at] ^= 0x5A
    Path(path).write_bytes(content)
    with pytest.raises(JournalBroken, match="The journal is damaged"):
        Journal(path, "bait", "b1")
    with pytest.raises(JournalBroken, match="The journal is damaged"):
        journalfile.look(path)
    assert Path(path).read_bytes() == content


def test_a_damaged_page_is_found_at_opening(path: str) -> None:
    journal = Journal(path, "bait", "b1")
    for number in range(500):
        journal.put("lease", f"key {number}", Thing(number, "x" * 50))
    journal.close()
    content = bytearray(Path(path).read_bytes())
    content[20_000:30_000] = b"\x5a" * 10_000
    Path(path).write_bytes(content)
    with pytest.raises(JournalBroken):
        Journal(path, "bait", "b1")


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE records SET key = CAST(x'76ff49' AS TEXT)",
        "UPDATE records SET key = CAST(key AS BLOB)",
        "UPDATE records SET kind = CAST(x'6c656173edd9' AS TEXT)",
        "UPDATE records SET kind = 'leas' || char(7)",
        "UPDATE records SET kind = CAST(kind AS BLOB)",
        "UPDATE numbers SET name = CAST(x'ff' AS TEXT) WHERE name = 'generation'",
        "UPDATE meta SET name = 'i' || char(7) WHERE name = 'id'",
    ],
)
def test_a_record_under_a_garbled_word_stops_the_daemon_which_would_go_on_without_it(
    path: str, journal: Journal, harm: str
) -> None:
    """SQLite's own check sees nothing wrong with it, and it would be missing from all that is loaded."""
    journal.put("lease", "a", Thing(1, "x"))
    journal.next_number("generation")
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(harm)
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    with pytest.raises(JournalBroken, match="The journal is damaged"):
        Journal(path, "bait", "b1")
    with pytest.raises(JournalBroken, match="The journal is damaged"):
        journalfile.look(path)


def test_a_row_that_has_lost_its_word_is_damage_too() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for table, names in (("records", "kind, key, body"), ("numbers", "name, value"), ("meta", "name, value")):
            db.execute(f"CREATE TABLE {table} ({names})")
        db.execute("INSERT INTO records VALUES ('lease', NULL, '{}')")
        with pytest.raises(JournalBroken, match="a record's key is b''"):
            journalfile.check_words(db, "a journal")


def test_a_record_out_of_its_order_stops_the_daemon_which_would_not_find_its_neighbours(
    path: str, journal: Journal
) -> None:
    for key in ("a", "b", "c"):
        journal.put("lease", key, Thing(1, "x"))
    journal.close()
    content = Path(path).read_bytes()
    assert content.count(b"leaseb") == 1
    Path(path).write_bytes(content.replace(b"leaseb", b"zeaseb"))
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert len(db.execute("SELECT key FROM records WHERE kind = 'lease'").fetchall()) < 2, "c is found: no harm"
    with pytest.raises(JournalBroken, match="The journal is damaged"):
        Journal(path, "bait", "b1")
    with pytest.raises(JournalBroken, match="The journal is damaged"):
        journalfile.look(path)


@pytest.mark.parametrize("harm", ["PRAGMA user_version = 0", "DROP TABLE numbers", "ALTER TABLE meta RENAME TO x"])
def test_a_schema_that_is_not_what_it_says_is_damage_and_no_full_disk(path: str, journal: Journal, harm: str) -> None:
    """A daemon that took it for a full disk would wait for ever."""
    journal.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(harm)
    with pytest.raises(JournalBroken, match="damaged"):
        Journal(path, "bait", "b1")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_TOOBIG", JournalBroken),
        ("SQLITE_CORRUPT_INDEX", JournalBroken),
        ("SQLITE_FULL", JournalFull),
        ("SQLITE_IOERR_FSYNC", JournalFull),
        ("SQLITE_BUSY_SNAPSHOT", JournalBusy),
    ],
)
def test_only_the_disks_errors_are_a_full_disk(name: str, kind: type[JournalError]) -> None:
    error = sqlite3.DatabaseError("string or blob too big")
    error.sqlite_errorname = name
    assert type(told("/journal", error)) is kind


def test_a_record_of_another_version_is_named(path: str, journal: Journal) -> None:
    class Other(msgspec.Struct):
        word: str

    journal.put("lease", "a", Other("x"))
    with pytest.raises(JournalBroken, match="lease/a"):
        journal.load("lease", Thing)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", tmp_path / "journal.sqlite")
    with pytest.raises(JournalFull, match="Check its owner and mode"):
        Journal(str(tmp_path / "journal.sqlite"), "bait", "b1")
    assert not (tmp_path / "elsewhere").exists()


def test_the_files_are_for_the_daemon_alone(path: str, journal: Journal) -> None:
    journal.put("lease", "a", Thing(1))
    for name in os.listdir(os.path.dirname(path)):
        assert os.stat(f"{os.path.dirname(path)}/{name}").st_mode & 0o077 == 0, name


def test_an_older_schema_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "j", isolation_level=None)
    first, second = ("CREATE TABLE one (x)",), ("CREATE TABLE two (x)", "INSERT INTO one VALUES (7)")
    journalfile.apply_upgrades(db, "j", (first,))
    journalfile.apply_upgrades(db, "j", (first, second))
    journalfile.apply_upgrades(db, "j", (first, second))
    assert db.execute("SELECT x FROM one").fetchall() == [(7,)]
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def test_a_look_changes_nothing_even_while_a_daemon_has_it_open(path: str, journal: Journal) -> None:
    journal.put("lease", "a", Thing(1))
    seen = journalfile.look(path)
    assert (seen.role, seen.owner, seen.epoch, seen.records) == ("bait", "b1", 1, {"lease": 1})
    assert journalfile.look(path) == seen
    with pytest.raises(JournalBroken, match=r"cannot be opened|unable"):
        journalfile.look(path + ".missing")
