"""What must be true of the jobs after the storm, from the jobs' own ledger and Slurm's words alone. Pure.

wnod's logs and journals are no witnesses here. Times are seconds since 1970 of the machine's one clock; a guest's own
clock is set by its hostmaster and may be off a little, hence SLACK_S.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tests.torture.ledger import Run, of

Key = tuple[str, str]
SLACK_S = 0.7
"""So much later than the next start may a sign of life be, for the clocks of two guests."""
FORGETS_S = 8.0
"""A slurmctld that is killed may forget what it was told in so many seconds before (it saves its state every five)."""
LAUNCH_S = 3.0
"""So long before its first word Slurm may have started a run: a launch in a busy emulated guest."""
AFTER_S = 15.0
"""So long after a run's last sign what hits its VM may still make Slurm run the job again: its end was not heard."""
MUTE_S = 4.0
"""So long after Slurm's start a job may need for its first word: a machine that is hit by then may have kept it."""
OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"})


@dataclasses.dataclass(frozen=True)
class Submission:
    """One sbatch. `sure`: Slurm answered with a job id (else it may or may not have taken the job)."""

    name: str
    user: str
    at: float
    tasks: tuple[str, ...] = ("-",)
    requeue: bool = True
    sure: bool = True


@dataclasses.dataclass(frozen=True)
class Deed:
    """What a user did to his job; `done`: Slurm said yes, or may have."""

    at: float
    name: str
    what: str
    done: bool = True


@dataclasses.dataclass(frozen=True)
class Hit:
    """A fault as it happened. `vm`: the one VM it hit, empty if it was none in particular."""

    number: int
    kind: str
    host: str
    at: float
    until: float
    vm: str = ""

    def __str__(self) -> str:
        return f"{self.at:.1f} to {self.until:.1f} #{self.number} {self.kind} {self.host} {self.vm}".rstrip()


@dataclasses.dataclass(frozen=True)
class Row:
    """What Slurm says of a job at the end."""

    name: str
    task: str
    job: str
    state: str
    reason: str = ""
    node: str = ""
    """Where it runs, or ran last."""
    started: float = 0.0
    """When Slurm started it there, to the second."""

    @property
    def key(self) -> Key:
        """As in the ledger."""
        return self.name, self.task


@dataclasses.dataclass(frozen=True)
class Breach:
    """A promise that was not kept."""

    kind: str
    key: Key
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.key[0]}/{self.key[1]}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that the judge is shown."""

    submissions: Sequence[Submission]
    deeds: Sequence[Deed]
    hits: Sequence[Hit]
    rows: Sequence[Row]
    runs: Sequence[Run]


def judge(seen: Evidence) -> list[Breach]:
    """Every breach."""
    found: list[Breach] = []
    rows = {row.key: row for row in seen.rows}
    for submission in seen.submissions:
        for task in submission.tasks:
            key = (submission.name, task)
            runs = of(seen.runs, key)
            found += lost(submission, key, rows.get(key), runs, seen)
            found += doubles(key, runs)
            found += over_budget(key, runs, seen)
    found += [Breach("on_bait", run.key, str(run)) for run in seen.runs if not run.host.startswith("vm-")]
    return found


def lost(submission: Submission, key: Key, row: Row | None, runs: Sequence[Run], seen: Evidence) -> list[Breach]:
    """A job is lost if it did not come to an end that its user wanted or understands."""
    why = _why_lost(submission, row, runs, seen)
    return [Breach("lost", key, why)] if why else []


def _why_lost(submission: Submission, row: Row | None, runs: Sequence[Run], seen: Evidence) -> str:
    if row is None:
        known = submission.sure and not forgotten(submission, seen.hits)
        return "Slurm does not know it" if known or runs else ""
    if row.state not in OVER:
        return f"not over: {row.state} ({row.reason})"
    if any(deed.name == submission.name and deed.what == "cancel" and deed.done for deed in seen.deeds):
        return ""
    if row.state == "COMPLETED":
        return (
            "" if any(run.status == 0 for run in runs) else f"COMPLETED, but no run came to its end: {len(runs)} runs"
        )
    if row.state == "NODE_FAIL" and not submission.requeue and runs:
        return "" if any(hits(hit, runs[-1]) for hit in seen.hits) else "NODE_FAIL, but nothing had hit its VM"
    if row.state == "NODE_FAIL" and not submission.requeue and any(mutes(hit, row) for hit in seen.hits):
        return ""
    return f"{row.state} ({row.reason}), {len(runs)} runs"


def forgotten(submission: Submission, all_hits: Iterable[Hit]) -> bool:
    """True if Slurm itself may have forgotten the submission."""
    return any(hit.kind == "kill-slurmctld" and 0 <= hit.at - submission.at <= FORGETS_S for hit in all_hits)


def doubles(key: Key, runs: Sequence[Run]) -> list[Breach]:
    """Two runs that were seen alive at the same time."""
    ordered = sorted(runs, key=lambda run: run.started)
    return [
        Breach("double", key, f"{one} / {other}")
        for place, one in enumerate(ordered)
        for other in ordered[place + 1 :]
        if one.last > other.started + SLACK_S
    ]


def over_budget(key: Key, runs: Sequence[Run], seen: Evidence) -> list[Breach]:
    """Starts that no failure of the start before explains. A user's requeue is a failure he wanted."""
    ordered = sorted(runs, key=lambda run: run.started)
    return [
        Breach("over_budget", key, f"{one}, then without cause {other}")
        for one, other in pairwise(ordered)
        if not _explained(one, other, seen)
    ]


def _explained(one: Run, other: Run, seen: Evidence) -> bool:
    requeued = any(
        deed.name == one.name and deed.what == "requeue" and one.started - 5 <= deed.at <= other.started
        for deed in seen.deeds
    )
    return requeued or any(hits(hit, one) and hit.at <= other.started for hit in seen.hits)


OF_THE_VM = frozenset({"kill-qemu", "stop-qemu", "vm-cut", "vm-half-open", "vm-slow"})
OF_THE_HOST = frozenset({"reboot-host", "host-cut", "host-cut-long", "disk-full-overlay"})


def mutes(hit: Hit, row: Row) -> bool:
    """True if the fault hit the machine just as the job began there, so that its first word may never have come out."""
    return hit.until >= row.started - 1 and hit.at <= row.started + MUTE_S and at(hit, row.node)


def at(hit: Hit, vm: str) -> bool:
    """True if the fault hits that VM, alone or with its host."""
    if hit.kind in OF_THE_VM:
        return hit.vm == vm
    return hit.kind in OF_THE_HOST and vm.startswith(f"vm-{hit.host}-")


def hits(hit: Hit, run: Run) -> bool:
    """True if the fault hit the VM, the host or the LRMS node of the run while it lived, or just after."""
    if hit.until < run.started - 1 or hit.at > run.last + AFTER_S:
        return False
    if at(hit, run.host):
        return True
    if hit.kind == "kill-slurmctld":
        return -LAUNCH_S <= hit.at - run.started <= FORGETS_S or 0 <= hit.at - run.last <= FORGETS_S
    return False
