"""A bait whose daemon ends takes no job with it: neither by its crash, after which systemd closes its node, nor by its
orderly stop, during which it goes on answering.
"""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bait.close import NOT_RUNNING
from deploy.lab.layout import PROJECT
from deploy.lab.site import USERS
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

HOST = "h1"
UNIT = PROJECT / "deploy" / "systemd" / "wnod-bait.service"
OPEN = ("idle", "mixed", "allocated", "completing")


def setting(name: str) -> str:
    """A setting of the unit file that has one value."""
    (value,) = [line.split("=", 1)[1] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]
    return value


def after_the_end(world: World) -> dict[str, Any]:
    """Do what systemd does when the daemon has ended, as whom it does it; what that said."""
    assert setting("User") == USERS["bait"]
    argv = shlex.split(setting("ExecStopPost").removeprefix("-"))
    argv[0] = {"/opt/wnod/bin/python": world.site.python}[argv[0]]
    begun = time.monotonic()
    done = world.lab.run(HOST, argv, user=setting("User"), env={"PYTHONPATH": str(PROJECT)})
    world.say(f"{argv[2]}: {time.monotonic() - begun:.1f} s: {done.stdout.strip()}{done.stderr.strip()}")
    said: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == said["closed"]
    return said


@pytest.fixture
def bait(world: World) -> Iterator[str]:
    """The name of the host's bait; its daemon runs again afterwards."""
    yield world.lab.layout.node(HOST).bait
    if world.lab.exit_code(HOST, "bait") is not None:
        world.site.start_daemon(HOST, "bait")


def test_systemd_closes_the_node_of_a_killed_daemon_and_the_next_one_opens_it(world: World, bait: str) -> None:
    world.lab.kill(HOST, "bait", signal.SIGKILL)
    assert world.node(bait)[0] in OPEN  # the trap
    assert after_the_end(world)["closed"]
    state, reason = world.node(bait)
    assert (state, reason) == ("drained", NOT_RUNNING)
    job = world.sbatch("dead-bait", "true", f"--nodelist={bait}")
    world.site.start_daemon(HOST, "bait")
    begun = time.monotonic()
    world.until(lambda: world.node(bait)[0] in OPEN, 15, "the bait is open again")
    world.say(f"open {time.monotonic() - begun:.1f} s after the start, with a gate that waits {world.site.hold_s} s")
    world.over([job])
    assert world.starts(job)[0].in_vm
    assert world.shown(job.id)["Restarts"] == "1"  # parked once; it was never sent to a bait without a daemon


def test_systemd_leaves_a_node_alone_that_a_human_closed(world: World, bait: str) -> None:
    world.inside(HOST, "scontrol", "update", f"NodeName={bait}", "State=DRAIN", "Reason=disk swap")
    world.lab.kill(HOST, "bait", signal.SIGKILL)
    assert "disk swap" in after_the_end(world)["text"]
    assert world.node(bait) == ("drained", "disk swap")
    world.restart(HOST, "bait")
    world.inside(HOST, "scontrol", "update", f"NodeName={bait}", "State=UNDRAIN")


def test_a_daemon_that_stops_in_order_loses_no_time_of_the_jobs_that_are_just_coming(world: World, bait: str) -> None:
    jobs = [world.sbatch(f"stopping-{n}", "true", f"--nodelist={bait}") for n in range(2)]
    world.until(lambda: world.node(bait)[0] != "idle" or world.lease(jobs[0]), 15, "a job is on its way to the bait")
    begun = time.monotonic()
    world.lab.kill(HOST, "bait")  # it ends meanwhile
    world.say(f"stopped in {time.monotonic() - begun:.1f} s")
    assert world.node(bait) == ("drained", "wnod: the bait daemon is stopped")
    assert after_the_end(world)["text"].endswith("was closed already: wnod: the bait daemon is stopped")
    world.site.start_daemon(HOST, "bait")
    world.over(jobs)
    assert [world.shown(job.id)["Restarts"] for job in jobs] == ["1", "1"]
