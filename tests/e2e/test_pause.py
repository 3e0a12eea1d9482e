"""The administrator lets a running job stand still for a while: Slurm does not mind, and it cannot be forgotten."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deploy.demo.judge import Job
from deploy.lab.layout import PROJECT
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

TICKING = 'for n in $(seq 40); do date +%s.%N >>"$HOME/pause-$SLURM_JOB_ID"; sleep 0.25; done'
STILL_S = 3.0


def ticking(world: World, name: str) -> tuple[Job, Path]:
    """A job that writes the time into a file, four times a second."""
    job = world.sbatch(name, TICKING)
    world.started(job)
    ticks = world.lab.layout.home / "alice" / f"pause-{job.id}"
    world.until(ticks.exists, 10, "the job ticks")
    return job, ticks


def grows(world: World, ticks: Path) -> None:
    """The job goes on, and knows what time it is."""
    at = ticks.stat().st_size
    world.until(lambda: ticks.stat().st_size > at + 40, 20, "the job ticks again")
    assert abs(float(ticks.read_text().splitlines()[-1]) - time.time()) < 3.0


def stands(ticks: Path) -> None:
    """What was written before may still arrive; then nothing comes."""
    time.sleep(0.5)
    at = ticks.stat().st_size
    time.sleep(STILL_S)
    assert ticks.stat().st_size == at


def completed_once(world: World, job: Job) -> None:
    world.over([job])
    (page,) = world.starts(job)
    assert (job.state, page.status, page.in_vm) == ("COMPLETED", 0, True)
    assert world.row(job)["restart_cnt"] == 1


def test_a_running_job_stands_still_and_goes_on_when_the_administrator_says_so(world: World) -> None:
    job, ticks = ticking(world, "pause-resume")
    host, vm = world.vm_in(job, "started")

    said = world.lab.run(host, [world.site.python, "-m", "wnod", "vm", "pause", job.id], user="bob",
                         env={"PYTHONPATH": str(PROJECT)})  # fmt: skip
    assert (said.returncode, "permission denied: be root" in said.stderr) == (3, True)
    assert world.asked_exit(host, "vm", "pause", vm["vm"], "--for", "1h") == 1
    assert world.wnod_exit(host, "vm", "pause", job.id, "--for", "60s")[1]["state"] == "paused"
    assert world.inside(host, "virsh", "domstate", vm["vm"]).strip() == "paused"
    stands(ticks)
    assert world.is_in(job, "RUNNING")
    assert world.asked_exit(host, "vm", "pause", vm["vm"]) == 1
    shown = next(row for _, row in world.vms() if row["generation"] == vm["generation"])
    assert (shown["phase"], shown["text"], shown["paused"]["by"]) == ("started", "paused by root", "root")

    code, answer = world.wnod_exit(host, "vm", "resume", vm["vm"])
    assert (code, answer["state"]) == (0, "running")
    grows(world, ticks)
    completed_once(world, job)
    story = [step["text"] for step in world.site.wnod(host, "explain", job.id)["steps"]]
    assert [text for text in story if "paused by root for at most 60 s" in text]
    assert [text for text in story if text.endswith("s: resumed by root")]


def test_a_paused_job_goes_on_at_its_limit_though_the_hostmaster_was_killed(world: World) -> None:
    job, ticks = ticking(world, "pause-limit")
    host, vm = world.vm_in(job, "started")
    code, answer = world.wnod_exit(host, "vm", "pause", vm["vm"], "--for", "15")
    assert code == 0
    world.crash(host, "hostmaster")
    stands(ticks)
    assert time.time() < answer["until"]
    world.until(lambda: ticks.stat().st_mtime >= answer["until"], 40, "the job ticks after the pause's limit")
    grows(world, ticks)
    completed_once(world, job)
