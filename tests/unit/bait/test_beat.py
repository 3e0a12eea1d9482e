"""Leases of one bait look together, baits do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bait.rules.beat import phase, wait_s

NOW = st.floats(1e9, 2e9)
BEATS_AWAY = st.floats(1.0, 60.0)
PHASES = st.floats(0.0, 0.999)


@given(NOW, BEATS_AWAY, PHASES, st.sampled_from([0.1, 1.0, 5.0]))
def test_whenever_somebody_wants_to_look_he_looks_on_the_beat(
    now: float, away: float, late: float, beat_s: float
) -> None:
    beat = now + wait_s(now, away * beat_s, beat_s, late)
    off = (beat - late * beat_s) % beat_s
    assert min(off, beat_s - off) < 1e-5


@given(NOW, BEATS_AWAY, PHASES, st.sampled_from([0.1, 1.0, 5.0]))
def test_the_wait_is_what_was_wanted_to_half_a_beat_and_never_nothing(
    now: float, away: float, late: float, beat_s: float
) -> None:
    wait = wait_s(now, away * beat_s, beat_s, late)
    assert wait == pytest.approx(away * beat_s, abs=beat_s / 2 + 0.0011)
    assert wait_s(now, 0.0, beat_s, late) > 0


def test_the_baits_of_a_large_site_are_spread_over_the_beat() -> None:
    tenths = [int(10 * phase(f"bait-h{number}")) for number in range(1, 501)]
    assert all(30 <= tenths.count(tenth) <= 70 for tenth in range(10))
