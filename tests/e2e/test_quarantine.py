"""A VM that somebody wants kept: when its job has ended, its memory and disk lie there, and its slot is free."""

from __future__ import annotations

import pytest

from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

MARK = "what-the-officer-looks-for"


def test_a_vm_that_an_administrator_wants_kept_leaves_memory_and_disk_and_a_free_slot(world: World) -> None:
    job = world.sbatch("quarantine", f"echo {MARK} >/tmp/{MARK}; sync; sleep 4")
    world.started(job)
    host, vm = world.vm_in(job, "started")
    name = f"{vm['vm']}-g{vm['generation']}"
    quarantine = "/var/lib/wnod/hostmaster/quarantine"
    place = f"{quarantine}/{name}"
    assert world.wnod_exit(host, "vm", "keep", job.id, "--why", "ticket 4711")[0] == 0
    assert world.asked_exit(host, "vm", "drop", name) == 1

    world.over([job])
    assert job.state == "COMPLETED"
    world.clean()
    (kept,) = world.site.wnod(host, "vm", "kept")
    assert (kept["name"], kept["why"], kept["by"]) == (name, "ticket 4711", "root")
    assert world.inside(host, "stat", "-c", "%a %U", quarantine).split() == ["700", "wnod-host"]
    assert world.inside(host, "virsh", "save-image-dumpxml", f"{place}/memory").count(vm["uuid"]) >= 1
    assert world.inside(host, "grep", "-c", "-a", MARK, f"{place}/overlay").strip() != "0"
    story = [step["text"] for step in world.site.wnod(host, "explain", job.id)["steps"]]
    assert f"{name} kept in quarantine as {name}" in story

    assert world.wnod_exit(host, "vm", "drop", name) == (0, {"name": name})
    world.until(lambda: not world.site.wnod(host, "vm", "kept"), 10, "what was kept is dropped")
    assert world.inside(host, "ls", quarantine).strip() == ""
