"""Commits per second: the journal's, and SQLite's own with the same pragmas, the same rows, on the same disk."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.daemons.common import spread
from tests.bench.daemons.host_site import record
from wnod.journal import Journal

COUNT = 300
GROUP = 100


def _timed(commit: Callable[[int], None]) -> dict[str, Any]:
    took = []
    for number in range(COUNT):
        begun = time.perf_counter()
        commit(number)
        took.append(time.perf_counter() - begun)
    return {"commits_per_s": round(COUNT / sum(took)), **spread(took)}


def _journal(path: Path) -> dict[str, Any]:
    vm = record(1000, "a" * 64)
    journal = Journal(str(path / "journal.sqlite"), "hostmaster", "h1")
    single = _timed(lambda number: journal.put("vm", str(number), vm))
    begun = time.perf_counter()
    for group in range(10):
        with journal.transaction():
            for number in range(GROUP):
                journal.put("vm", f"{group} {number}", vm)
                journal.history("vm", str(number), "vm1000-g1000 started", 1.0)
    single["records_per_s_in_groups_of_100"] = round(10 * GROUP / (time.perf_counter() - begun))
    journal.close()
    return single


def _sqlite(path: Path) -> dict[str, Any]:
    db = sqlite3.connect(path / "raw.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE records (kind TEXT, key TEXT, body BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID")
    body = b"x" * 600

    def commit(number: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", ("vm", str(number), body))
        db.execute("COMMIT")

    result = _timed(commit)
    db.close()
    return result


def run(path: Path) -> dict[str, Any]:
    """Both, in turns, three times; the medians' run."""
    ways: dict[str, Callable[[Path], dict[str, Any]]] = {"sqlite": _sqlite, "journal": _journal}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for number in range(3):
        for name, way in ways.items():
            directory = path / f"{name}-{number}"
            directory.mkdir(parents=True)
            runs[name].append(way(directory))
    result: dict[str, Any] = {name: sorted(r, key=lambda one: one["commits_per_s"])[1] for name, r in runs.items()}
    result["ratio"] = round(result["sqlite"]["commits_per_s"] / result["journal"]["commits_per_s"], 2)
    return result
