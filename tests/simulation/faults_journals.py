"""Faults of the journals: an older copy, damage, lost writes, and a disk that is full."""

from collections.abc import Callable
from functools import partial

from tests.simulation.faults_machines import reboot
from tests.simulation.nemesis import DAEMONS, Nemesis
from tests.simulation.site import Site

GARBLED_BYTES = 256
LATEST_S = 60.0
"""An older copy is at most so old."""


def _swap(nemesis: Nemesis, site: Site, who: str, change: Callable[[], None]) -> None:
    """Kill the daemon, change its journal, start it."""
    site.kill(who)
    change()
    nemesis.cluster.judge.trace("", f"! the journal of {site.host_name}'s {who} is not what it was")
    nemesis.later(0.3 + 3.0 * nemesis.rng.random(), lambda: site.start(who))


def _old(who: str, nemesis: Nemesis, site: Site) -> str:
    """Somebody copies the journal, and later puts that copy in its place."""
    disk, seconds = site.disks[who], LATEST_S * nemesis.rng.random()
    copy = disk.copy()

    def put_back() -> None:
        if not nemesis.over and who not in site.refused and disk.copy():  # one that is gone has lost nothing since
            _swap(nemesis, site, who, lambda: disk.restore(copy) if copy else site.lose_journal(who))

    nemesis.cluster.world.callLater(seconds, put_back)
    return f"{site.host_name}'s {who} gets a copy of now in {seconds:.1f} s"


def _garbled(who: str, nemesis: Nemesis, site: Site) -> str:
    """A piece of the file is garbage."""
    if site.off or who in site.refused:
        return ""
    disk = site.disks[who]
    if not disk.copy():
        return ""

    def garble() -> None:
        good = disk.copy()
        content = bytearray(good)
        at = nemesis.rng.randrange(100, len(content) - GARBLED_BYTES)  # behind SQLite's own head
        content[at : at + GARBLED_BYTES] = nemesis.rng.randbytes(GARBLED_BYTES)
        disk.restore(bytes(content))
        disk.suspect = True
        if disk.hides_damage():  # such damage is not this fault's
            disk.restore(good)

    _swap(nemesis, site, who, garble)
    return f"{site.host_name}'s {who}"


def _full(who: str, nemesis: Nemesis, site: Site) -> str:
    disk = site.disks[who]
    disk.full = True
    seconds = nemesis.length()
    nemesis.later(seconds, lambda: setattr(disk, "full", False))
    return f"{site.host_name}'s {who} for {seconds:.1f} s"


old_host, old_bait = partial(_old, "host"), partial(_old, "bait")
garbled_host, garbled_bait = partial(_garbled, "host"), partial(_garbled, "bait")
full_host, full_bait = partial(_full, "host"), partial(_full, "bait")


def lost_writes(nemesis: Nemesis, site: Site) -> str:
    """The machine goes down, and its disk has lost what it said was written in the last moments; now and then the mark
    beside the journal too, so that nobody can notice."""
    if site.off or site.refused:
        return ""
    copies = {who: (site.disks[who].copy(), site.disks[who].mark.read(), dict(site.audit.disk[who] or {}),
                    site.epochs[who]) for who in DAEMONS}  # fmt: skip
    generations = nemesis.cluster.judge.generations
    highest = generations.get(site.host_name, 0)
    seconds, unnoticed = 2.0 * nemesis.rng.random(), nemesis.rng.random() < 0.5

    def down() -> None:
        gone = not all(disk.copy() for disk in site.disks.values())
        if nemesis.over or site.off or site.refused or gone:
            return
        reboot(nemesis, site)
        for who in DAEMONS:
            content, mark, records, epoch = copies[who]
            site.disks[who].restore(content)
            if not content:
                site.lose_journal(who)
            elif unnoticed:
                site.disks[who].mark.write(mark)
                site.audit.disk[who], site.epochs[who] = records, epoch
        if unnoticed:
            generations[site.host_name] = highest  # they come again: docs/recovery.md, "Where the promise ends"
        nemesis.cluster.judge.trace("", f"! {site.host_name} has lost its last writes")

    nemesis.cluster.world.callLater(seconds, down)
    return f"{site.host_name}: the last {seconds:.1f} s"
