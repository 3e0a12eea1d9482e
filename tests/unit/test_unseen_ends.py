"""A run that ends while its bait is away: also one whose own program exits with a code of the hand-off's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.ids import Run, Shape
from tests.conftest import LoggedFailures
from tests.fakes.living import a_running_job, living
from tests.fakes.site import Site
from tests.fakes.wire import Crash


@pytest.fixture
def site(tmp_path: Path, logged_failures: LoggedFailures) -> Iterator[Site]:
    with living(Site(tmp_path), seconds=6) as site:
        site.exit_code = 199
        yield site
    logged_failures.flush(Crash)


def held_for_its_user(site: Site, job: str) -> None:
    site.until(lambda: bool(site.job(job).told.count("reserves")), 120.0)
    site.rest()
    assert len(site.starts) == 1


def dies(site: Site) -> None:
    """The VM, after its run has ended."""
    site.killed.update(site.guests)
    for uuid in tuple(site.guests):
        site.hypervisor.vanish(uuid)


@pytest.mark.parametrize("vm_dies", [False, True])
@pytest.mark.parametrize("loses", [False, True])
@pytest.mark.parametrize("host_dies", [False, True])
def test_a_reserved_exit_code_is_known_to_a_bait_that_was_away_when_the_run_ended(
    site: Site, vm_dies: bool, loses: bool, host_dies: bool
) -> None:
    """Only the host had heard that the run was at its end: its bait gave the job back, and it ran once more."""
    job = a_running_job(site)
    site.crash_bait(away_s=60.0, lose_journal=loses)
    site.until(lambda: not site.running(job))
    site.run(1.0)
    if vm_dies:
        dies(site)
    if host_dies:
        site.crash_host()
    held_for_its_user(site, job)


def test_a_reserved_exit_code_is_known_when_the_line_was_cut_at_the_end_of_the_run(site: Site) -> None:
    job = a_running_job(site)
    site.cut(forget=True)
    site.until(lambda: not site.running(job))
    site.run(1.0)
    dies(site)
    site.run(10.0)
    site.mend()
    held_for_its_user(site, job)


def dies_when_it_has_sent(site: Site, away_s: float) -> None:
    """The bait, before it could write down that it has sent the job."""
    send = site.lrms.send

    async def sent(run: Run, node: str, shape: Shape, note: str) -> None:
        await send(run, node, shape, note)
        site.clock.callLater(0, site.crash_bait, away_s=away_s)

    site.lrms.send = sent  # type: ignore[method-assign]


def test_a_run_of_which_its_bait_knows_only_that_it_was_parked_is_judged_by_what_the_host_knows(site: Site) -> None:
    """Its bait took it for a job that somebody else had moved, and left it on its VM's node, held."""
    dies_when_it_has_sent(site, 60.0)
    job = site.submit()
    held_for_its_user(site, job)


def test_a_job_whose_vm_died_while_its_bait_knew_only_that_it_was_parked_goes_back_when_it_is_there(site: Site) -> None:
    site.exit_code = 0
    dies_when_it_has_sent(site, 30.0)
    job = site.submit()
    site.until(lambda: site.running(job))
    name = site.job(job).node
    assert name is not None
    site.kill_vm()
    site.lrms.node_fails(name)
    site.until(lambda: bool(site.phases()))
    site.run(10.0)
    assert site.job(job).required_nodes == ()
    site.until(lambda: site.ended(job))
    site.rest()
    assert len(site.starts) == 2
