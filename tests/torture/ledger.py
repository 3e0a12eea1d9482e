"""What the jobs themselves wrote down, on the shared home: one page per start of user code, and a sign of life in it
twice a second. Nothing of wnod has a hand in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Run:
    """One start of a job's user code. Times are seconds since 1970, as the job's machine saw them."""

    name: str
    task: str
    job: str
    restart: int
    host: str
    boot: str
    user: str
    started: float
    last: float
    """The last sign of life."""
    ended: float | None = None
    status: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Which job: the name of its submission (no two share one) and its array task, `-` if it has none."""
        return self.name, self.task

    def __str__(self) -> str:
        end = "no end" if self.ended is None else f"ended {self.ended:.1f} with {self.status}"
        return (
            f"{self.name}/{self.task} job {self.job} restart {self.restart} on {self.host} boot {self.boot[:8]}: "
            f"started {self.started:.1f}, last sign {self.last:.1f}, {end}"
        )


def script(name: str, ledger: str, beats: int) -> str:
    """A job that signs the ledger when it starts, `beats` times in between, and when it ends, whatever ends it.

    A page for each start, because two machines that append to one file over NFS may overwrite each other.
    """
    return f"""#!/bin/sh
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
job="${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}" task="${{SLURM_ARRAY_TASK_ID:--}}" restart="${{SLURM_RESTART_COUNT:-0}}"
boot=$(cat /proc/sys/kernel/random/boot_id)
page="{ledger}/{name}.$task.$(cat /proc/sys/kernel/random/uuid)"
say() {{ echo "$1 $(date +%s.%N) $(cut -d' ' -f1 /proc/uptime) $2 $3 $4 $5 $6" >>"$page"; }}
say start "$job" "$restart" "$(hostname)" "$boot" "$(id -un)"
trap 'status=$?; say end "$status"' EXIT
trap 'exit 143' TERM
beat=0
while [ "$beat" -lt {beats} ]; do
    sleep 0.5
    beat=$((beat + 1))
    say beat "$beat"
done
"""


def page(name: str, text: str) -> Run | None:
    """One page; None if not even its first line is whole yet."""
    case, task, _ = name.split(".", 2)
    lines = [line.split() for line in text.split("\n")[:-1]]
    if not lines or lines[0][:1] != ["start"] or len(lines[0]) != 8:
        return None
    _, started, _uptime, job, restart, host, boot, user = lines[0]
    ends = [line for line in lines[1:] if line[:1] == ["end"] and len(line) >= 4]
    signs = [float(line[1]) for line in lines if len(line) > 2]
    return Run(
        name=case, task=task, job=job, restart=int(restart), host=host, boot=boot, user=user,
        started=float(started), last=max(signs),
        ended=float(ends[0][1]) if ends else None, status=int(ends[0][3]) if ends else None,
    )  # fmt: skip


def read(directory: Path) -> list[Run]:
    """Every run there was so far, in the order of their starts."""
    pages = (page(path.name, path.read_text(errors="replace")) for path in directory.iterdir())
    return sorted((run for run in pages if run is not None), key=lambda run: run.started)


def of(runs: Iterable[Run], key: tuple[str, str]) -> list[Run]:
    """The runs of one job."""
    return [run for run in runs if run.key == key]
