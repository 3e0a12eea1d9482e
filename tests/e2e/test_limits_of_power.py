"""What nobody can make wnod do: run a job in another's VM, or open a bait that a human has closed."""

from __future__ import annotations

import pytest

from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]


def test_a_bait_that_a_human_drained_stays_drained_with_his_reason(world: World) -> None:
    bait = world.lab.layout.node("h1").bait
    words = "disk 3 is being replaced, see ticket 4711"

    def as_he_left_it() -> bool:
        state, reason = world.node(bait)
        return state in ("drained", "draining") and reason == words

    world.command("root", "scontrol", "update", f"nodename={bait}", "state=drain", f"reason={words}")
    world.until(lambda: words in world.site.daemon_status("h1", "bait").get("reason", ""), 20, "the bait has seen it")
    assert world.site.daemon_status("h1", "bait")["open"] is False
    jobs = [world.sbatch(f"elsewhere-{n}", "sleep 1") for n in range(2)]
    world.crash("h1", "hostmaster")
    world.restart("h1", "bait")  # an orderly stop closes an open bait, a start opens one: not this
    assert as_he_left_it()
    world.crash("h1", "bait")
    world.until(lambda: world.site.daemon_status("h1", "bait").get("link"), 20, "the daemons talk again")

    def over_and_as_he_left_it() -> bool:
        assert as_he_left_it()
        return world.look_at(jobs)

    world.until(over_and_as_he_left_it, 90, "the jobs are over")
    assert {world.starts(job)[0].hostname.split("-")[1] for job in jobs} == {"h2"}
    assert as_he_left_it()
    world.command("root", "scontrol", "update", f"nodename={bait}", "state=resume")
    world.until(lambda: world.site.daemon_status("h1", "bait").get("open"), 20, "the bait is open again")


def test_a_user_cannot_name_the_partition_of_the_vms_nor_move_a_job_into_one(world: World) -> None:
    victim = world.sbatch("victim", "sleep 12", user="alice")
    world.started(victim)
    _, vm = world.vm_in(victim, "started")
    script = world.lab.layout.home / "bob" / "intruder.sh"
    script.write_text("#!/bin/sh\nhostname >/home/bob/intruder-was-here\n")

    for how in (["-p", "vwn"], ["-p", "batch,vwn"], ["-p", "vwn", "-w", vm["vm"]]):
        code, words = world.try_as("bob", "sbatch", *how, script.name)
        assert code != 0, how
        assert "not for users" in words
    code, words = world.try_as("bob", "srun", "-p", "vwn", "-w", vm["vm"], "true")
    assert code != 0

    code, number = world.try_as("bob", "sbatch", "--parsable", "--hold", script.name)
    assert code == 0
    job = number.strip()
    for change in (["partition=vwn"], ["partition=vwn", f"reqnodelist={vm['vm']}"]):
        code, words = world.try_as("bob", "scontrol", "update", f"jobid={job}", *change)
        assert code != 0, change
    assert world.shown(job)["Partition"] == "batch"
    world.command("bob", "scancel", job)
    world.over([victim])
    assert [page.user for page in world.starts(victim)] == ["alice"]
    assert not (world.lab.layout.home / "bob" / "intruder-was-here").exists()


def test_the_gate_refuses_a_job_that_was_put_on_anothers_vm(world: World) -> None:
    """Even root's mistake, or a bait's, starts nobody's code in a VM that is not bound to that run."""
    owner = world.sbatch("gate-owner", "true", user="alice")
    intruder = world.sbatch("gate-intruder", "true", "--hold", "--mem=200", user="bob")

    def parked_on() -> str:
        found = world.lease(owner)
        return found[0] if found is not None and found[1]["phase"] == "parked" else ""

    host = world.until(parked_on, 30, "the VM is being made")
    world.lab.kill(host, "bait", 9)  # so that the VM becomes a node, and stays free
    vm = world.vm_in(owner, "bound")[1]["vm"]
    world.until(lambda: world.node(vm)[0] == "idle", 30, "the VM is a node")
    moved = (f"jobid={intruder.id}", "partition=vwn", f"reqnodelist={vm}", "features=")
    world.command("root", "scontrol", "update", *moved)
    world.command("root", "scontrol", "release", intruder.id)
    world.until(lambda: world.row(intruder)["restart_cnt"] == 1, 40, "the gate has sent the intruder back")
    assert world.is_held(intruder)
    assert world.starts(intruder) == []
    world.command("bob", "scancel", intruder.id)
    world.site.start_daemon(host, "bait")
    world.over([owner, intruder])
    assert world.starts(intruder) == []
    assert [page.hostname for page in world.starts(owner)] == [vm]
