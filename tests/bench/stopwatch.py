"""The measured job, and when its first and last instruction are seen: on the server of the homes, by one clock.

Guests' clocks are stepped by their hosts, so no guest's word is taken for a time. The job makes an empty file as
its very first instruction; the file is seen where the homes are, the same way for every contestant.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.lab import Lab
from deploy.lab.layout import HEAD

PLACE = "/home/bench"
SCRIPT = f"{PLACE}/job.sh"
LOOK_S = 0.002
SCHEDULED_EVERY_S = 1.0
"""Between two of slurmctld's looks at its queue."""
JOB = f"""#!/bin/sh
: >"{PLACE}/marks/$1.${{SLURM_ARRAY_TASK_ID:-0}}.start"
: >"{PLACE}/marks/$1.${{SLURM_ARRAY_TASK_ID:-0}}.end"
"""


class Late(Exception):
    """Something did not happen in its time; the text says what."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One job: monotonic times of its submission, its first and its last instruction."""

    submitted: float
    started: float
    ended: float

    @property
    def start_s(self) -> float:
        return self.started - self.submitted


def prepare(lab: Lab) -> None:
    """Put the job and the place for its marks into the lab's shared home."""
    place = lab.layout.home / "bench"
    (place / "marks").mkdir(parents=True, exist_ok=True)
    for directory in (place, place / "marks"):
        directory.chmod(0o1777)
    (place / "job.sh").write_text(JOB)
    (place / "job.sh").chmod(0o755)


def look(lab: Lab, options: Sequence[str], token: str) -> float:
    """The monotonic time at which slurmctld looked at its queue just now: it started a job that waited for that only.

    The look is over some hundredths of a second before that job's first instruction, for every contestant alike.
    """
    return watch_one(lab, options, token, 20).started


def full_second() -> float:
    """The monotonic time at which the clock's second began."""
    return time.monotonic() - time.time() % SCHEDULED_EVERY_S


def wait_for_phase(begun: float, phase: float) -> None:
    """Return when an interval between two looks, one of which was at `begun` (monotonic), is this far on (0 to 1)."""
    time.sleep(until_phase(begun, phase, time.monotonic()))


def until_phase(begun: float, phase: float, now: float) -> float:
    """Seconds from `now` until then, less than an interval."""
    return (begun + phase * SCHEDULED_EVERY_S - now) % SCHEDULED_EVERY_S


def sbatch(lab: Lab, options: Sequence[str], token: str) -> float:
    """Submit the job as a user; the monotonic time just before. RuntimeError with Slurm's words if it is refused."""
    argv = ["sbatch", "--parsable", "--output=/dev/null", *options, SCRIPT, token]
    begun = time.monotonic()
    done = lab.run(HEAD, argv, user="alice")
    if done.returncode:
        raise RuntimeError(f"sbatch {' '.join(options)}: {done.stderr.strip()}")
    return begun


def watch_one(lab: Lab, options: Sequence[str], token: str, limit_s: float = 150) -> Seen:
    """Submit one job and see it start and end. Late if it does not."""
    submitted = sbatch(lab, options, token)
    marks = lab.layout.home / "bench" / "marks"
    started, ended = (_appears(marks / f"{token}.0.{what}", submitted + limit_s) for what in ("start", "end"))
    return Seen(submitted, started, ended)


def _appears(path: Path, deadline: float) -> float:
    while not path.exists():
        if time.monotonic() > deadline:
            raise Late(f"{path.name} was never made")
        time.sleep(LOOK_S)
    return time.monotonic()


def watch_many(lab: Lab, options: Sequence[str], token: str, jobs: int, limit_s: float) -> tuple[int, float]:
    """Submit an array of jobs; how many ended, and the seconds it took from submission to the last end.

    Jobs that have not ended after `limit_s` are cancelled: then those who have ended took all of that time.
    """
    submitted = sbatch(lab, [*options, f"--array=1-{jobs}"], token)
    marks = lab.layout.home / "bench" / "marks"
    ended, last = 0, submitted
    while ended < jobs and time.monotonic() < submitted + limit_s:
        seen = sum(1 for _ in marks.glob(f"{token}.*.end"))
        if seen > ended:
            ended, last = seen, time.monotonic()
        time.sleep(0.02)
    lab.run(HEAD, ["scancel", "-u", "alice"])
    return ended, last - submitted if ended == jobs else limit_s
