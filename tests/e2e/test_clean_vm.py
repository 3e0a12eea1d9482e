"""The next VM in the same slot shows nothing of the last job, by whichever way it was made, nor does the image.

The first job leaves marks wherever its user can write. Of the second VM the host sees the whole memory and the whole
disk, the second job what a user sees. Its script names the mark as a pattern, so that no search finds itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.judge import Job
from deploy.lab.site import HostShape
from hostmaster.rules.vm import Way
from tests.bench.site import GOLDEN_MIB, JOB
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

HOST = "h1"
READY: dict[Way, dict[str, Any]] = {
    Way.BOOT: {},
    Way.RESTORE: {"golden_disk_mib": GOLDEN_MIB, "spares": [{**JOB, "keep": 0}]},
    Way.UNPAUSE: {"golden_disk_mib": GOLDEN_MIB, "spares": [{**JOB, "keep": 1}]},
}
# 40 MB are written; whatever is refused is refused, and the job goes on.
PLANT = """
mark={mark}
for place in /tmp /var/tmp /dev/shm /run /run/lock /etc /etc/cron.d /var/spool/cron /var/lib /usr/bin /root /opt; do
    mkdir -p $place/.ssh && echo $mark >$place/.ssh/$mark
    echo $mark >$place/$mark
done 2>/dev/null
echo "$mark:x:0:0::/:/bin/sh" >>/etc/passwd
echo "* * * * * root echo $mark" >>/etc/crontab
echo $mark | dd of=/dev/vda conv=notrunc bs=64
echo $mark | dd of=/dev/vdb conv=notrunc bs=64
yes $mark | head -c 40000000 >/var/tmp/much
cat /var/tmp/much >/dev/null
yes $mark | head -c 20000000 >/dev/shm/some
sync
MARK=$mark setsid sh -c 'held=$(yes $MARK | head -c 4000000); trap "" TERM HUP; sleep 600; echo $held' >/dev/null 2>&1 &
sleep 3
ls -la /var/tmp /dev/shm
"""
LOOK = """
until grep -q now "$HOME/look"; do sleep 0.2; done
pattern='{pattern}'
grep -las "$pattern" /proc/[0-9]*/cmdline /proc/[0-9]*/environ | sed 's/^/found in /'
find / -xdev -name "$pattern" 2>/dev/null | sed 's/^/found the name /'
find /dev/shm /run /tmp -name "$pattern" 2>/dev/null | sed 's/^/found the name /'
grep -rls "$pattern" /tmp /var/tmp /dev/shm /run /etc /var/spool /var/log /root /opt 2>/dev/null | sed 's/^/found in /'
getent passwd alice && echo "found the account of the last owner"
ps -eo user,args | grep '^alice' && echo "found a process of the last owner"
tail -n +2 /proc/sysvipc/shm
ls /var/tmp /dev/shm
echo "looked"
"""


@pytest.fixture(params=list(READY), ids=str)
def way(request: pytest.FixtureRequest, world: World) -> Iterator[Way]:
    """The host has one slot, and makes its VMs in this way."""
    before = (world.site.shape, world.site.ready)
    way: Way = request.param
    configure(world, dataclasses.replace(HostShape(), slots=1), READY[way])
    try:
        world.until(lambda: has_what_it_keeps(world, way), 90, "the host has made ready what it keeps")
        yield way
    finally:
        configure(world, *before)


def configure(world: World, shape: HostShape, ready: dict[str, Any]) -> None:
    world.site.shape, world.site.ready = shape, ready
    world.site.prepare()
    world.restart(HOST, "hostmaster")
    world.until(world.all_open, 60, "the baits are open again")


def has_what_it_keeps(world: World, way: Way) -> bool:
    status = world.site.daemon_status(HOST, "hostmaster")
    spares = [spare["phase"] for spare in status.get("spares", ())]
    return way is Way.BOOT or (bool(status.get("golden")) and spares == ["paused"] * (way is Way.UNPAUSE))


def hashes(world: World) -> dict[str, str]:
    images = [path for path in world.lab.layout.images.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in images}


def in_memory_and_on_disk(world: World, vm: dict[str, Any], mark: str) -> tuple[bool, bool]:
    """Whether the host finds the mark in the VM's memory, and on its disk."""
    overlay = f"/var/lib/wnod/hostmaster/overlays/{vm['vm']}-g{vm['generation']}.overlay"
    memory = f"/proc/{world.qemu(HOST, vm['vm'])}/mem"
    search = str(Path(__file__).with_name("search.py"))
    found = [world.inside(HOST, world.site.python, search, path, mark).strip() for path in (memory, overlay)]
    assert set(found) <= {"yes", "no"}
    return found[0] == "yes", found[1] == "yes"


def started(world: World, job: Job, way: Way) -> dict[str, Any]:
    world.started(job)
    host, vm = world.vm_in(job, "started")
    assert (host, vm["way"]) == (HOST, way)
    return vm


def test_the_next_vm_in_the_slot_shows_nothing_of_the_last_job(world: World, way: Way) -> None:
    mark, on_h1 = f"wnod-canary-{secrets.token_hex(8)}", f"--nodelist={world.lab.layout.node(HOST).bait}"
    images = hashes(world)
    assert images
    first = world.sbatch("plant", PLANT.format(mark=mark) + "sleep 2", on_h1, user="alice")
    before = started(world, first, way)
    world.until(lambda: in_memory_and_on_disk(world, before, mark) == (True, True), 30, "the search can find a mark")
    world.over([first])
    assert "much" in world.output(first)

    world.until(lambda: has_what_it_keeps(world, way), 60, "the host has made ready again what it keeps")
    look = world.lab.layout.home / "bob" / "look"
    look.write_text("wait")  # NFS looks at what it opens, and only now and then for what was not there
    second = world.sbatch("look", LOOK.format(pattern=f"{mark[:-1]}[{mark[-1]}]"), on_h1, user="bob")
    after = started(world, second, way)
    assert (after["vm"], after["generation"] > before["generation"]) == (before["vm"], True)
    xml = world.inside(HOST, "virsh", "dumpxml", after["vm"])
    assert f"/overlays/{after['vm']}-g{after['generation']}.overlay'" in xml
    assert xml.count("<readonly/>") == 1
    assert in_memory_and_on_disk(world, after, mark) == (False, False)
    look.write_text("now")
    world.over([second])
    said = world.output(second)
    assert "looked" in said
    assert "found" not in said, said
    assert "much" not in said
    assert hashes(world) == images
