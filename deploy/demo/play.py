"""The demo's course: measure the floor, submit everything, watch, meddle as planned, wait for clean hosts."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable

from deploy.demo import ledger
from deploy.demo.judge import Job
from deploy.demo.picture import Screen, frame
from deploy.demo.plan import Case, Meddling, cases
from deploy.demo.stage import Stage

ROUNDS = 3
LIMIT_S = 270.0
CLEAN_S = 30.0
LOOK_S = 0.5


def latency(stage: Stage, say: Callable[[str], None]) -> dict[str, float]:
    """A cold VM's way against the floor, in turn on the same idle host: median seconds and their ratio."""
    floors, ours = [], []
    image = stage.site.images["debian12"]
    stage.command("root", "scontrol", "update", "nodename=bait-h2", "state=drain", "reason=only h1 is measured")
    for number in range(ROUNDS):
        floors.append(stage.floor("h1", image))
        ours.append(_one_job(stage, number))
        say(f"round {number + 1}: raw boot to idle {floors[-1]:.2f} s, interception to user code {ours[-1]:.2f} s")
    stage.command("root", "scontrol", "update", "nodename=bait-h2", "state=resume")
    floor, cold = statistics.median(floors), statistics.median(ours)
    return {"floor_s": floor, "interception_to_user_code_s": cold, "ratio": round(cold / floor, 3)}


def _one_job(stage: Stage, number: int) -> float:
    (job,) = stage.submit(Case(f"cold-{number}", "alice", "true"))
    _until(lambda: _looked(stage, [job]) and job.over and "ended" in job.stages, 90, "the measured job did not end")
    _until(lambda: not any(stage.left().values()), CLEAN_S, "the measured VM was not cleaned up")
    (page,) = ledger.starts(ledger.read(stage.ledger), job.id)
    return page.started - job.stages["intercepted"]


def perform(stage: Stage, screen: Screen) -> list[Job]:
    """Submit every case and follow the jobs to their end; returns after LIMIT_S even if some are not over."""
    jobs = [job for case in cases() for job in stage.submit(case)]
    begun = time.time()
    while time.time() - begun < LIMIT_S:
        stage.look(jobs)
        screen.draw(frame(jobs, stage.baits(), begun))
        for job in jobs:
            meddle(stage, job)
        if all(job.over for job in jobs):
            break
        time.sleep(LOOK_S)
    return jobs


def meddle(stage: Stage, job: Job) -> None:
    """What the plan's users do when their moment has come."""
    if job.meddled:
        return
    user = job.case.user
    match job.case.meddling:
        case Meddling.CANCEL_BOOTING if "parked" in job.stages and "ready" not in job.stages:
            stage.command(user, "scancel", job.id)
        case Meddling.CANCEL_RUNNING if job.state == "RUNNING" and ledger.starts(ledger.read(stage.ledger), job.id):
            stage.command(user, "scancel", job.id)
        case Meddling.CORRECT if "known:" in job.told:
            stage.say(f"{user} reads: {job.told}")
            stage.command(user, "scontrol", "update", f"jobid={job.id}", "features=debian12", "starttime=now+10")
            stage.command(user, "scontrol", "release", job.id)
        case _:
            return
    job.meddled = True


def settle(stage: Stage, jobs: list[Job]) -> dict[str, int]:
    """Wait until nothing is left of any VM and all baits are open again; what is left after CLEAN_S."""

    def clean() -> bool:
        return not any(stage.left().values()) and set(stage.baits().values()) == {"open"}

    with contextlib.suppress(TimeoutError):
        _until(clean, CLEAN_S, "")
    stage.look(jobs)
    return stage.left()


def _looked(stage: Stage, jobs: list[Job]) -> bool:
    stage.look(jobs)
    return True


def _until(condition: Callable[[], bool], seconds: float, failure: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(failure)
        time.sleep(0.3)
