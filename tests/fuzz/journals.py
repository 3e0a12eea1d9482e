"""Journals as a damaged disk, another version or a stranger leaves them: opened or refused, and nothing else.

An input is a list of deeds, four bytes each: what is done, and where. So the corpus holds no database.
"""

import os
import random
import shutil
import sqlite3
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from bait.rules.lease import Lease, Phase
from hostmaster.rules.vm import Vm
from protocol.ids import BaitName, EnvironmentName, Generation, LeaseId, Run, Shape, VmName
from tests.fuzz.strangers import Target, word_of
from wnod.journal import Journal, JournalBroken, JournalError

RUN = Run(cluster="site", job="12", task=3, restart=1)
SHAPE = Shape(cpus=2, memory_mib=512, disk_mib=64)
VM = Vm(
    generation=Generation(7), vm=VmName("vm1"), uuid="00000000-0000-4000-8000-000000000007", lease=LeaseId("a" * 32),
    bait=BaitName("bait1"), owner=1000, environment=EnvironmentName("debian12"), image="b" * 64, shape=SHAPE, asked=RUN,
    granted_at=1.5, since=2.5,
)  # fmt: skip
LEASE = Lease(
    lease=LeaseId("a" * 32), run=RUN, owner=1000, user="alice", environment=EnvironmentName("debian12"), shape=SHAPE,
    partition="batch", requeue=True, phase=Phase.REQUESTED, since=1.0, stages={"intercepted": 1.0},
)  # fmt: skip
KINDS: dict[str, Any] = {"vm": Vm, "lease": Lease}
PLACE = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())


@cache
def _place() -> Path:
    return Path(tempfile.mkdtemp(prefix="wnod-fuzz-", dir=PLACE))


def forget_places() -> None:
    """Leave nothing."""
    shutil.rmtree(_place(), ignore_errors=True)


# --- records ----------------------------------------------------------------------------------------------


@cache
def _open(kind: str) -> Journal:
    return Journal(str(_place() / f"{kind}.sqlite"), "hostmaster", "h1")


def check_record(rng: random.Random, data: bytes) -> str:
    """Only JournalBroken, which names the record; what does decode can be written and read again."""
    said: list[str] = []
    for kind, type_ in KINDS.items():
        journal = _open(kind)
        journal._db.execute("INSERT OR REPLACE INTO records VALUES (?, 'k', ?)", (kind, data))
        try:
            record = journal.load(kind, type_)["k"]
        except JournalBroken as error:
            said.append(word_of(error.__cause__ or error) + ("" if f"{kind}/k" in str(error) else " of nobody"))
        else:
            assert msgspec.json.decode(msgspec.json.encode(record), type=type_) == record
            said.append(type_.__name__)
    assert "of nobody" not in " | ".join(said)
    return " | ".join(said)


# --- files ------------------------------------------------------------------------------------------------


@cache
def _good() -> dict[str, bytes]:
    path = _place() / "good.sqlite"
    journal = Journal(str(path), "hostmaster", "h1")
    for number in range(1, 30):
        journal.put("vm", str(number), VM)
        journal.history("vm", "12", f"vm1-g{number} started", float(number))
    wal = Path(f"{path}-wal").read_bytes()  # before it is closed: then there is none
    journal.close()
    return {"": path.read_bytes(), "-wal": wal, ".mark": Path(f"{path}.mark").read_bytes()}


_FILES = ("", "", "", "-wal", ".mark")
_SCHEMAS = (
    "PRAGMA user_version = {at}",
    "PRAGMA application_id = {at}",
    "DROP TABLE records",
    "DROP TABLE meta",
    "UPDATE meta SET value = 'x{at}'",
    "DELETE FROM numbers",
    "UPDATE numbers SET value = 'many'",
    "ALTER TABLE records RENAME COLUMN body TO text",
    "CREATE TABLE another (x)",
    "UPDATE records SET body = {at}",
    "INSERT INTO records VALUES ('vm', x'00ff', {at})",
    "DROP TABLE history",
)


def _done(path: Path, deeds: bytes) -> None:
    """Lay the good files out, and do to them what the input says."""
    files = dict(_good())
    if deeds[:1] < b"\x80":
        del files["-wal"]
    for name, content in files.items():
        Path(f"{path}{name}").write_bytes(content)
    for start in range(0, min(len(deeds), 40) - 3, 4):
        verb, at = deeds[start], int.from_bytes(deeds[start + 1 : start + 4], "big")
        if verb % 8 == 7:
            _execute(path, _SCHEMAS[at % len(_SCHEMAS)].format(at=at))
        else:
            _damage(Path(f"{path}{_FILES[at % len(_FILES)]}"), verb, at)


def _execute(path: Path, statement: str) -> None:
    try:
        db = sqlite3.connect(path)
        with db:
            db.execute(statement)
        db.close()
    except (sqlite3.Error, UnicodeDecodeError):
        return  # damaged before


def _damage(path: Path, verb: int, at: int) -> None:
    content = bytearray(path.read_bytes() if path.exists() else b"")
    place = at % (len(content) + 1)
    match verb % 8:
        case 0:
            del content[place:]
        case 1:
            content[place:place] = b"\x00" * 512
        case 2:
            content[place : place + 4096] = b"\xff" * len(content[place : place + 4096])
        case 3:
            content[place : place + 1] = bytes([verb])
        case 4 if content:
            content[place % min(100, len(content))] ^= 1 << (verb >> 3 & 7)  # SQLite's own header
        case _ if content:
            content[place % len(content)] ^= 1 << (verb >> 3 & 7)
    path.write_bytes(content)


def check_file(rng: random.Random, data: bytes) -> str:
    """Only a JournalError, whose text names the file and a remedy; one that opens can be read and written."""
    said = _looked_at(data)
    assert "of no file" not in said
    return said


def _looked_at(data: bytes) -> str:
    path = _place() / "damaged.sqlite"
    for name in ("", "-wal", "-shm", ".mark", ".lock"):
        Path(f"{path}{name}").unlink(missing_ok=True)
    _done(path, data)
    try:
        journal = Journal(str(path), "hostmaster", "h1")
    except JournalError as error:
        return word_of(error).removeprefix(str(path)) + ("" if str(path) in str(error) else " of no file")
    said = "opens"
    try:
        journal.load("vm", Vm)
        journal.next_number("generation")
        journal.put("vm", "1", VM)
        journal.read_history("12")
    except JournalError as error:
        said = f"opens, then {type(error).__name__}"
    finally:
        journal.close()
    return said


_DEEDS = [bytes([verb, *at]) for verb in range(0, 256, 5) for at in ((0, 0, 0), (0, 4, 210), (0, 60, 7))]

TARGETS = (
    Target("record", [msgspec.json.encode(VM), msgspec.json.encode(LEASE)], check_record, 0.09),
    Target("file", _DEEDS, check_file, 0.01),
)
