"""A job's whole way through a VM, in memory: both daemons' real parts, every fault a site has, one thing at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import VmPhase
from tests.conftest import LoggedFailures
from tests.fakes.daemons import BAIT
from tests.fakes.living import living
from tests.fakes.site import DEBIAN, Site
from tests.fakes.wire import Crash
from wnod.config import Rule
from wnod.journal import Journal, JournalFull


@pytest.fixture
def site(tmp_path: Path, logged_failures: LoggedFailures) -> Iterator[Site]:
    with living(Site(tmp_path), seconds=6) as site:
        yield site
    logged_failures.flush(Crash)


def finishes(site: Site, job: str, starts: int = 1, seconds: float = 900.0) -> None:
    """The job ends well after so many starts, and the site is as clean as before."""
    site.until(lambda: site.ended(job), seconds)
    assert site.job(job).word == "COMPLETED", site.jobs()
    assert len([start for start in site.starts if start[0] == job]) == starts, site.starts
    site.rest()


def test_a_job_runs_once_in_its_own_vm_and_leaves_nothing_behind(site: Site) -> None:
    job = site.submit()
    submitted = site.clock.seconds()
    site.until(lambda: site.running(job))
    assert site.clock.seconds() - submitted < 6.0
    finishes(site, job)
    assert site.starts == [(job, 1, "vm1-g1")]
    assert site.job(job).starts == [(BAIT, 0), ("vm1", 1)]


def test_a_job_cancelled_while_its_vm_boots_leaves_nothing_behind(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.vms() == ["booting"])
    site.cancel(job)
    site.rest()
    assert site.starts == []


def test_a_job_cancelled_while_it_runs_leaves_nothing_behind(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.running(job))
    site.cancel(job)
    site.rest()
    assert len(site.starts) == 1


def test_a_job_cancelled_at_the_bait_leaves_nothing_behind(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == ["requested"])
    site.cancel(job)
    site.rest()
    assert site.starts == []


@pytest.mark.parametrize("phase", ["creating", "booting", "bound"])
def test_a_job_whose_vm_dies_before_it_starts_runs_once_in_another(site: Site, phase: str) -> None:
    job = site.submit()
    site.until(lambda: site.vms() == [phase] and bool(site.guests))
    site.kill_vm()
    finishes(site, job)


def test_a_job_whose_vm_dies_while_it_runs_starts_once_more(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.running(job))
    site.kill_vm()
    finishes(site, job, starts=2)


def test_a_dead_vms_slot_is_free_again_long_before_its_lease_would_expire(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.running(job))
    site.kill_vm()
    died = site.clock.seconds()
    site.until(site.idle)
    assert site.clock.seconds() - died < 15.0


def test_libvirt_away_while_a_vm_is_made_is_not_taken_for_its_absence(site: Site) -> None:
    site.hypervisor.lose_answers = 0
    job = site.submit()
    site.until(lambda: site.vms() == ["creating"])
    site.hypervisor.away = "libvirtd is restarted"
    site.run(5.0)
    assert site.vms() == ["creating"]
    site.hypervisor.come_back()
    finishes(site, job)
    assert len(site.generations) == 1


def test_a_create_whose_answer_is_lost_makes_one_vm(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.vms() == ["creating"])
    site.hypervisor.lose_answers = 2
    finishes(site, job)
    assert len(site.generations) == 1


def test_libvirt_away_while_a_job_runs_changes_nothing_for_it(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.running(job))
    site.hypervisor.away = "libvirtd hangs"
    site.run(10.0)
    assert site.running(job)
    site.hypervisor.come_back()
    finishes(site, job)


def test_a_job_that_meets_libvirt_away_goes_back_and_runs_later(site: Site) -> None:
    site.run_s = 5.0
    first = site.submit()
    site.until(lambda: site.running(first))
    site.hypervisor.away = "libvirtd hangs"
    site.until(lambda: site.host is not None and site.host.keeper.away)
    assert site.bait is not None
    site.bait.opening.duties.kick("gate")
    job = site.submit()
    site.run(40.0)
    sent = len(site.wire.sent)
    site.run(10.0)
    assert len(site.wire.sent) - sent < 50, "the daemons talk in circles"
    site.hypervisor.come_back()
    finishes(site, job)


def test_a_request_that_meets_a_host_without_libvirt_is_not_talked_about_in_circles(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == ["requested"])
    site.hypervisor.away = "libvirtd hangs"
    site.crash_host()
    site.run(5.0)
    sent = len(site.wire.sent)
    site.run(5.0)
    assert len(site.wire.sent) - sent < 20, "the daemons talk in circles"
    site.hypervisor.come_back()
    finishes(site, job)


def test_more_jobs_than_the_host_has_room_for_run_one_after_the_other(site: Site) -> None:
    jobs = [site.submit() for _ in range(5)]
    site.until(lambda: all(site.ended(job) for job in jobs), 3000.0)
    site.rest()
    assert sorted(start[0] for start in site.starts) == jobs


def test_a_job_that_finds_no_room_waits_in_the_queue_and_runs(site: Site) -> None:
    big = site.submit(memory_mib=1500)
    small = site.submit(memory_mib=1000)
    site.until(lambda: site.running(big))
    assert not site.running(small)
    finishes(site, small)
    assert site.ended(big)


def test_a_job_with_an_unknown_environment_is_held_and_its_user_is_told(site: Site) -> None:
    site.lrms.all_nodes[BAIT].features = frozenset({DEBIAN, "windows"})
    job = site.submit(wishes="windows")
    site.until(lambda: bool(site.job(job).held_by))
    site.rest()
    assert "there is no environment 'windows' here; known: debian12" in site.job(job).told


def test_a_job_larger_than_any_host_is_held_and_its_user_is_told(site: Site) -> None:
    job = site.submit(memory_mib=100_000)
    site.until(lambda: bool(site.job(job).held_by))
    site.rest()
    assert "this host can give at most" in site.job(job).told


def test_a_refused_job_can_be_changed_and_released_by_its_user(site: Site) -> None:
    job = site.submit(memory_mib=100_000)
    site.until(lambda: bool(site.job(job).held_by))
    site.rest_of_daemons()
    site.job(job).memory_mib = 512
    site.job(job).eligible_at = 0.0
    site.lrms.release(job)
    finishes(site, job)


def test_a_job_that_must_not_be_requeued_runs_and_keeps_its_wish(site: Site) -> None:
    job = site.submit(requeue=False)
    site.until(lambda: site.running(job))
    assert site.job(job).requeue is False
    finishes(site, job)


def test_each_task_of_an_array_runs_once_in_a_vm_of_its_own(site: Site) -> None:
    number = site.submit(tasks=(1, 2, 3))
    tasks = [f"{number}_{task}" for task in (1, 2, 3)]
    site.until(lambda: all(site.ended(task) for task in tasks if task in site.lrms.all_jobs), 2000.0)
    site.rest()
    assert sorted(start[0] for start in site.starts) == tasks
    assert len({start[2] for start in site.starts}) == 3


def test_messages_that_arrive_twice_change_nothing(site: Site) -> None:
    site.wire.twice = True
    job = site.submit()
    finishes(site, job)
    assert len(site.generations) == 1


@pytest.mark.parametrize("phase", ["requested", "parking", "parked", "released", "started"])
def test_an_lrms_that_is_away_for_a_while_is_waited_for(site: Site, phase: str) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == [phase])
    site.lrms.away = True
    site.run(25.0)
    site.lrms.away = False
    finishes(site, job)


def test_an_lrms_whose_answers_get_lost_still_starts_a_job_once(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == ["parked"])
    site.lrms.lose_replies = 3
    finishes(site, job)


def test_a_starter_that_hangs_up_loses_nothing(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == ["requested"])
    site.starters.pop(job).kill()
    site.lrms.exits(job, 198)
    finishes(site, job)


def test_a_newer_starter_of_the_job_supersedes_the_older_lease(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == ["parked"])
    record = site.job(job)
    record.held_by, record.eligible_at = "", 0.0  # somebody releases the job, and it comes to the bait again
    site.until(lambda: record.node == BAIT)
    finishes(site, job)
    assert site.starts == [(job, 2, "vm1-g2")]


@pytest.mark.parametrize("phase", ["booting", "bound", "started"])
def test_a_host_that_lost_its_journal_adopts_its_vms_from_libvirt(site: Site, phase: str) -> None:
    job = site.submit()
    site.until(lambda: site.vms() == [phase])
    site.crash_host(lose_journal=True)
    site.until(lambda: site.vms() == ["started"], 10.0)
    assert site.host is not None
    assert site.host.keeper.journal.next_number("generation") > 1
    finishes(site, job)


@pytest.mark.parametrize("phase", ["requested", "parking", "parked", "released", "started"])
def test_a_bait_that_lost_its_journal_adopts_its_leases_from_the_host(site: Site, phase: str) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == [phase])
    site.crash_bait(lose_journal=True)
    finishes(site, job)


def test_a_bait_that_lost_its_journal_while_a_job_left_its_dead_vm_takes_the_vm_off_it(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.running(job))
    site.kill_vm()
    site.until(lambda: site.job(job).run.restart == 2)
    site.crash_bait(lose_journal=True)
    finishes(site, job, starts=2)


@pytest.mark.parametrize("phase", ["requested", "parking", "parked", "released", "started"])
def test_a_link_that_is_lost_for_a_while_loses_no_job(site: Site, phase: str) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == [phase])
    site.cut()
    site.run(20.0)
    site.mend()
    finishes(site, job)


def test_a_link_that_stays_lost_leaves_a_running_job_alone(site: Site) -> None:
    site.run_s = 300.0
    job = site.submit()
    site.until(lambda: site.running(job))
    site.cut(forget=True)
    site.run(200.0)
    assert site.running(job)
    site.mend()
    finishes(site, job)


@pytest.mark.parametrize("at", range(1, 15))
def test_a_bait_that_dies_after_any_commit_loses_no_job_and_starts_none_twice(site: Site, at: int) -> None:
    site.die_at["bait"] = site.commits["bait"] + at
    job = site.submit()
    finishes(site, job)


@pytest.mark.parametrize("at", range(1, 15))
def test_a_host_that_dies_after_any_commit_loses_no_job_and_starts_none_twice(site: Site, at: int) -> None:
    site.die_at["host"] = site.commits["host"] + at
    job = site.submit()
    finishes(site, job)


@pytest.mark.parametrize("code", [198, 199])
def test_a_run_that_exits_with_a_reserved_code_is_held_and_not_started_again(site: Site, code: int) -> None:
    site.exit_code = code
    job = site.submit()
    site.until(lambda: bool(site.job(job).told.count("reserves")), 120.0)
    site.rest()
    assert len(site.starts) == 1


def test_a_user_who_holds_his_parked_job_does_not_keep_a_vm(site: Site) -> None:
    job = site.submit()
    site.until(lambda: site.phases() == ["parked"])
    site.lrms.hold(job)
    site.until(site.idle, 200.0)
    assert site.job(job).held_by == "user"
    assert site.job(job).required_nodes == ()
    site.lrms.release(job)
    finishes(site, job)


def test_a_vm_whose_image_is_refused_sends_its_job_back(site: Site) -> None:
    site.hypervisor.refuse = "no such network bridge"
    job = site.submit()
    site.until(lambda: bool(site.phases()))
    site.until(site.idle)
    assert not site.hypervisor.kept
    site.hypervisor.refuse = ""
    finishes(site, job)


def test_vms_of_others_are_never_touched(site: Site) -> None:
    stranger = site.hypervisor.stranger("database")
    job = site.submit()
    site.until(lambda: site.ended(job))
    site.until(site.idle)
    site.crash_host(lose_journal=True)
    site.run(20.0)
    assert list(site.hypervisor.kept) == [stranger]


def test_phases_are_words_of_the_protocol(site: Site) -> None:
    site.submit()
    site.until(lambda: site.vms() == ["booting"])
    assert set(site.vms()) <= set(VmPhase)


def test_a_site_rule_gives_an_environment_to_jobs_that_name_none(tmp_path: Path) -> None:
    site = Site(tmp_path, rules=(Rule(environment=DEBIAN, memory_mib=700),))
    site.run(6)
    job = site.submit()
    site.until(lambda: site.running(job))
    assert next(iter(site.hypervisor.kept.values())).spec.ours.shape.memory_mib == 700  # type: ignore[union-attr]
    finishes(site, job)


def test_a_host_that_lost_its_journal_and_cannot_write_another_says_of_no_vm_that_it_is_gone(
    site: Site, monkeypatch: pytest.MonkeyPatch, logged_failures: LoggedFailures
) -> None:
    """The bait took an inventory for complete in which nothing was adopted yet, and gave back a job that ran."""
    site.run_s = 2000.0
    job = site.submit()
    site.until(lambda: site.running(job) and site.phases() == ["started"])
    put = Journal.put

    def full(journal: Journal, kind: str, key: str, record: Any) -> None:
        if kind == "vm":
            raise JournalFull("no space left on device")
        put(journal, kind, key, record)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "put", full)
        site.crash_host(lose_journal=True)
        site.run(20.0)
        logged_failures.flush(JournalFull)
    site.run(20.0)
    assert site.running(job)
    assert (site.phases(), site.job(job).run.restart) == (["started"], 1)
