"""Where the demo plays: a lab with wnod on it, its users' commands, and what can be seen of their jobs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploy.demo.judge import Job
from deploy.demo.plan import Case, script
from deploy.lab.lab import Lab
from deploy.lab.layout import HEAD, PROJECT
from deploy.lab.site import Site, bring_up

LEDGER = "/home/ledger"
METRICS = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())"


class Stage:
    """One lab in use. `up` and `down` frame everything; the rest asks or does what a user would."""

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.say = say
        self.site: Site

    # --- up and down -----------------------------------------------------------------------------------

    def up(self) -> None:
        """Images, lab, daemons; returns when every bait is open."""
        self.site = bring_up(self.lab, self.say)
        self.ledger.mkdir(mode=0o1777, exist_ok=True)
        self.ledger.chmod(0o1777)

    def down(self, keep_logs: Path | None = None) -> None:
        """End everything and leave nothing; with `keep_logs` the daemons' logs are copied there first."""
        if keep_logs is not None:
            for host in self.lab.hosts:
                for log in self.lab.layout.private(host, "log").glob("*.log"):
                    keep_logs.mkdir(parents=True, exist_ok=True)
                    shutil.copy(log, keep_logs / f"{host}-{log.name}")
        self.lab.purge()

    @property
    def ledger(self) -> Path:
        """The ledger's directory as this machine sees it."""
        return self.lab.layout.home / "ledger"

    # --- what users do -----------------------------------------------------------------------------------

    def submit(self, case: Case) -> list[Job]:
        """`sbatch` as the case's user, in his home. RuntimeError with Slurm's words if it is refused."""
        home = self.lab.layout.home / case.user
        path = home / f"{case.name}.sh"
        path.write_text(script(case, LEDGER))
        done = self.lab.run(HEAD, case.argv(path.name), user=case.user, cwd=f"/home/{case.user}")
        if done.returncode:
            raise RuntimeError(f"sbatch {case.name}: {done.stderr.strip()}")
        number = done.stdout.strip().split(";")[0]
        return [Job(case, f"{number}_{task}") for task in case.tasks] or [Job(case, number)]

    def command(self, user: str, *argv: str) -> None:
        """Any other command of a user's. RuntimeError with its words if it fails."""
        done = self.lab.run(HEAD, list(argv), user=user)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")

    # --- what can be seen ----------------------------------------------------------------------------------

    def look(self, jobs: list[Job]) -> None:
        """Bring every job up to what Slurm and the baits say now."""
        self.look_in_slurm(jobs)
        for host in self.lab.hosts:
            for row in self.site.wnod(host, "jobs", "--all") or ():
                for job in jobs:
                    if row["job"] == job.id and row["vm"] is not None:
                        job.bait = self.lab.layout.node(host).bait
                        job.vm, job.stages = row["vm"], row["stages"]

    def look_in_slurm(self, jobs: list[Job]) -> None:
        """Bring every job up to what Slurm says now."""
        seen = {_job_id(row): row for row in self.squeue()}
        for job in jobs:
            if job.id in seen:
                _take(job, seen[job.id])

    def squeue(self) -> list[dict[str, Any]]:
        """Every job Slurm knows, in its own words."""
        done = self.lab.run(HEAD, ["squeue", "--json", "--all", "--states=all"])
        answer = json.loads(done.stdout or "{}")
        if "jobs" not in answer:
            raise RuntimeError(f"squeue: {done.stderr.strip() or answer.get('errors')}")
        rows: list[dict[str, Any]] = answer["jobs"]
        return rows

    def baits(self) -> dict[str, str]:
        """Each bait in a few words."""
        words = {}
        for host in self.lab.hosts:
            status = self.site.daemon_status(host, "bait")
            words[self.lab.layout.node(host).bait] = (
                "open" if status.get("open") else f"closed ({status.get('reason')})"
            )
        return words

    def metric(self, host: str, daemon: str, name: str) -> float:
        """One number from a daemon's Prometheus endpoint, read inside its host."""
        port = {"hostmaster": 9611, "bait": 9612}[daemon]
        argv = [self.site.python, "-c", METRICS, f"http://127.0.0.1:{port}/metrics"]
        text = self.lab.run(host, argv, check=True).stdout
        values = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(values[0])

    def left(self) -> dict[str, int]:
        """What is still there of VMs, overlays and their nodes."""
        vms = overlays = 0
        for host in self.lab.hosts:
            vms += len(self.lab.run(host, ["virsh", "-q", "list", "--all", "--name"], check=True).stdout.split())
            found = self.lab.run(host, ["find", "/var/lib/wnod/hostmaster/overlays", "-type", "f"], check=True)
            overlays += len(found.stdout.splitlines())
        nodes = self.lab.run(HEAD, ["sinfo", "-a", "-h", "-N", "-o", "%N"], check=True).stdout.split()
        return {"vms": vms, "overlays": overlays, "nodes": len([n for n in nodes if n.startswith("vm-")])}

    def floor(self, host: str, image: Path) -> float:
        """Seconds from a raw `virsh create` to idle in Slurm (deploy.demo.floor), inside a host."""
        inside = f"/var/lib/wnod/images/{image.parent.name}/{image.name}"
        argv = [self.site.python, "-m", "deploy.demo.floor", inside, "vm-raw-1", "52:54:00:77:01:63", "10.77.1.99/16"]
        done = self.lab.run(host, argv, env={"PYTHONPATH": str(PROJECT)}, timeout=300)
        if done.returncode:
            raise RuntimeError(f"floor: {done.stderr.strip()[-500:]}")
        return float(json.loads(done.stdout)["seconds"])


def _job_id(row: Mapping[str, Any]) -> str:
    if row.get("array_job_id") and row.get("array_task_id") is not None:
        return f"{row['array_job_id']}_{row['array_task_id']}"
    return str(row["job_id"])


def _take(job: Job, row: Mapping[str, Any]) -> None:
    job.state = row["job_state"]
    job.exit_code = os.waitstatus_to_exitcode(row["exit_code"]) if row.get("exit_code") is not None else None
    job.told = row.get("comment") or ""
