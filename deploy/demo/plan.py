"""The demo's jobs: who submits what, and what must become of it. Pure."""

from __future__ import annotations

import dataclasses
import enum


class Meddling(enum.Enum):
    """What a user does to a job after submitting it."""

    NOTHING = "nothing"
    CANCEL_BOOTING = "cancelled while its VM boots"
    CANCEL_RUNNING = "cancelled while it runs"
    CORRECT = "corrected after the refusal"


@dataclasses.dataclass(frozen=True)
class Case:
    """One `sbatch` call. `tasks`: ids of an array's tasks, empty for a plain job."""

    name: str
    user: str
    body: str
    options: tuple[str, ...] = ()
    environment: str | None = "debian12"
    tasks: tuple[int, ...] = ()
    meddling: Meddling = Meddling.NOTHING
    state: str = "COMPLETED"
    exit_code: int = 0
    cpus: int = 1
    runs: bool = True
    """True if user code is to start (exactly once)."""

    def argv(self, script: str) -> list[str]:
        """The user's command line."""
        constraint = ["--constraint", self.environment] if self.environment else []
        array = [f"--array={','.join(map(str, self.tasks))}"] if self.tasks else []
        return ["sbatch", "--parsable", f"--job-name={self.name}", *constraint, *array, *self.options, script]

    @property
    def jobs(self) -> int:
        """How many jobs this submission is."""
        return len(self.tasks) or 1


NUMPY = "python3 -c 'import numpy; print(\"numpy\", numpy.__version__, numpy.arange(5).sum())'"
FIFTY_MB = "dd if=/dev/zero of=/var/tmp/fifty bs=1M count=50 2>&1; sync; ls -l /var/tmp/fifty; df -m /var/tmp"
TWO_CPUS = 'nproc; test "$(nproc)" = 2'


def cases() -> tuple[Case, ...]:
    """Two users, both environments, and everything that can happen to a job on a good day."""
    short = "sleep 3"
    return (
        Case("hello", "alice", short),
        Case("numpy", "alice", NUMPY, environment="debian12-sci"),
        Case("array", "alice", short, tasks=(1, 2, 3)),
        Case("two-cpus", "alice", TWO_CPUS, ("--cpus-per-task=2",), cpus=2),
        Case("fifty-mb", "bob", FIFTY_MB),
        Case("exit-3", "bob", "exit 3", state="FAILED", exit_code=3),
        Case("default", "bob", short, environment=None),
        Case("unknown-env", "bob", short, environment="retired6", meddling=Meddling.CORRECT),
        Case(
            "cancel-boot", "alice", "sleep 60", meddling=Meddling.CANCEL_BOOTING, state="CANCELLED", runs=False
        ),
        Case("cancel-run", "bob", "sleep 300", meddling=Meddling.CANCEL_RUNNING, state="CANCELLED"),
        Case("no-requeue", "bob", short, ("--no-requeue",)),
        Case("sci-bob", "bob", NUMPY, environment="debian12-sci"),
        Case("more-1", "alice", short),
        Case("more-2", "bob", short),
        Case("more-3", "alice", short),
    )  # fmt: skip


def script(case: Case, ledger: str) -> str:
    """The job's script: it signs the ledger when it starts and when it ends, whatever happens in between."""
    return f"""#!/bin/sh
#SBATCH --output=%x-%A_%a.out
id="${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}_${{SLURM_ARRAY_TASK_ID:--}}"
page="{ledger}/{case.name}.$id.$$.$(cat /proc/sys/kernel/random/uuid)"
echo "start $(date +%s.%N) $(hostname) $(uname -r) $(id -un) ${{SLURM_RESTART_COUNT:-0}}" >>"$page"
trap 'status=$?; echo "end $(date +%s.%N) $status" >>"$page"' EXIT
{case.body}
"""
