"""When the bait attracts jobs: closing at once, opening when there has been room for a while."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bait.rules.gate import REASON, Choice, Gate, Limits, choose
from protocol.ids import Room, Shape
from protocol.messages import Capacity
from tests.unit.bait.records import a_capacity, an_offer

SMALL = Shape(cpus=1, memory_mib=512, disk_mib=64)
LARGE = Shape(cpus=2, memory_mib=1024, disk_mib=64)
LIMITS = Limits(SMALL, LARGE, 5.0)
OPEN = Gate(True, 50.0, "")
CLOSED = Gate(False, 50.0, "wnod: all 2 VM slots are taken")
FULL = a_capacity(free_slots=0)
TIGHT = a_capacity(free=Room(cpus=1, memory_mib=600, disk_mib=100))


def test_an_open_bait_with_room_stays_as_it_is() -> None:
    assert choose(OPEN, a_capacity(), LIMITS, 100.0) == Choice(OPEN)


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        (None, "does not answer"),
        (a_capacity(serving=False, text="the hypervisor does not answer"), "hypervisor does not answer"),
        (a_capacity(serving=False), "not ready"),
        (a_capacity(offers=()), "no environment"),
        (a_capacity(offers=(an_offer(available=False),)), "no environment"),
        (FULL, "all 2 VM slots are taken"),
        (a_capacity(free=Room(cpus=0, memory_mib=4096, disk_mib=1024)), "no room for a VM of 1 cpus"),
    ],
)
def test_an_obstacle_closes_at_once_and_is_named(capacity: Capacity | None, words: str) -> None:
    gate = choose(OPEN, capacity, LIMITS, 100.0).gate
    assert (gate.open, gate.since) == (False, 100.0)
    assert gate.reason.startswith(REASON)
    assert words in gate.reason


def test_a_closed_bait_opens_when_there_has_been_room_for_the_hold_time() -> None:
    waiting = choose(CLOSED, a_capacity(), LIMITS, 100.0)
    assert (waiting.gate.open, waiting.gate.room_since, waiting.wake_at) == (False, 100.0, 105.0)
    still = choose(waiting.gate, a_capacity(), LIMITS, 104.9)
    assert (still.gate.open, still.wake_at) == (False, 105.0)
    assert choose(still.gate, a_capacity(), LIMITS, 105.0) == Choice(Gate(True, 105.0, ""))


def test_a_new_obstacle_starts_the_hold_time_anew() -> None:
    waiting = choose(CLOSED, a_capacity(), LIMITS, 100.0).gate
    again = choose(waiting, FULL, LIMITS, 102.0).gate
    assert choose(again, a_capacity(), LIMITS, 105.0).gate.open is False


def test_opening_needs_more_room_than_staying_open() -> None:
    assert choose(OPEN, TIGHT, LIMITS, 100.0).gate.open
    assert choose(CLOSED, TIGHT, LIMITS, 100.0).gate.room_since is None


CAPACITIES = st.sampled_from([None, a_capacity(), FULL, TIGHT, a_capacity(serving=False)])


@given(st.lists(st.tuples(st.floats(0, 8), CAPACITIES), min_size=2, max_size=40))
def test_the_gate_never_opens_sooner_than_the_hold_time_after_it_closed(
    happenings: list[tuple[float, Capacity | None]],
) -> None:
    gate, now, closed_at, room_since = Gate(False, 0.0, "start"), 0.0, 0.0, None
    for delay, capacity in happenings:
        now += delay
        before, gate = gate, choose(gate, capacity, LIMITS, now).gate
        roomy = choose(CLOSED, capacity, LIMITS, now).gate.room_since is not None
        room_since = (now if room_since is None else room_since) if roomy and not before.open else None
        if gate.open and not before.open:
            assert now - closed_at >= LIMITS.hold_s
            assert room_since is not None
            assert now - room_since >= LIMITS.hold_s
        if before.open and not gate.open:
            closed_at = now
        assert gate.open or gate.reason


@given(st.booleans(), st.floats(0, 100), CAPACITIES, st.floats(100, 200))
def test_asking_twice_gives_the_same_answer(is_open: bool, since: float, capacity: Capacity | None, now: float) -> None:
    first = choose(Gate(is_open, since, "" if is_open else "x"), capacity, LIMITS, now)
    assert choose(first.gate, capacity, LIMITS, now) == first
