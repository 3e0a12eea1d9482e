"""An older copy of a journal is noticed (R15); a lost journal, and a mark that a crash left behind, are not that."""

import contextlib
import os
import random
import shutil
from pathlib import Path

import msgspec
import pytest

from wnod.journal import Journal, JournalError, JournalOld
from wnod.journalmark import AHEAD
from wnod.service import CONFIG, _cannot_start


class Thing(msgspec.Struct, frozen=True):
    number: int


def write(path: Path, *numbers: int) -> None:
    """One life of a daemon that commits so often."""
    journal = Journal(str(path), "bait", "bait1")
    for number in numbers:
        journal.put("thing", str(number), Thing(number))
    journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.mark.parametrize("lives", [1, 2])
def test_a_daemon_does_not_start_with_an_older_copy_of_its_journal(path: Path, lives: int) -> None:
    write(path, 1)
    shutil.copy(path, f"{path}.copy")
    for _ in range(lives):
        write(path, 2, 3)
    os.replace(f"{path}.copy", path)
    with pytest.raises(JournalOld, match=r"an older copy.*Move it away") as caught:
        write(path)
    assert _cannot_start(caught.value) == CONFIG  # systemd does not try that again
    with pytest.raises(JournalOld):  # nor does it help to try again
        write(path)


def test_nor_with_a_copy_of_a_journal_that_was_lost_since(path: Path) -> None:
    write(path, 1, 2, 3)
    shutil.copy(path, f"{path}.copy")
    path.unlink()
    write(path, 4)
    os.replace(f"{path}.copy", path)
    with pytest.raises(JournalOld):
        write(path)


def test_a_copy_from_which_nothing_is_missing_is_good(path: Path) -> None:
    write(path, 1)
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)
    write(path, 2)


def test_a_journal_that_was_deleted_begins_anew_and_goes_on(path: Path) -> None:
    write(path, 1, 2, 3, 4)
    path.unlink()
    write(path, 5)
    write(path, 6)


@pytest.mark.parametrize("content", [None, b"", b"\0" * 38])
def test_a_mark_that_a_machines_crash_left_behind_keeps_nobody_out(path: Path, content: bytes | None) -> None:
    write(path, 1, 2)
    mark = path.with_name("journal.sqlite.mark")
    if content is None:
        mark.unlink()
    else:
        mark.write_bytes(content)
    write(path, 3)
    assert int(mark.read_bytes().split()[0]) > 3


def test_a_mark_of_an_older_wnod_is_read_and_says_nothing_of_numbers(path: Path) -> None:
    write(path, 1)
    mark = path.with_name("journal.sqlite.mark")
    commits, journal, _ = mark.read_bytes().split()
    mark.write_bytes(commits + b" " + journal + b"\n")
    journal_now = Journal(str(path), "bait", "bait1")
    assert journal_now.below == 0
    journal_now.close()
    mark.write_bytes(b"%020d %s\n" % (int(commits) + 9, journal))
    with pytest.raises(JournalOld):
        write(path)


def test_numbers_are_below_the_mark_though_its_last_minutes_never_reached_the_disk(path: Path) -> None:
    mark = path.with_name("journal.sqlite.mark")
    journal, seen = Journal(str(path), "hostmaster", "h1"), list[int]()
    for start in range(0, 4 * AHEAD, AHEAD // 4):
        with journal.transaction():
            highest = max(journal.next_number("generation") for _ in range(AHEAD // 4))
        seen.append(int(mark.read_bytes().split()[2]))
        minutes_ago = seen[max(0, len(seen) - 4)]
        assert minutes_ago > highest > start
    journal.close()


def test_damage_of_every_place_is_called_damage_or_does_no_harm(path: Path) -> None:
    write(path, *range(40))
    content = path.read_bytes()
    rng = random.Random(1)
    for _ in range(60):
        at = rng.randrange(100, len(content) - 256)
        path.write_bytes(content[:at] + rng.randbytes(256) + content[at + 256 :])
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        with contextlib.suppress(JournalError):
            journal = Journal(str(path), "bait", "bait1")
            try:
                journal.load("thing", Thing)
            finally:
                journal.close()


def test_what_was_undone_is_not_counted(path: Path) -> None:
    journal = Journal(str(path), "bait", "bait1")
    with contextlib.suppress(ZeroDivisionError), journal.transaction():
        journal.put("thing", "1", Thing(1))
        raise ZeroDivisionError
    journal.close()
    write(path, 2)
