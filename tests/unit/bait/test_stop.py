"""A bait that stops: it closes its node while it still answers, so that its stop costs no job anything."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from bait.core import CLOSE_LIMIT_S
from tests.fakes.daemons import BAIT
from tests.fakes.living import living
from tests.fakes.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with living(Site(tmp_path), seconds=6) as site:
        yield site


def stop(site: Site) -> "Deferred[None]":
    """The daemon is told to stop, as by systemd."""
    assert site.bait is not None
    return Deferred.fromCoroutine(site.bait.core.stop())


def start_again(site: Site) -> None:
    """The process ends, and a new one starts."""
    site._stop("bait")
    site.cut(forget=True)
    site.start_bait()


def test_a_job_whose_starter_waits_when_the_daemon_stops_is_parked_and_not_handed_back(site: Site) -> None:
    site.lrms.latency_s = 0.2
    job = site.submit()
    site.until(lambda: job in site.starters)
    stopped = stop(site)
    site.until(lambda: stopped.called, CLOSE_LIMIT_S)
    assert site.lrms.all_nodes[BAIT].closed == "wnod: the bait daemon is stopped"
    assert site.job(job).held_by == "exit"
    start_again(site)
    site.until(lambda: site.ended(job), 60)
    assert site.job(job).starts == [(BAIT, 0), ("vm1", 1)]
    site.rest()


def test_starters_are_answered_until_the_node_is_closed_and_empty(site: Site) -> None:
    assert site.bait is not None
    hooks, at_the_end = site.bait.hooks, []
    stop_answering = hooks.stop

    async def seen() -> None:
        at_the_end.append((site.lrms.all_nodes[BAIT].closed, dict(site.starters)))
        await stop_answering()

    hooks.stop = seen  # type: ignore[method-assign]
    site.lrms.latency_s = 0.2
    job = site.submit()
    stopped = stop(site)
    site.lrms.tick()  # the job is sent while the node is being closed
    assert job in site.starters
    site.until(lambda: stopped.called, CLOSE_LIMIT_S)
    assert at_the_end == [("wnod: the bait daemon is stopped", {})]
    assert site.job(job).held_by == "exit"


def test_a_stop_does_not_wait_for_ever_for_a_job_that_stays(site: Site) -> None:
    site._stop("host")  # nobody answers the bait, so it has no answer for the starter yet
    job = site.submit()
    site.until(lambda: job in site.starters)
    begun = site.clock.seconds()
    stopped = stop(site)
    site.until(lambda: stopped.called, CLOSE_LIMIT_S + 1)
    assert site.clock.seconds() - begun == pytest.approx(CLOSE_LIMIT_S)
    site.run(0.5)
    assert (site.starters, site.job(job).exit_code) == ({}, 198)


def test_a_stop_while_the_lrms_is_away_hands_back_whoever_waits(site: Site) -> None:
    site._stop("host")
    job = site.submit()
    site.until(lambda: job in site.starters)
    site.lrms.away = True
    stopped = stop(site)
    site.run(0.5)
    assert stopped.called
    assert (site.starters, site.job(job).exit_code) == ({}, 198)
