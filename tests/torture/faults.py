"""What each kind of fault does to the lab, and how it is undone: one small context manager each."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from deploy.lab.layout import HEAD
from deploy.lab.namespaces import LabError
from deploy.lab.site import USERS
from tests.torture.ground import Ground, Qemu
from tests.torture.plan import Fault
from wnod.journalfile import APPLICATION, SCHEMA, UPGRADES

NOBODY_S = 6.0
"""So long a fault waits for a VM to hit."""
JOURNAL = ("", "-wal", "-shm")
COPY = (
    "import sqlite3, sys; source = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); "
    "source.execute('SELECT value FROM meta').fetchone()[0]; source.backup(sqlite3.connect(sys.argv[2]))"
)
"""Fails for a journal that no daemon has opened yet: that one is nobody's."""
REFUSES_S = 30.0


class NothingToHit(Exception):
    """There was no VM, or what was to be hit was away already."""


Breaking = AbstractContextManager[str]
"""Within it the fault lasts; it yields the VM that was hit, if it was one."""


def break_it(ground: Ground, fault: Fault) -> Breaking:
    """The fault, ready to begin. Entering it may raise NothingToHit or LabError (the host is off)."""
    kind = fault.kind
    verb, _, what = kind.partition("-")
    where = HEAD if what == "slurmctld" else fault.host
    if kind in OWN_WAYS:
        return OWN_WAYS[kind](ground, fault)
    if verb == "journal":
        way, _, daemon = what.rpartition("-")
        return _journal(ground, fault.host, daemon, JOURNALS[way])
    if verb == "disk":
        return _disk_full(ground, fault.host, what.removeprefix("full-"))
    return (_killed if verb == "kill" else _stopped)(ground, where, what)


# --- processes ----------------------------------------------------------------------------------------------


@contextmanager
def _killed(ground: Ground, where: str, *names: str) -> Iterator[str]:
    with ground.supervisor.holding(where, *names):
        for name in names:
            ground.lab.kill(where, name, signal.SIGKILL)
        yield ""
        for name in names:
            ground.supervisor.start(where, name)


@contextmanager
def _stopped(ground: Ground, where: str, name: str) -> Iterator[str]:
    ground.lab.kill(where, name, signal.SIGSTOP, wait=0)
    try:
        yield ""
    finally:
        with contextlib.suppress(LabError):
            ground.lab.kill(where, name, signal.SIGCONT, wait=0)


def _a_qemu(ground: Ground, fault: Fault) -> Qemu:
    end = time.monotonic() + NOBODY_S
    while time.monotonic() < end:
        found = sorted((q for q in ground.qemus() if q.host == fault.host and q.vm.startswith("vm-")), key=str)
        if found:
            return found[fault.pick % len(found)]
        time.sleep(0.3)
    raise NothingToHit(f"no VM on {fault.host}")


@contextmanager
def _qemu_killed(ground: Ground, fault: Fault) -> Iterator[str]:
    qemu = _a_qemu(ground, fault)
    if not qemu.signal(signal.SIGKILL):
        raise NothingToHit(qemu.vm)
    yield qemu.vm


@contextmanager
def _qemu_stopped(ground: Ground, fault: Fault) -> Iterator[str]:
    qemu = _a_qemu(ground, fault)
    if not qemu.signal(signal.SIGSTOP):
        raise NothingToHit(qemu.vm)
    try:
        yield qemu.vm
    finally:
        qemu.signal(signal.SIGCONT)


@contextmanager
def _both_killed(ground: Ground, fault: Fault) -> Iterator[str]:
    with _killed(ground, fault.host, "bait", "hostmaster"):
        yield ""


@contextmanager
def _rebooted(ground: Ground, fault: Fault) -> Iterator[str]:
    with ground.supervisor.holding(fault.host, *ground.supervisor.names(fault.host)):
        ground.lab.power_off(fault.host)
        yield ""
        ground.boot(fault.host)


# --- wires --------------------------------------------------------------------------------------------------

LOSS = ("-m", "statistic", "--mode", "random", "--probability", "0.4")
"""A slow line: what TCP has to send again and again takes seconds."""


def _in_link(fault: Fault, *loss: str) -> list[list[str]]:
    return [["INPUT", "-i", "lo", "-p", "tcp", "--dport", "9610", *loss]]


def _out_link(fault: Fault, *loss: str) -> list[list[str]]:
    return [["INPUT", "-i", "lo", "-p", "tcp", "--sport", "9610", *loss]]


@contextmanager
def _dropped(ground: Ground, where: str, rules: list[list[str]], vm: str = "") -> Iterator[str]:
    for rule in rules:
        ground.lab.run(where, ["iptables", "-w", "-A", *rule, "-j", "DROP"], check=True)
    try:
        yield vm
    finally:
        for rule in rules:
            with contextlib.suppress(LabError):  # a host that rebooted has no rules
                ground.lab.run(where, ["iptables", "-w", "-D", *rule, "-j", "DROP"])


def _link(ways: list[Callable[..., list[list[str]]]], loss: tuple[str, ...], ground: Ground, fault: Fault) -> Breaking:
    return _dropped(ground, fault.host, [rule for way in ways for rule in way(fault, *loss)])


def _vm_line(ways: str, loss: tuple[str, ...], ground: Ground, fault: Fault) -> Breaking:
    """Between the controller's machine, which has the homes too, and one VM."""
    qemu = _a_qemu(ground, fault)
    address = ground.lab.layout.node(fault.host).address.rsplit(".", 1)[0] + f".{10 + int(qemu.vm.rsplit('-', 1)[1])}"
    rules = {"in": ["INPUT", "-s", address, *loss], "out": ["OUTPUT", "-d", address, *loss]}
    return _dropped(ground, HEAD, [rules[way] for way in ways.split()], qemu.vm)


@contextmanager
def _cable_pulled(ground: Ground, fault: Fault) -> Iterator[str]:
    ground.lab.cut(fault.host)
    try:
        yield ""
    finally:
        ground.lab.heal(fault.host)


# --- disks and journals -------------------------------------------------------------------------------------


@contextmanager
def _disk_full(ground: Ground, host: str, name: str) -> Iterator[str]:
    with ground.disks.full(host, name):
        yield ""


Change = Callable[[Ground, str, str], AbstractContextManager[None]]


@contextmanager
def _journal(ground: Ground, host: str, daemon: str, change: Change) -> Iterator[str]:
    """The daemon is dead while its journal is changed."""
    with ground.supervisor.holding(host, daemon):
        ground.lab.kill(host, daemon, signal.SIGKILL)
        with change(ground, host, daemon):
            yield ""
        ground.supervisor.start(host, daemon)


def journal_path(ground: Ground, host: str, daemon: str) -> Path:
    """As this machine sees it."""
    return Path(f"/proc/{ground.lab.pid_on_machine(host)}/root/var/lib/wnod/{daemon}/journal.sqlite")


def _remove(path: Path) -> None:
    for suffix in JOURNAL:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _put(ground: Ground, host: str, daemon: str, source: Path) -> None:
    path = journal_path(ground, host, daemon)
    _remove(path)
    shutil.copyfile(source, path)
    path.chmod(0o600)
    ground.lab.run(host, ["chown", USERS[daemon], f"/var/lib/wnod/{daemon}/journal.sqlite"], check=True)


@contextmanager
def _deleted(ground: Ground, host: str, daemon: str) -> Iterator[None]:
    _remove(journal_path(ground, host, daemon))
    yield


@contextmanager
def _older_schema(ground: Ground, host: str, daemon: str) -> Iterator[None]:
    """As an older wnod would have left it, on its first day."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, "journal")
        db = sqlite3.connect(made, isolation_level=None)
        for statement in (statement for step in UPGRADES[: SCHEMA - 1] for statement in step):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {SCHEMA - 1}")
        db.close()
        _put(ground, host, daemon, made)
        # An older wnod kept no count beside it.
        path = journal_path(ground, host, daemon)
        path.with_name(path.name + ".mark").unlink(missing_ok=True)
    yield


@contextmanager
def _foreign(ground: Ground, host: str, daemon: str) -> Iterator[None]:
    """Another host's journal lies there; the daemon must refuse to start with it. Then its own is put back."""
    other = next(name for name in ground.lab.hosts if name != host)
    strange, path = copy_of(ground, other, daemon), journal_path(ground, host, daemon)
    if not strange.exists():
        raise NothingToHit(f"no copy of the {daemon}'s journal of {other} yet")
    with tempfile.TemporaryDirectory() as directory:
        own = [path.with_name(path.name + suffix) for suffix in JOURNAL]
        kept = [shutil.copy2(file, directory) for file in own if file.exists()]
        _put(ground, host, daemon, strange)
        ground.supervisor.start(host, daemon)
        try:
            _expect_refusal(ground, host, daemon)
            yield
        finally:
            if ground.lab.exit_code(host, daemon) is None:
                ground.lab.kill(host, daemon, signal.SIGKILL)
            _remove(path)
            for file in map(Path, kept):
                shutil.copyfile(file, path.with_name(file.name))
                path.with_name(file.name).chmod(0o600)
                ground.lab.run(host, ["chown", USERS[daemon], f"/var/lib/wnod/{daemon}/{file.name}"], check=True)


def _expect_refusal(ground: Ground, host: str, daemon: str) -> None:
    end = time.monotonic() + REFUSES_S
    while ground.lab.exit_code(host, daemon) is None and time.monotonic() < end:
        time.sleep(0.2)
    code = ground.lab.exit_code(host, daemon)
    if code != 78:
        ground.anomalies.append(f"the {daemon} of {host} did not refuse a journal that is not its newest own: {code}")


@contextmanager
def _old_copy(ground: Ground, host: str, daemon: str) -> Iterator[None]:
    """The daemon must notice and refuse to start; then the copy is moved away, as its text says, and it begins anew."""
    copy, path = copy_of(ground, host, daemon), journal_path(ground, host, daemon)
    if not copy.exists():
        raise NothingToHit(f"no copy of the {daemon}'s journal of {host} yet")
    last, newest = path.with_name(path.name + ".mark").read_text().split()[:2]
    journal, commits = _reached(copy)
    is_older = journal != newest or commits < int(last)
    _put(ground, host, daemon, copy)
    if is_older:
        ground.supervisor.start(host, daemon)
        _expect_refusal(ground, host, daemon)
        if ground.lab.exit_code(host, daemon) is None:
            ground.lab.kill(host, daemon, signal.SIGKILL)
        _remove(path)
    yield


def _reached(copy: Path) -> tuple[str, int]:
    """Which journal it is a copy of, and how many commits it has."""
    with contextlib.closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as db:
        (journal,) = db.execute("SELECT value FROM meta WHERE name = 'id'").fetchone()
        (commits,) = db.execute("SELECT value FROM numbers WHERE name = 'commits'").fetchone()
    return str(journal), int(commits)


def copy_of(ground: Ground, host: str, daemon: str) -> Path:
    """The last copy but one."""
    return ground.lab.layout.root / "copies" / f"{host}-{daemon}.older"


def take_copy(ground: Ground, host: str, daemon: str) -> None:
    """Copy a journal as its daemon's own user, as a backup would; the copy before it stays as the older one."""
    inside, newest = f"/run/wnod/{daemon}/copy", copy_of(ground, host, daemon).with_suffix(".newest")
    newest.parent.mkdir(exist_ok=True)
    argv = [ground.site.python, "-c", COPY, f"/var/lib/wnod/{daemon}/journal.sqlite", inside]
    done = ground.lab.run(host, argv, user=USERS[daemon])
    made = Path(f"/proc/{ground.lab.pid_on_machine(host)}/root{inside}")
    if done.returncode == 0:
        if newest.exists():
            newest.rename(copy_of(ground, host, daemon))
        shutil.copyfile(made, newest)
    made.unlink(missing_ok=True)


JOURNALS: dict[str, Change] = {
    "deleted": _deleted, "older-schema": _older_schema, "foreign": _foreign, "old-copy": _old_copy,
}  # fmt: skip
OWN_WAYS: dict[str, Callable[[Ground, Fault], Breaking]] = {
    "kill-qemu": _qemu_killed,
    "kill-both": _both_killed,
    "stop-qemu": _qemu_stopped,
    "reboot-host": _rebooted,
    "link-cut": partial(_link, [_in_link, _out_link], ()),
    "link-half-open-to-hostmaster": partial(_link, [_in_link], ()),
    "link-half-open-to-bait": partial(_link, [_out_link], ()),
    "link-slow": partial(_link, [_in_link, _out_link], LOSS),
    "vm-cut": partial(_vm_line, "in out", ()),
    "vm-half-open": partial(_vm_line, "in", ()),
    "vm-slow": partial(_vm_line, "in out", LOSS),
    "host-cut": _cable_pulled,
    "host-cut-long": _cable_pulled,
}
