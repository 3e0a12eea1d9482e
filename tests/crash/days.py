"""Days in the life of a site, which together lead every daemon past every crash point it has."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from hostmaster.rules.vm import Keep
from tests.fakes.site import DEBIAN, Site

FAR = 3000.0
"""Seconds within which every day ends well, whatever happened."""


def done(site: Site, job: str, starts: int = 1) -> None:
    """The job has ended well, after so many starts (one more would be a second life), and nothing is left."""
    site.until(lambda: site.ended(job), FAR)
    assert site.job(job).word == "COMPLETED", site.jobs()
    mine = [start for start in site.starts if start[0] == job]
    assert 1 <= len(mine) <= starts, site.starts
    site.rest()


def an_ordinary_job(site: Site) -> None:
    done(site, site.submit())


def a_job_whose_user_wants_no_requeue(site: Site) -> None:
    done(site, site.submit(requeue=False))


def two_jobs_too_many(site: Site) -> None:
    """There are two slots: the others go back, and come again."""
    for job in [site.submit() for _ in range(4)]:
        site.until(lambda job=job: site.ended(job), FAR)  # type: ignore[misc]
        assert [start[0] for start in site.starts].count(job) == 1
    site.rest()


def a_vm_that_dies_while_it_boots(site: Site) -> None:
    job = site.submit()
    site.until(lambda: bool(site.guests) and site.phases() == ["parked"], FAR)
    site.kill_vm()
    done(site, job)


def a_vm_that_dies_while_its_job_runs(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.running(job), FAR)
    site.kill_vm()
    done(site, job, starts=2)


def a_job_that_is_too_big(site: Site) -> None:
    job = site.submit(memory_mib=100_000)
    site.until(lambda: bool(site.job(job).held_by) and bool(site.job(job).told), FAR)
    site.rest_of_daemons()
    site.job(job).memory_mib = 512
    site.job(job).eligible_at = 0.0
    site.lrms.release(job)
    done(site, job)


def a_host_that_is_cut_off_for_a_while(site: Site) -> None:
    site.run_s = 900.0
    job = site.submit()
    site.until(lambda: site.running(job), FAR)
    site.run(20.0)
    site.lrms.away, site.controller = True, False
    site.run(115.0)
    site.lrms.away, site.controller = False, True
    site.run(60.0)
    assert site.running(job)
    done(site, job)


def a_bait_that_loses_its_journal_for_long(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == ["parked"], FAR)
    site.crash_bait(away_s=300.0, lose_journal=True)
    done(site, job)


def a_vm_that_somebody_wants_kept(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.running(job), FAR)
    assert site.host is not None
    (vm,) = site.host.keeper.vms.values()
    site.host.keeper.put(replace(vm, keep=Keep("root", "to be looked at", site.clock.seconds())))
    done(site, job)
    assert site.host.keeper.quarantine is not None
    assert [kept.name for kept in site.host.keeper.quarantine.kept] == [vm.key]
    assert [path.split("/")[-2:] for path in site.images.moved] == [[vm.key, "overlay"]]


@dataclass(frozen=True)
class Day:
    """A story and the user's wishes it needs."""

    live: Callable[[Site], None]

    @property
    def name(self) -> str:
        return self.live.__name__


DAYS = tuple(
    Day(live)
    for live in (
        an_ordinary_job, a_job_whose_user_wants_no_requeue, two_jobs_too_many, a_vm_that_dies_while_it_boots,
        a_vm_that_dies_while_its_job_runs,
        a_job_that_is_too_big, a_host_that_is_cut_off_for_a_while, a_bait_that_loses_its_journal_for_long,
        a_vm_that_somebody_wants_kept,
    )
)  # fmt: skip
ENVIRONMENT = DEBIAN
