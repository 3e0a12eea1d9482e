"""Statistics, bars and the report of the benchmark: what the numbers are made of."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import figures, report, stopwatch

SECONDS = st.floats(min_value=0.001, max_value=1000, allow_nan=False)


def start(median: float) -> dict[str, Any]:
    return {figures.START: {"median": median, "min": median, "max": median, "n": 10}}


def good() -> dict[str, dict[str, Any]]:
    """A run in which every bar is held."""
    return {
        "bare": {**start(0.5), figures.RATE: 120.0},
        "wnod_cold": start(5.0),
        "wnod_restore": {**start(1.75), figures.RATE: 30.0},
        "wnod_unpause": {**start(1.7), figures.READY: {"median": 0.9, "min": 0.8, "max": 1.1, "n": 10}},
        "slurm_cloud_documented": {**start(25.0), figures.RATE: 2.0},
        "slurm_cloud_tuned": start(6.5),
        "kit_ssh": start(6.0),
    }


FLOORS = {"boot_to_ready": [3.0, 3.1, 2.9]}


def held(contestants: dict[str, dict[str, Any]]) -> dict[str, bool | None]:
    return {row["name"]: row["held"] for row in report.results(contestants, FLOORS, {})["bars"]}


@given(st.lists(SECONDS, min_size=1, max_size=30))
def test_a_summary_lies_between_its_extremes_and_knows_how_many_there_were(samples: list[float]) -> None:
    found = figures.summary(samples)
    assert found["min"] <= found["median"] <= found["max"]
    assert found["n"] == len(samples)
    assert found["median"] == pytest.approx(statistics.median(samples), abs=0.001)


def test_no_samples_are_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        figures.summary([])


def test_every_bar_is_judged_and_held_in_a_good_run() -> None:
    assert held(good()) == dict.fromkeys(
        (
            "unpause_extra_s",
            "restore_extra_s",
            "restore_hidden_extra_s",
            "cold_s",
            "documented_to_restore",
            "tuned_to_restore",
            "rate_to_documented",
            "recycle_s",
        ),
        True,
    )


@pytest.mark.parametrize(
    ("contestant", "figure", "value", "bar"),
    [
        ("wnod_unpause", figures.START, 1.81, "unpause_extra_s"),
        ("wnod_restore", figures.START, 2.31, "restore_extra_s"),
        ("wnod_restore", figures.START, 1.81, "restore_hidden_extra_s"),
        ("wnod_cold", figures.START, 5.11, "cold_s"),
        ("slurm_cloud_documented", figures.START, 10.4, "documented_to_restore"),
        ("slurm_cloud_tuned", figures.START, 5.2, "tuned_to_restore"),
        ("wnod_unpause", figures.READY, 1.01, "recycle_s"),
    ],
)
def test_a_bar_that_is_just_missed_is_not_held(contestant: str, figure: str, value: float, bar: str) -> None:
    run = good()
    run[contestant] = {**run[contestant], figure: {"median": value, "min": value, "max": value, "n": 10}}
    assert held(run)[bar] is False


def test_throughput_is_that_of_our_best_way() -> None:
    run = good()
    run["wnod_unpause"][figures.RATE] = 9.9
    assert held(run)["rate_to_documented"] is True
    run["wnod_restore"][figures.RATE] = 9.9
    assert held(run)["rate_to_documented"] is False


@pytest.mark.parametrize("missing", sorted(good()))
def test_what_was_not_seen_is_never_held(missing: str) -> None:
    run = good()
    del run[missing]
    judged = held(run)
    about = {
        "bare": {"unpause_extra_s", "restore_extra_s", "restore_hidden_extra_s", "cold_s"},
        "wnod_cold": {"cold_s"},
        "wnod_restore": {
            "restore_extra_s",
            "restore_hidden_extra_s",
            "documented_to_restore",
            "tuned_to_restore",
            "rate_to_documented",
        },
        "wnod_unpause": {"unpause_extra_s", "recycle_s"},
        "slurm_cloud_documented": {"documented_to_restore", "rate_to_documented"},
        "slurm_cloud_tuned": {"tuned_to_restore"},
        "kit_ssh": set(),
    }[missing]
    assert {name for name, verdict in judged.items() if verdict is None} == about


def test_ratios_compare_with_bare_and_each_rival_with_each_way() -> None:
    found = figures.ratios(good())
    assert found["wnod_cold/bare"] == 10.0
    assert found["slurm_cloud_documented/wnod_restore"] == 14.29
    assert len(found) == 6 + 9


@given(st.integers(min_value=1, max_value=60))
def test_rounds_are_spread_evenly_over_the_second(rounds: int) -> None:
    assert sorted(figures.phases(rounds)) == pytest.approx([(n + 0.5) / rounds for n in range(rounds)])


def test_a_rate_needs_time() -> None:
    assert figures.per_minute(40, 80) == 30
    with pytest.raises(ValueError, match="stood still"):
        figures.per_minute(40, 0)


def test_the_text_names_every_contestant_every_floor_and_every_bar() -> None:
    found = report.results(good(), FLOORS, {"cpus": 2})
    said = report.text(found)
    for name in (*good(), "boot_to_ready", *(row["text"] for row in found["bars"])):
        assert name in said
    assert "NOT HELD" not in said
    run = good()
    run["wnod_cold"]["stages_s"] = {"parked": {"median": 0.9}, "intercepted": {"median": 0.5}}
    assert "wnod_cold: intercepted 0.50, parked 0.90" in report.text(report.results(run, FLOORS, {}))
    run = good()
    run["wnod_restore"] = start(9.0)
    assert "NOT HELD" in report.text(report.results(run, FLOORS, {}))


@pytest.mark.parametrize("begun", [3.7, 10.2])
@pytest.mark.parametrize("phase", [0.05, 0.5, 0.95])
def test_a_job_is_submitted_that_far_after_a_look_whenever_that_was(begun: float, phase: float) -> None:
    for now in (10.2, 10.9, 11.5):
        wait = stopwatch.until_phase(begun, phase, now)
        assert 0 <= wait < stopwatch.SCHEDULED_EVERY_S
        assert (now + wait - begun) % stopwatch.SCHEDULED_EVERY_S == pytest.approx(phase)
