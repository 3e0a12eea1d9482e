"""Is the journal there, whole, and this daemon's?"""

import os
import shutil
from collections.abc import Iterator

from wnod.doctor.finding import Finding, Verdict
from wnod.journal import JournalError
from wnod.journalfile import look

FILE = "journal.sqlite"
_LEAST_FREE = 256 << 20


def check_journal(state: str, role: str, owner: str) -> Iterator[Finding]:
    """Look into the journal without changing it; also see to the disk it lies on."""
    path = f"{state}/{FILE}"
    if not os.path.exists(path):
        yield Finding("journal", Verdict.WARN, f"{path}: not there yet", "it is made when the daemon starts first")
        return
    yield _content(path, role, owner)
    free = shutil.disk_usage(state).free
    if free < _LEAST_FREE:
        yield Finding("disk", Verdict.BAD, f"{state}: {free >> 20} MiB free", "make room: without it no job can move")


def _content(path: str, role: str, owner: str) -> Finding:
    try:
        found = look(path)
    except JournalError as error:
        return Finding("journal", Verdict.BAD, str(error), "docs/troubleshoot.md, 'The journal is damaged'")
    if (found.role, found.owner) != (role, owner):
        text = f"{path}: belongs to {found.role} {found.owner}, not to {role} {owner}"
        return Finding("journal", Verdict.BAD, text, "give each daemon its own `state` directory")
    records = ", ".join(f"{count} {kind}" for kind, count in sorted(found.records.items())) or "empty"
    return Finding("journal", Verdict.OK, f"{path}: schema {found.schema}, epoch {found.epoch}, {records}")
