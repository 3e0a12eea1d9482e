"""A restored VM is a node by the slurmd that was up at standby, and by one that fetches its files where none was up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from deploy.lab.layout import HEAD
from deploy.lab.site import GUEST_FILES, HostShape
from hostmaster.rules.vm import Way
from tests.e2e.test_clean_vm import HOST, READY, configure, has_what_it_keeps, started
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

WHICH = r"""tr '\0' ' ' <"/proc/$(pgrep -o -x slurmd)/cmdline"; echo
env | grep -c ^HWLOC | sed "s/^/of ours in the job's environment: /"
grep -c 'type="L[12]Cache"' "/var/spool/slurmd/hwloc_topo_$SLURM_JOB_ID".*.xml | sed "s/^/caches looked for anew: /"
"""


@pytest.fixture
def restoring(world: World) -> Iterator[World]:
    """The host has one slot, and restores its VMs."""
    before = (world.site.shape, world.site.ready)
    configure(world, dataclasses.replace(HostShape(), slots=1), READY[Way.RESTORE])
    try:
        world.until(lambda: has_what_it_keeps(world, Way.RESTORE), 90, "the host has a golden state")
        yield world
    finally:
        configure(world, *before)


def slurmd_of_a_job(world: World, name: str) -> str:
    job = world.sbatch(name, WHICH, f"--nodelist={world.lab.layout.node(HOST).bait}")
    started(world, job, Way.RESTORE)
    world.over([job])
    output = world.output(job)
    # Its step read what slurmd had found of the machine, which leaves small caches out; the job knows nothing of it.
    assert "environment: 0" in output
    assert "anew: 0" in output
    return output


def golden(world: World) -> str:
    return "".join(row["name"] for row in world.site.daemon_status(HOST, "hostmaster").get("golden", ()))


def test_a_restored_vm_is_a_node_by_the_slurmd_of_standby_or_else_by_one_that_fetches_its_files(
    restoring: World,
) -> None:
    world, before = restoring, golden(restoring)
    assert "-f /run/slurm/conf/slurm.conf" in slurmd_of_a_job(world, "early")
    assert "different slurm.conf" not in world.lab.log(HEAD, "slurmctld").read_text()
    # No slurmd comes up with this. The running host sees the change and makes its golden state anew.
    with (world.lab.layout.private(HOST, "etc") / "wnod" / GUEST_FILES / "slurm.conf").open("a") as conf:
        conf.write("AuthType=auth/none-such\n")
    world.until(lambda: golden(world) not in ("", before), 90, "the golden state has another name")
    world.until(lambda: has_what_it_keeps(world, Way.RESTORE), 90, "the host has made ready again what it keeps")
    assert "--conf-server" in slurmd_of_a_job(world, "fetched")
