"""The grace after a restart of the LRMS: how long a caught run is not sent, whatever was seen."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bait.rules.grace import not_before
from bait.rules.job import decide
from bait.rules.lease import Deed, Facts, Lease, Phase, Step, Times
from protocol.messages import VmPhase
from tests.unit.bait.records import a_view, facts, granted, parked_job

TIMES = Times(restart_grace_s=15.0)
MOMENTS = st.floats(0.0, 1e6)


def ready(caught: float = 100.0) -> Lease:
    """All else is there for its job to be sent."""
    return granted(phase=Phase.PARKED, since=caught, stages={"intercepted": caught, "ready": caught})


def seen(now: float, up_since: float | None) -> Facts:
    vm = a_view(bound=True, phase=VmPhase.BOUND)
    return dataclasses.replace(
        facts(vm=vm, job=parked_job(), node=True, node_ready=True), now=now, up_since=up_since, hook=False
    )


def step(caught: float, now: float, up_since: float | None, times: Times = TIMES) -> Step:
    return decide(ready(caught), seen(now, up_since), times)


@given(MOMENTS, MOMENTS, st.floats(0.0, 600.0))
@settings(deadline=None)
def test_a_run_that_was_caught_after_a_restart_waits_for_the_grace_to_be_over(
    up_since: float, passed: float, grace_s: float
) -> None:
    assert not_before(up_since + passed, up_since, grace_s) == up_since + grace_s


@given(MOMENTS, MOMENTS, st.floats(0.0, 600.0))
@settings(deadline=None)
def test_no_run_waits_for_longer_than_the_grace_from_its_interception_on(
    caught: float, up_since: float, grace_s: float
) -> None:
    assert not_before(caught, up_since, grace_s) <= caught + grace_s


@given(st.floats(100.0, 130.0), st.floats(0.0, 130.0))
@settings(deadline=None)
def test_a_job_is_sent_exactly_when_the_grace_is_over(now: float, up_since: float) -> None:
    taken = step(100.0, now, up_since)
    assert (taken.deed is Deed.SEND) == (now >= not_before(100.0, up_since, 15.0))
    assert taken.deed is Deed.SEND or (taken.wake_s is not None and 0 < taken.wake_s <= TIMES.poll_s)


def test_an_lrms_that_has_long_been_up_delays_nothing() -> None:
    assert step(100.0, 100.0, 85.0).deed is Deed.SEND


def test_a_restart_after_the_interception_delays_no_job_that_was_caught_a_grace_ago() -> None:
    assert step(100.0, 115.0, 114.0).deed is Deed.SEND
    assert step(100.0, 114.9, 114.0).deed is None  # it may hide an earlier start of the LRMS


@given(st.floats(100.0, 160.0))
@settings(deadline=None)
def test_nothing_is_sent_while_nobody_knows_since_when_the_lrms_has_been_up(now: float) -> None:
    assert step(100.0, now, None) == Step(ready(), wake_s=TIMES.poll_s)


def test_a_job_does_not_wait_for_ever_for_an_lrms_that_does_not_tell_its_age() -> None:
    after = step(100.0, 160.1, None)
    assert (after.deed, after.lease.phase, after.lease.failed) == (None, Phase.RETURNING, False)
    assert "since when" in after.lease.text


def test_a_site_may_do_without_a_grace() -> None:
    assert step(100.0, 100.0, None, Times(restart_grace_s=0.0)).deed is Deed.SEND


def test_an_adopted_lease_without_stages_counts_from_its_record() -> None:
    lease = replace(ready(), stages={"ready": 100.0})
    assert decide(lease, seen(100.0, 99.0), TIMES).deed is None
    assert decide(lease, seen(114.0, 99.0), TIMES).deed is Deed.SEND
