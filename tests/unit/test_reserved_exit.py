"""A run whose own program exits with a code of the hand-off's: whoever was away at its end, it is not run again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
