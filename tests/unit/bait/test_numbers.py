"""What a bait publishes before anything has happened."""

from bait.numbers import Numbers
from wnod.metrics import STAGES, Metrics


def test_a_bait_that_has_just_started_shows_every_stage_and_every_phase_with_nothing_in_it() -> None:
    metrics = Metrics("bait", "bait-h1")
    Numbers(metrics)
    lines = metrics.text().decode().splitlines()
    for stage in STAGES:
        assert f'wnod_bait_stage_seconds_count{{stage="{stage}"}} 0.0' in lines
    assert 'wnod_bait_leases{phase="started"} 0.0' in lines
