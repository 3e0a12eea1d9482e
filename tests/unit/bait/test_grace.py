"""The grace after a restart of the LRMS: how long a caught run is not sent, whatever was seen."""

from hypothesis import given
from hypothesis import strategies as st

from bait.rules.grace import left_s
from bait.rules.job import decide
from bait.rules.lease import Deed, Lease, Phase, Step, Times
from protocol.messages import VmPhase
from tests.unit.bait.records import a_view, facts, granted, parked_job

TIMES = Times(restart_grace_s=15.0)
AGES = st.floats(0.0, 1e6)


def ready(caught: float = 100.0) -> Lease:
    """All else is there for its job to be sent."""
    return granted(phase=Phase.PARKED, since=caught, stages={"intercepted": caught, "ready": caught})


def step(now: float, up_for_s: float | None, times: Times = TIMES) -> Step:
    vm = a_view(bound=True, phase=VmPhase.BOUND)
    seen = facts(vm=vm, job=parked_job(), node=True, node_ready=True, now=now, up_for_s=up_for_s, hook=False)
    return decide(ready(), seen, times)


@given(AGES, AGES)
def test_a_run_waits_until_the_lrms_has_been_up_for_the_grace_and_no_longer(up_for_s: float, grace_s: float) -> None:
    assert left_s(up_for_s, grace_s) == (0.0 if up_for_s >= grace_s else grace_s - up_for_s)


@given(st.floats(100.0, 1e6), st.floats(0.0, 30.0))
def test_a_job_is_sent_exactly_when_the_grace_is_over_whatever_our_clock_says(now: float, up_for_s: float) -> None:
    taken = step(now, up_for_s)
    assert (taken.deed is Deed.SEND) == (up_for_s >= 15.0)
    assert taken.deed is Deed.SEND or (taken.wake_s is not None and 0 < taken.wake_s <= TIMES.poll_s)


@given(st.floats(100.0, 160.0))
def test_nothing_is_sent_while_nobody_knows_for_how_long_the_lrms_has_been_up(now: float) -> None:
    assert step(now, None) == Step(ready(), wake_s=TIMES.poll_s)


def test_a_job_does_not_wait_for_ever_for_an_lrms_that_does_not_tell_its_age() -> None:
    after = step(160.1, None)
    assert (after.deed, after.lease.phase, after.lease.failed) == (None, Phase.RETURNING, False)
    assert "for how long it has been up" in after.lease.text
    assert "administrator" in after.lease.text


def test_a_site_may_do_without_a_grace() -> None:
    assert step(100.0, None, Times(restart_grace_s=0.0)).deed is Deed.SEND
