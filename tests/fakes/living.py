"""A site for the time of a test: it has come up, and its journals are closed afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostmaster.world import DomainState
from tests.conftest import LoggedFailures
from tests.fakes.site import Site
from tests.fakes.wire import Crash


@contextmanager
def living(site: Site, seconds: float = 12.0) -> Iterator[Site]:
    """The site after so many seconds: 6 are enough for the bait to open, 12 for both ends to have looked around."""
    site.run(seconds)
    try:
        yield site
    finally:
        for daemon in (site.host, site.bait):
            if daemon is not None:
                daemon.die()


def a_running_job(site: Site) -> str:
    """Submit a job; its id once its program runs in a VM and its bait knows it."""
    job = site.submit()
    site.until(lambda: site.running(job) and site.phases() == ["started"])
    return job


@contextmanager
def with_long_jobs(directory: Path, logged_failures: LoggedFailures) -> Iterator[Site]:
    """A site whose jobs outlast what is tried with them; that a daemon is made to die is no failure."""
    site = Site(directory)
    site.run_s = 2000.0
    with living(site):
        yield site
    logged_failures.flush(Crash)


def stands_still(site: Site) -> bool:
    """Whether the only VM does."""
    (kept,) = site.hypervisor.kept.values()
    return kept.state is DomainState.PAUSED
