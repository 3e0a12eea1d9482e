"""What a starter claims is checked against the kernel and the LRMS; each run gets one lease; each starter an answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bait.lrms.base import NO_REQUEUE, JobState
from bait.rules.lease import Phase
from protocol.messages import HostInventory, RequestVm
from tests.fakes.lrms import HAND_BACK
from tests.unit.bait.bait_case import OWNER, BaitCase, bait_case
from tests.unit.bait.records import BAIT, DEBIAN, a_capacity, an_offer
from wnod.config import Rule


@pytest.fixture
def case(tmp_path: Path) -> Iterator[BaitCase]:
    with bait_case(tmp_path / "journal") as case:
        yield case


def at_the_bait(case: BaitCase, **wishes: Any) -> str:
    job = case.lrms.submit(owner=OWNER, **wishes)
    case.lrms.tick()
    return job


def test_a_true_claim_becomes_a_lease_with_the_lrms_words(case: BaitCase) -> None:
    job, answers = case.intercepted(account="physics")
    lease = case.lease
    assert (lease.run.job, lease.owner, lease.user, lease.partition, lease.phase) == (
        job, OWNER, "alice", "batch", Phase.REQUESTED,
    )  # fmt: skip
    assert answers == []
    assert case.take(RequestVm).lease == lease.lease


@pytest.mark.parametrize(
    ("claim", "changes", "words"),
    [
        ({"job": "77"}, {}, "no such job of this user"),
        ({"uid": 1001}, {}, "no such job of this user"),
        ({"restart": 1}, {}, "not fake/1.1 running on bait1"),
        ({}, {"node": "other"}, "RUNNING on other, not"),
        ({}, {"state": JobState.LEAVING, "word": "COMPLETING"}, "COMPLETING on None, not"),
    ],
)
def test_a_claim_the_lrms_does_not_confirm_is_handed_back(
    case: BaitCase, claim: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    job = at_the_bait(case)
    for name, value in changes.items():
        setattr(case.lrms.all_jobs[job], name, value)
    _, (answer,) = case.start(job, **claim)
    assert answer.answer == "hand-back"
    assert words in answer.text
    assert case.follower.leases == {}


def test_who_is_no_batch_job_is_told_so_where_its_user_looks(case: BaitCase) -> None:
    job = at_the_bait(case)
    case.lrms.all_jobs[job].batch = False
    _, (answer,) = case.start(job)
    assert answer.answer == "refuse", "of the other answers the starter shows no text"
    assert "use sbatch" in answer.text
    assert case.follower.leases == {}


def test_a_job_that_gets_no_lease_is_not_remembered(case: BaitCase) -> None:
    """What the LRMS had said of it stayed in memory for ever: of each job that a bait without its host handed back."""
    case.view.capacity = None
    job = at_the_bait(case)
    _, answers = case.start(job)
    case.run(6)
    assert [answer.answer for answer in answers] == ["hand-back"]
    assert not case.follower.sights._sights
    case.lrms.all_jobs[job].batch = False
    case.start(job)
    assert not case.follower.sights._sights


def test_an_lrms_that_does_not_answer_leads_to_the_queue(case: BaitCase) -> None:
    job = at_the_bait(case)
    case.lrms.away = True
    _, (answer,) = case.start(job)
    assert (answer.answer, case.follower.leases) == ("hand-back", {})


def test_a_host_that_says_nothing_leads_to_the_queue_in_time(case: BaitCase) -> None:
    case.view.capacity = None
    job, answers = case.intercepted()
    case.run(4)
    assert answers == []
    case.run(2)
    assert [answer.answer for answer in answers] == ["hand-back"]
    assert case.follower.leases == {}
    assert case.lrms.all_jobs[job].state is JobState.RUNNING


def test_a_host_that_speaks_late_is_still_asked(case: BaitCase) -> None:
    case.view.capacity = None
    case.intercepted()
    case.run(2)
    case.hear(a_capacity())
    case.run(0.5)
    assert case.take(RequestVm).environment == DEBIAN


def test_two_starters_of_one_run_share_one_lease(case: BaitCase) -> None:
    job, first = case.intercepted()
    lease = case.lease
    _, second = case.start(job)
    assert case.lease == lease
    case.grant()
    case.run(0.5)
    assert (first, [answer.answer for answer in second]) == ([], ["park"])


def test_two_starters_of_one_run_that_both_wait_for_the_host_share_one_lease(case: BaitCase) -> None:
    case.view.capacity = None
    job, _ = case.intercepted()
    case.start(job)
    case.run(1)
    case.hear(a_capacity())
    case.run(0.5)
    assert len(case.follower.leases) == 1


def test_a_starter_that_hangs_up_is_noticed(case: BaitCase) -> None:
    job = at_the_bait(case)
    call, answers = case.start(job)
    call.gone.callback(None)
    assert [answer.answer for answer in answers] == ["hand-back"]
    assert case.follower.hooks == {}
    case.lrms.exits(job, HAND_BACK)
    case.run(3)
    assert case.lease.phase is Phase.ENDED


def test_an_older_starter_that_hangs_up_does_not_take_the_newer_ones_place(case: BaitCase) -> None:
    job = at_the_bait(case)
    older, _ = case.start(job)
    case.start(job)
    older.gone.callback(None)
    assert case.lease.lease in case.follower.hooks


def test_a_newer_run_ends_the_lease_of_the_older(case: BaitCase) -> None:
    job, _ = case.intercepted()
    older = case.lease.lease
    case.lrms.exits(job, HAND_BACK)
    case.run(0.1)
    record = case.lrms.all_jobs[job]
    record.state, record.word, record.node = JobState.PENDING, "PENDING", None
    record.run, record.eligible_at = record.run.__class__(cluster="fake", job=job, restart=1), 0.0
    case.lrms.tick()
    assert record.node == BAIT
    case.start(job)
    assert case.follower.leases[older].phase is Phase.ENDED
    assert {lease.run.restart for lease in case.follower.leases.values()} == {0, 1}


def test_a_job_that_cannot_be_served_is_refused_with_a_text(case: BaitCase) -> None:
    _, answers = case.intercepted()
    assert answers == []
    job = at_the_bait(case)
    case.lrms.all_jobs[job].wishes = "windows"
    _, (answer,) = case.start(job)
    assert answer.answer == "park"
    lease = next(lease for lease in case.follower.leases.values() if lease.run.job == job)
    assert (lease.phase, "'windows'" in lease.text) == (Phase.REFUSING, True)


def test_a_users_wish_for_no_requeue_is_remembered_also_if_the_site_overrode_it(case: BaitCase) -> None:
    at_the_bait(case, note=NO_REQUEUE, requeue=True)
    case.start("1")
    assert case.lease.requeue is False


def test_the_sites_rules_are_applied(tmp_path: Path) -> None:
    with bait_case(tmp_path / "other", rules=(Rule(account="physics", memory_mib=900),)) as case:
        case.link(a_capacity(offers=(an_offer(),)), HostInventory(vms=(), complete=True))
        case.intercepted(account="physics")
        assert case.lease.shape.memory_mib == 900
