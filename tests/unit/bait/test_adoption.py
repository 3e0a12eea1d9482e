"""Leases that the host has and the bait's journal has lost: taken up where the LRMS says they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bait.adoption import adopt, record
from bait.lrms.base import JobState
from bait.rules import note
from bait.rules.lease import Phase
from protocol.messages import Release, VmPhase
from tests.unit.bait.bait_case import OWNER, BaitCase, a_status, bait_case
from tests.unit.bait.records import BAIT, BOOT, RUN, TARGET, VM, a_job, a_lease, granted, parked_job

STATUS = a_status(a_lease())


@pytest.fixture
def case(tmp_path: Path) -> Iterator[BaitCase]:
    with bait_case(tmp_path / "journal") as case:
        yield case


@pytest.mark.parametrize(
    ("job", "phase"),
    [
        (None, Phase.ENDED),
        (a_job(), Phase.ENDED),  # still at the bait, where its starter has hung up
        (parked_job(), Phase.PARKED),
        (parked_job(held=False), Phase.RELEASED),
        (a_job(run=TARGET, node=VM), Phase.RELEASED),
        (a_job(run=TARGET, state=JobState.ENDED), Phase.ENDED),
        (a_job(run=TARGET.next(), node=BAIT), Phase.ENDED),
        (parked_job(run=TARGET.next(), held=False, required_nodes=(VM,)), Phase.RELEASED),
        (parked_job(run=RUN, held=False, required_nodes=(VM,)), Phase.RETURNING),
        (parked_job(run=TARGET.next(), held=False), Phase.ENDED),
        # Torture, seed 2: its user had requeued it, which Slurm counts before the old run has left.
        (parked_job(run=TARGET.next(), held=False, state=JobState.LEAVING, required_nodes=(VM,)), Phase.RELEASED),
    ],
)
def test_a_lease_is_taken_up_where_its_job_is(job: Any, phase: Phase) -> None:
    lease = record(STATUS, job, 200.0)
    assert (lease.phase, lease.since, lease.vm, lease.generation) == (phase, 200.0, VM, 1)
    assert (lease.run, lease.target, lease.lease, lease.owner) == (RUN, TARGET, STATUS.lease, OWNER)


def test_the_jobs_home_is_read_from_our_own_note() -> None:
    sent = granted(partition="long", requeue=False, required_nodes=(BAIT,))
    job = a_job(run=TARGET, node=VM, partition="vwn", note=note.write(sent, BAIT, 100.0))
    lease = record(STATUS, job, 200.0)
    assert lease.home == sent.home
    bare = parked_job(partition="long", requeue=False, required_nodes=(BAIT,))
    assert record(STATUS, bare, 200.0).home == sent.home
    assert record(STATUS, parked_job(required_nodes=(VM,)), 200.0).home.required_nodes == ()


def test_a_lease_of_a_job_that_is_over_releases_its_vm(case: BaitCase) -> None:
    adopt(case.follower, STATUS)
    case.hear_status(STATUS)
    case.run(3)
    case.released()
    assert case.follower.leases == {}


def test_a_lease_is_not_taken_up_while_the_lrms_is_away(case: BaitCase) -> None:
    case.lrms.away = True
    adopt(case.follower, STATUS)
    case.run(1)
    assert case.follower.leases == {}


def test_one_answer_without_the_job_releases_no_vm_that_runs_it(case: BaitCase) -> None:
    """R13: that a job is unknown to the LRMS takes two complete answers, also for a bait that has lost its journal."""
    job = case.lrms.submit(owner=OWNER)
    running = case.lrms.all_jobs.pop(job)
    vm = a_status(a_lease(run=running.run), phase=VmPhase.STARTED, bound=True, boot_id=BOOT)
    case.hear_status(vm)
    adopt(case.follower, vm)
    case.run(0.2)
    running.run, running.state, running.node = running.run.next(), JobState.RUNNING, VM
    case.lrms.all_jobs[job] = running
    case.run(3)
    adopt(case.follower, vm)
    case.run(3)
    assert case.lease.phase is Phase.STARTED
    assert [message for message in case.sent if isinstance(message, Release)] == []


def test_a_lease_that_is_on_record_meanwhile_is_left_as_it_is(case: BaitCase) -> None:
    case.lrms.latency_s = 1.0
    adopt(case.follower, STATUS)
    mine = a_lease()
    case.follower.put(mine)
    case.run(1.5)
    assert case.lease.text == mine.text
    assert case.lease.phase is not Phase.PARKED
