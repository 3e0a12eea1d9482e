"""Compares what became of each job with what was to become of it. Pure: this is what the demo's exit status says."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.demo.ledger import Page, starts
from deploy.demo.plan import Case

STAGES = ("granted", "parked", "ready", "released", "running", "ended")


@dataclasses.dataclass
class Job:
    """One job of the demo and everything seen of it. `stages`: wnod's own times by stage name."""

    case: Case
    id: str
    state: str = "PENDING"
    exit_code: int | None = None
    told: str = ""
    bait: str = ""
    vm: str = ""
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)
    meddled: bool = False

    @property
    def over(self) -> bool:
        """True once Slurm will do nothing more with it."""
        return self.state in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}


def complaints(job: Job, pages: Sequence[Page]) -> list[str]:
    """What is not as it should be with one job; empty if all is well."""
    wrong = []
    mine = starts(pages, job.id)
    if job.state != job.case.state:
        wrong.append(f"Slurm says {job.state}, expected {job.case.state}")
    if job.case.state != "CANCELLED" and job.exit_code != job.case.exit_code:
        wrong.append(f"exit code {job.exit_code}, expected {job.case.exit_code}")
    if len(mine) != int(job.case.runs):
        wrong.append(f"user code started {len(mine)} times, expected {int(job.case.runs)}")
    for page in mine:
        if not page.in_vm:
            wrong.append(f"user code ran on {page.hostname}")
        if page.user != job.case.user:
            wrong.append(f"user code ran as {page.user}, not {job.case.user}")
        if job.case.state != "CANCELLED" and page.ended is None:
            wrong.append("user code did not end by itself")
    return wrong


def counts(jobs: Sequence[Job], pages: Sequence[Page]) -> dict[str, int]:
    """The figures the promise is measured by."""
    return {
        "jobs_submitted": len(jobs),
        "jobs_ended_in_vm": sum(1 for job in jobs if any(p.in_vm and p.ended for p in starts(pages, job.id))),
        "jobs_lost": sum(1 for job in jobs if not job.over or (job.case.runs and not starts(pages, job.id))),
        "jobs_run_twice": sum(1 for job in jobs if len(starts(pages, job.id)) > 1),
        "jobs_run_on_bait": sum(1 for page in pages if not page.in_vm),
    }


def stage_seconds(jobs: Sequence[Job]) -> dict[str, dict[str, float]]:
    """Median and maximum of the time from interception to each stage, in seconds."""
    table = {}
    for stage in STAGES:
        times = [job.stages[stage] - job.stages["intercepted"] for job in jobs if stage in job.stages]
        if times:
            table[stage] = {"median": round(statistics.median(times), 3), "max": round(max(times), 3), "n": len(times)}
    return table


def row(job: Job, pages: Sequence[Page]) -> dict[str, Any]:
    """One line of the final table."""
    page = next(iter(starts(pages, job.id)), None)
    begun = job.stages.get("intercepted")
    times = {s: round(job.stages[s] - begun, 2) for s in STAGES if begun is not None and s in job.stages}
    return {
        "job": job.id,
        "case": job.case.name,
        "user": job.case.user,
        "environment": job.case.environment or "(default)",
        "bait": job.bait,
        "vm": job.vm,
        "guest": page.hostname if page else "-",
        "kernel": page.kernel if page else "-",
        **times,
        "state": job.state,
        "exit": job.exit_code,
    }
