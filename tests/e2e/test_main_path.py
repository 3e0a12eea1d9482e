"""The main job: from `sbatch` to a clean host, and nothing in it may be a fake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

LOOK_AROUND = """
echo "job $SLURM_JOB_ID boot $(cat /proc/sys/kernel/random/boot_id) vendor $(cat /sys/class/dmi/id/sys_vendor)"
for n in $(seq 30); do echo "tick $n" >>"$HOME/ticks-$SLURM_JOB_ID"; sleep 0.2; done
"""


def test_a_job_runs_in_a_vm_made_for_it_and_leaves_a_clean_host(world: World) -> None:
    job = world.sbatch("main-path", LOOK_AROUND)
    world.started(job)
    host, vm = world.vm_in(job, "started")
    home = world.lab.layout.home / "alice"
    ticks = home / f"ticks-{job.id}"

    # The domain is what libvirt calls running, and a QEMU process that burns the host's time.
    assert world.inside(host, "virsh", "domstate", vm["vm"]).strip() == "running"
    xml = world.inside(host, "virsh", "dumpxml", vm["vm"])
    assert vm["uuid"] in xml
    assert "<domain type='qemu'" in xml or "<domain type='kvm'" in xml
    pid = world.qemu(host, vm["vm"])
    assert world.inside(host, "readlink", f"/proc/{pid}/exe").strip().startswith("/usr/bin/qemu-system-")
    assert f"guest={vm['vm']}" in world.inside(host, "cat", f"/proc/{pid}/cmdline")
    assert f"vm-{host}" in vm["vm"]

    # The job lives in it: while the machine is stopped, so is the job.
    world.until(ticks.exists, 10, "the job ticks")
    world.inside(host, "virsh", "suspend", vm["vm"])
    at_stop = len(ticks.read_text())
    with pytest.raises(AssertionError, match="still ticks"):
        world.until(lambda: len(ticks.read_text()) > at_stop + 20, 1.5, "still ticks")
    world.inside(host, "virsh", "resume", vm["vm"])
    world.until(lambda: len(ticks.read_text()) > at_stop + 20, 10, "the job ticks again")

    world.over([job])
    (page,) = world.starts(job)
    assert (job.state, job.exit_code) == ("COMPLETED", 0)
    assert (page.hostname, page.user, page.status) == (vm["vm"], "alice", 0)
    assert page.kernel != os.uname().release
    words = world.output(job).split()
    assert words[1] == job.id
    assert words[3] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert "QEMU" in words[5]
    assert world.row(job)["restart_cnt"] == 1
    world.clean()
    assert not [d for d in world.inside(host, "ls", "/proc").split() if d == str(pid)]
    assert world.inside(host, "ls", "/var/lib/wnod/hostmaster/overlays").strip() == ""
    assert world.node(vm["vm"]) == ("", "")


def test_jobs_that_come_together_go_to_different_hosts(world: World) -> None:
    """Or all go to the first bait, which has no VM for most of them: LLN=YES (docs/operate.md)."""
    jobs = [world.sbatch(f"spread-{number}", "true") for number in (1, 2)]
    world.over(jobs)
    pages = [page for job in jobs for page in world.starts(job)]
    assert len(pages) == 2
    assert {page.hostname.rpartition("-")[0] for page in pages} == {"vm-h1", "vm-h2"}
    assert [world.row(job)["restart_cnt"] for job in jobs] == [1, 1]
    world.clean()
