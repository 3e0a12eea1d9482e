"""The promise under kill -9: nothing is lost, nothing runs twice, and the hosts are clean afterwards."""

from __future__ import annotations

import os
import random
import time

import pytest

from deploy.demo.judge import Job
from deploy.demo.plan import Case
from deploy.lab.site import DAEMONS
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

SEEDS = [int(seed) for seed in os.environ.get("WNOD_E2E_SEEDS", "7").split(",")]
"""More seeds by hand: WNOD_E2E_SEEDS=1,2,3."""
KILL_FOR_S = 30.0
SETTLE_S = 200.0


def submit_all(world: World) -> list[Job]:
    """Eight jobs of two users for four slots."""
    cases = [Case(f"crash-{n}", ("alice", "bob")[n % 2], "sleep 2") for n in range(5)]
    cases += [
        Case("crash-array", "bob", "sleep 1", tasks=(4, 9)),
        Case("crash-once", "alice", "true", ("--no-requeue",)),
    ]
    return [job for case in cases for job in world.submit(case)]


def crash_some(world: World, dice: random.Random) -> int:
    """Kill one daemon, or both of a host; some are away for a while."""
    host = dice.choice(world.lab.hosts)
    killed = DAEMONS if dice.random() < 0.3 else (dice.choice(DAEMONS),)
    for daemon in killed:
        world.lab.kill(host, daemon, 9)
    back = time.monotonic() + (dice.uniform(0, 2) if dice.random() < 0.3 else 0)
    world.until(lambda: time.monotonic() >= back, 3, "the daemon is away for a while")
    for daemon in killed:
        world.site.start_daemon(host, daemon)
    return len(killed)


@pytest.mark.parametrize("seed", SEEDS)
def test_daemons_killed_at_random_moments_lose_no_job_and_run_none_twice(world: World, seed: int) -> None:
    dice = random.Random(seed)
    jobs = submit_all(world)
    begun, kills = time.monotonic(), 0
    while time.monotonic() < begun + KILL_FOR_S and not world.look_at(jobs):
        moment = time.monotonic() + dice.uniform(0.05, 1.2)
        world.until(lambda at=moment: time.monotonic() > at, 2, "the moment has come")  # type: ignore[misc]
        kills += crash_some(world, dice)
    world.over(jobs, SETTLE_S)
    print(f"seed {seed}: {kills} kills, {time.monotonic() - begun:.0f} s")
    wrong = {job.id: (job.state, len(world.starts(job))) for job in jobs}
    assert wrong == {job.id: ("COMPLETED", 1) for job in jobs}
    assert all(page.in_vm and page.ended for job in jobs for page in world.starts(job))
    world.clean()
