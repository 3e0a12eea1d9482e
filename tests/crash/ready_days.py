"""Days on a host that makes VMs in advance: past every crash point of spares and golden states."""

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from tests.crash.days import FAR, done
from tests.fakes.site import DEBIAN, SHAPE, Site
from wnod.config.ready import Ready, SpareLine

LINE = SpareLine(
    environment=DEBIAN, cpus=SHAPE.cpus, memory_mib=SHAPE.memory_mib, disk_mib=SHAPE.disk_mib, keep=1, at_most=1
)
PAUSED = Ready(golden_disk_mib=10_000, spares=(LINE,))
GOLDEN = Ready(golden_disk_mib=10_000, spares=(replace(LINE, keep=0, at_most=0),))
"""With a line, because a hostmaster that dies has forgotten what jobs ask for."""


def ways(site: Site) -> set[str]:
    """By which ways the VMs of this site came."""
    return {vm.way.value for vm in site.records.values()}


def waits(site: Site, paused: int = 0, golden: int = 0) -> None:
    """Until so many spares and golden states are there."""

    def there() -> bool:
        if site.host is None:
            return False
        stock = site.host.core.stock
        return len(stock.goldens) >= golden and len(stock.spares) >= paused and site.settled()

    site.until(there, FAR)


def over(site: Site, job: str) -> None:
    """The job has ended, and others may come."""
    site.until(lambda: site.ended(job), FAR)


def the_second_job_is_restored(site: Site) -> None:
    over(site, site.submit())
    waits(site, golden=2)
    done(site, site.submit())
    assert "restore" in ways(site)


def a_paused_spare_is_taken(site: Site) -> None:
    waits(site, paused=1, golden=1)
    over(site, site.submit())
    waits(site, paused=1)
    assert "unpause" in ways(site)
    done(site, site.submit())


def a_spare_gives_way(site: Site) -> None:
    """Two jobs that need the whole host between them, and neither fits the spare."""
    waits(site, paused=1)
    jobs = [site.submit(memory_mib=1024), site.submit(memory_mib=1024)]
    for job in jobs:
        over(site, job)
    done(site, jobs[0])


def a_restore_is_refused(site: Site) -> None:
    over(site, site.submit())
    waits(site, golden=2)
    site.hypervisor.refuse_restore = "the file is of no use"
    job = site.submit()
    site.until(lambda: site.running(job), FAR)
    site.hypervisor.refuse_restore = ""
    done(site, job)


def a_spare_dies(site: Site) -> None:
    waits(site, paused=1)
    site.kill_vm()
    site.run(5.0)
    waits(site, paused=1)
    done(site, site.submit())


@dataclass(frozen=True)
class ReadyDay:
    """A story and what its host makes in advance."""

    live: Callable[[Site], None]
    ready: Ready = field(default=PAUSED)

    @property
    def name(self) -> str:
        return self.live.__name__


READY_DAYS = (
    ReadyDay(the_second_job_is_restored, GOLDEN),
    ReadyDay(a_paused_spare_is_taken),
    ReadyDay(a_spare_gives_way),
    ReadyDay(a_restore_is_refused, GOLDEN),
    ReadyDay(a_spare_dies, replace(PAUSED, golden_disk_mib=0)),
)
