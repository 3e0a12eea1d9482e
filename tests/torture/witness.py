"""What is seen from outside of wnod: what is left behind, and a job's history from both sides when a promise broke."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.lab.layout import HEAD, PROJECT
from deploy.lab.namespaces import LabError
from deploy.lab.site import DAEMONS, USERS
from tests.torture.ground import Ground
from tests.torture.judge import OVER, Key
from wnod.ask import DaemonUnreachable, ask

RECORDS = "import json,sys; from wnod.journalfile import look; print(json.dumps(look(sys.argv[1]).records))"
OUR_NOTE = "wnod:lease="
HELD = ("JobHeldUser", "JobHeldAdmin")


def left_behind(ground: Ground) -> dict[str, int]:
    """By kind, how many things are there that only a job would explain. -1: could not be looked at."""
    kinds = {
        "domains": _domains, "qemu": _qemus, "overlays": _overlays, "leases": _leases, "vm_records": _vm_records,
        "guest_sockets": _guest_sockets, "held_jobs": _held, "slurm_nodes": _slurm_nodes, "baits_closed": _closed,
    }  # fmt: skip
    found = {}
    for kind, look in kinds.items():
        try:
            found[kind] = len(look(ground))
        except (LabError, OSError, RuntimeError, ValueError):
            found[kind] = -1
    return found


def left_words(ground: Ground) -> list[str]:
    """The same by name."""
    words = []
    for look in (_domains, _qemus, _overlays, _leases, _vm_records, _guest_sockets, _held, _slurm_nodes, _closed):
        with contextlib.suppress(LabError, OSError, RuntimeError, ValueError):
            words += [f"{look.__name__.strip('_')}: {what}" for what in look(ground)]
    return words


def _output(ground: Ground, where: str, *argv: str, user: str | None = None) -> list[str]:
    done = ground.lab.run(where, list(argv), user=user, env={"PYTHONPATH": str(PROJECT)})
    if done.returncode:
        raise RuntimeError(f"{argv[0]} on {where}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def _everywhere(ground: Ground, *argv: str) -> list[str]:
    return [f"{h} {line.strip()}" for h in ground.lab.hosts for line in _output(ground, h, *argv) if line.strip()]


def _domains(ground: Ground) -> list[str]:
    return _everywhere(ground, "virsh", "-q", "list", "--all", "--name")


def _qemus(ground: Ground) -> list[str]:
    return [f"{qemu.host} {qemu.vm} pid {qemu.pid}" for qemu in ground.qemus()]


def _overlays(ground: Ground) -> list[str]:
    return _everywhere(ground, "find", "/var/lib/wnod/hostmaster/overlays", "-type", "f")


def _guest_sockets(ground: Ground) -> list[str]:
    return _everywhere(ground, "find", "/run/wnod/hostmaster/guests", "-type", "s")


def _records(ground: Ground, daemon: str, kind: str) -> list[str]:
    found = []
    for host in ground.lab.hosts:
        path = f"/var/lib/wnod/{daemon}/journal.sqlite"
        (line,) = _output(ground, host, ground.site.python, "-c", RECORDS, path, user=USERS[daemon])
        found += [f"{host} {kind}"] * int(json.loads(line).get(kind, 0))
    return found


def _leases(ground: Ground) -> list[str]:
    return _records(ground, "bait", "lease")


def _vm_records(ground: Ground) -> list[str]:
    return _records(ground, "hostmaster", "vm")


def squeue(ground: Ground) -> list[dict[str, Any]]:
    """Every job, in Slurm's own words."""
    text = "\n".join(_output(ground, HEAD, "squeue", "--json", "--all", "--states=all"))
    rows: list[dict[str, Any]] = json.loads(text)["jobs"]
    return rows


def _held(ground: Ground) -> list[str]:
    return [
        f"{row['job_id']} {row['name']} {row['state_reason']} {row['admin_comment']}"
        for row in squeue(ground)
        if row["job_state"] not in OVER
        and row["state_reason"] in HELD
        and str(row.get("admin_comment") or "").startswith(OUR_NOTE)
    ]


def _slurm_nodes(ground: Ground) -> list[str]:
    return [line for line in _output(ground, HEAD, "sinfo", "-a", "-h", "-N", "-o", "%N %T %E") if line[:3] == "vm-"]


def _closed(ground: Ground) -> list[str]:
    lines = _output(ground, HEAD, "sinfo", "-a", "-h", "-N", "-o", "%N|%T|%E")
    baits = [line.split("|") for line in lines if line.startswith("bait-")]
    return [" ".join(bait) for bait in baits if bait[1] not in ("idle", "mixed", "allocated", "completing")]


# --- the history of a job -------------------------------------------------------------------------------------


def history(ground: Ground, key: Key, job: str) -> Iterator[str]:
    """What Slurm, its log, and both daemons of each host tell of a job."""
    number = job.split("_", maxsplit=1)[0]
    done = ground.lab.run(HEAD, ["scontrol", "-o", "show", "job", job])
    yield f"Slurm: {done.stdout.strip() or done.stderr.strip()}"
    yield from _log_lines(ground, HEAD, "slurmctld", (f"JobId={number} ", f"JobId={number}_", f"JobId={number}\n"))
    with contextlib.suppress(OSError):
        completions = (ground.lab.layout.private(HEAD, "log") / "slurm" / "jobcomp.log").read_text()
        yield from (f"jobcomp: {line}" for line in completions.splitlines() if f"Name={key[0]} " in line)
    for host in ground.lab.hosts:
        for daemon in DAEMONS:
            yield from _told(ground, host, daemon, job)
            yield from _log_lines(ground, host, daemon, (f"/{job}.", f"/{job} "))


def _log_lines(ground: Ground, where: str, name: str, marks: tuple[str, ...], most: int = 60) -> list[str]:
    with contextlib.suppress(OSError):
        lines = ground.lab.log(where, name).read_text(errors="replace").splitlines(keepends=True)
        found = [line for line in lines if any(mark in line for mark in marks)]
        return [f"{where} {name}.log: {line.strip()[:300]}" for line in found[-most:]]
    return []


def _told(ground: Ground, host: str, daemon: str, job: str) -> Iterator[str]:
    try:
        socket = f"/proc/{ground.lab.pid_on_machine(host)}/root/run/wnod/{daemon}/status.sock"
        answer: Mapping[str, Any] = ask(socket, "/explain", job=job) or {}
    except (DaemonUnreachable, LabError):
        return
    for step in answer.get("steps", ()):
        yield f"{host} {daemon}: {step['at']:.1f} {step['text']}"


def keep_logs(ground: Ground, target: Path) -> None:
    """Every log of the lab, and the ledger."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for where in (HEAD, *ground.lab.hosts):
        for log in ground.lab.layout.private(where, "log").rglob("*.log"):
            shutil.copy(log, target / f"{where}-{log.name}")
    if ground.ledger.is_dir():
        shutil.copytree(ground.ledger, target / "ledger", dirs_exist_ok=True)
    for host in ground.lab.hosts:
        consoles = ground.lab.layout.root / f"{host}-consoles"
        with contextlib.suppress(LabError, OSError):
            inside = Path(f"/proc/{ground.lab.pid_on_machine(host)}/root/var/lib/wnod/hostmaster/console")
            shutil.copytree(inside, target / consoles.name, dirs_exist_ok=True)
