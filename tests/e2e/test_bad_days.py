"""What fails around wnod: QEMU, libvirt, the bait daemon. Jobs are not lost, and people are told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.demo.judge import Job
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]


@contextmanager
def starters_wait_only(world: World, seconds: int) -> Iterator[None]:
    """Every bait's starter has a shorter limit, as a site may set it."""
    files = [world.lab.layout.private(host, "etc") / "wnod" / "starter.conf" for host in world.lab.hosts]
    for file in files:
        file.write_text(f"limit={seconds}\n")
        file.chmod(0o644)
    yield
    for file in files:
        file.unlink()


def test_a_job_that_finds_no_bait_daemon_is_handed_back_and_runs_when_there_is_one(world: World) -> None:
    for host in world.lab.hosts:
        world.lab.kill(host, "bait", 9)
    with starters_wait_only(world, 4):
        job = world.sbatch("no-bait", "true")
        row = world.until(lambda: (r := world.row(job))["restart_cnt"] and r, 12, "the job is back in the queue")
    assert row["job_state"] == "PENDING"
    assert not world.is_held(job)
    for host in world.lab.hosts:
        world.site.start_daemon(host, "bait")
    world.site.wait_open(30)
    assert world.starts(job) == []
    # Slurm gives a job that comes back a rest of two minutes; its user is in a hurry.
    world.command("alice", "scontrol", "update", f"jobid={job.id}", "starttime=now")
    world.over([job])
    assert (job.state, len(world.starts(job))) == ("COMPLETED", 1)


def test_a_hostmaster_without_libvirt_waits_says_so_and_recovers_by_itself(world: World) -> None:
    bait = world.lab.layout.node("h1").bait
    begun = time.time()
    world.lab.kill("h1", "hostmaster")
    world.lab.kill("h1", "libvirtd")
    world.site.start_daemon("h1", "hostmaster")
    world.until(lambda: world.site.daemon_status("h1", "hostmaster").get("hypervisor") == "away", 20,
                "the hostmaster says that its hypervisor is away")  # fmt: skip
    world.until(lambda: "the hypervisor does not answer" in world.node(bait)[1], 20, "Slurm shows why the bait is shut")
    assert world.node(bait)[0].startswith("drain")
    assert "the hypervisor does not answer" in world.site.daemon_status("h1", "bait")["reason"]
    log = world.lab.log("h1", "hostmaster").read_text().splitlines()
    waiting = [line for line in log if "is away, will keep trying" in line]
    assert waiting
    assert any(line[:19] >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begun)) for line in waiting)
    world.start_libvirtd("h1")
    world.until(lambda: world.site.daemon_status("h1", "bait").get("open"), 60, "the bait is open again")
    assert world.site.daemon_status("h1", "hostmaster")["hypervisor"] == "ok"
    assert world.until(lambda: world.node(bait)[0] == "idle", 10, "the bait is open in Slurm")


def test_libvirt_dies_and_comes_back_and_the_job_in_its_vm_does_not_notice(world: World) -> None:
    job = world.sbatch("libvirt-restart", "sleep 8")
    world.started(job)
    host, vm = world.vm_in(job, "started")
    pid = world.qemu(host, vm["vm"])
    world.lab.kill(host, "libvirtd", 9)
    world.until(lambda: world.site.daemon_status(host, "hostmaster")["hypervisor"] == "away", 10, "the loss is seen")
    world.start_libvirtd(host)
    world.until(lambda: world.site.daemon_status(host, "hostmaster")["hypervisor"] == "ok", 30, "libvirt is back")
    world.over([job])
    (page,) = world.starts(job)
    assert (job.state, page.hostname, page.status) == ("COMPLETED", vm["vm"], 0)
    assert world.row(job)["restart_cnt"] == 1
    world.until(lambda: str(pid) not in world.inside(host, "ls", "/proc").split(), 20, "QEMU is gone")


def test_a_job_whose_vm_dies_is_requeued_at_once_and_runs_once_more_where_its_user_asked(world: World) -> None:
    again = world.sbatch("vm-dies", "sleep 6", f"--nodelist={world.lab.layout.node('h2').bait}", user="bob")
    once = world.sbatch("vm-dies-once", "sleep 30", "--no-requeue", state="NODE_FAIL")
    for job in (again, once):
        world.started(job)
    kill_vms(world, [again, once])
    # Slurm would find out after SlurmdTimeout, five minutes later.
    world.until(lambda: world.row(again)["restart_cnt"] == 2, 15, "the job is requeued")
    world.until(lambda: world.is_in(once, "NODE_FAIL"), 15, "the job that may not run again has failed")
    world.over([again])
    assert (again.state, len(world.starts(again))) == ("COMPLETED", 2)
    assert [page.ended is None for page in world.starts(again)].count(True) == 1
    assert ["vm-h2" in page.hostname for page in world.starts(again)] == [True, True]
    assert (once.state, len(world.starts(once))) == ("NODE_FAIL", 1)


def kill_vms(world: World, jobs: list[Job]) -> None:
    """SIGKILL to the QEMU processes of these jobs."""
    for job in jobs:
        host, vm = world.vm_in(job, "started")
        world.inside(host, "kill", "-9", str(world.qemu(host, vm["vm"])))
