"""What a bait publishes before anything has happened."""

from bait.numbers import LONG_S, Numbers
from bait.rules.lease import Phase
from tests.unit.bait.records import a_lease
from wnod.metrics import STAGES, Metrics


def test_a_bait_that_has_just_started_shows_every_stage_and_every_phase_with_nothing_in_it() -> None:
    metrics = Metrics("bait", "bait-h1")
    Numbers(metrics, lambda: 0.0)
    lines = metrics.text().decode().splitlines()
    for stage in STAGES:
        assert f'wnod_bait_stage_seconds_count{{stage="{stage}"}} 0.0' in lines
    assert 'wnod_bait_leases{phase="started"} 0.0' in lines


def test_jobs_that_are_parked_for_long_are_counted_apart_from_those_that_always_come_and_go() -> None:
    metrics, now = Metrics("bait", "bait-h1"), [100.0]
    numbers = Numbers(metrics, lambda: now[0])
    parked, other = a_lease(phase=Phase.PARKED), a_lease(phase=Phase.STARTED)
    numbers.count([parked, parked, other])
    for age_s, count in ((0.0, "0.0"), (LONG_S, "0.0"), (LONG_S + 1, "2.0")):
        now[0] = 100.0 + age_s
        assert f"wnod_bait_jobs_parked_long {count}" in metrics.text().decode().splitlines()
