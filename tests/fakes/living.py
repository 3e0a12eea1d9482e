"""A site for the time of a test: it has come up, and its journals are closed afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.site import Site


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
