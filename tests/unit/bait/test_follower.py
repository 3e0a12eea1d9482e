"""The follower: leases become deeds at the LRMS and the host, in order, once, and again after a crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from bait.lrms.base import JobState, LrmsRefused, LrmsUnavailable
from bait.rules.lease import Lease, Phase, Times
from protocol.ids import Generation, Run
from protocol.messages import Code, Denied, HostInventory, Release, RequestVm, VmLost, VmPhase
from tests.conftest import LoggedFailures
from tests.fakes.lrms import HAND_BACK, PARK
from tests.unit.bait.bait_case import OWNER, BaitCase, a_status, again, bait_case
from tests.unit.bait.records import BAIT, DEBIAN, SHAPE, VM, granted
from wnod.crashpoint import watched
from wnod.journal import JournalFull


@pytest.fixture
def case(tmp_path: Path) -> Iterator[BaitCase]:
    with bait_case(tmp_path / "journal") as case:
        yield case


def parked(case: BaitCase, **wishes: Any) -> str:
    """A job that waits, held, for its VM."""
    job, answers = case.intercepted(**wishes)
    case.grant()
    case.run(0.5)
    assert [answer.answer for answer in answers] == ["park"]
    case.lrms.exits(job, PARK)
    case.run(1)
    assert case.lease.phase is Phase.PARKED
    return job


def running(case: BaitCase) -> str:
    """A job whose user code runs in its VM."""
    job = parked(case)
    case.ready()
    case.run(1)
    case.lrms.tick()
    case.started()
    case.run(1)
    assert case.lease.phase is Phase.STARTED
    return job


def test_a_job_is_asked_for_parked_sent_followed_and_released(case: BaitCase) -> None:
    job = running(case)
    assert case.lrms.all_jobs[job].starts == [("bait1", 0), (VM, 1)]
    case.lrms.exits(job, 0)
    case.finished()
    case.run(2)
    assert VM not in case.lrms.all_nodes
    case.released()
    assert (case.follower.leases, case.over[-1].phase) == ({}, Phase.ENDED)
    assert list(case.over[-1].stages) == ["intercepted", "granted", "parked", "ready", "released", "running", "ended"]
    assert case.journal.load("lease", Lease) == {}


@contextmanager
def asked(case: BaitCase) -> Iterator[list[str]]:
    """What the LRMS is asked meanwhile about jobs and VMs' nodes."""
    questions: list[str] = []
    jobs, node = case.lrms.jobs, case.lrms.node
    case.lrms.jobs = lambda ids: questions.append("jobs") or jobs(ids)  # type: ignore[func-returns-value, method-assign]
    case.lrms.node = lambda name: (name != BAIT and questions.append(name)) or node(name)  # type: ignore[func-returns-value, method-assign]
    yield questions


def test_news_that_only_changes_the_record_costs_one_question(case: BaitCase) -> None:
    parked(case)
    case.ready()
    case.run(1)
    case.lrms.tick()
    assert case.lease.phase is Phase.RELEASED
    with asked(case) as questions:
        case.started()
        case.run(0.1)
    assert case.lease.phase is Phase.STARTED
    assert sorted(questions) == ["jobs", VM]


def test_a_lease_whose_vm_the_host_has_released_is_forgotten_without_a_question(case: BaitCase) -> None:
    job = running(case)
    case.lrms.exits(job, 0)
    case.finished()
    case.run(2)
    with asked(case) as questions:
        case.released()
        case.run(0.1)
    assert (case.follower.leases, questions) == ({}, [])


def test_a_starter_is_answered_after_two_commits_and_each_deed_after_its_own(case: BaitCase) -> None:
    passed: list[str] = []
    with watched(passed.append):
        case.intercepted()
        case.grant()
        case.run(0.01)
    after = [name.removesuffix(".after").removeprefix("bait.") for name in passed if name.endswith(".after")]
    assert after == [
        "commit.requested", "deed.ask", "deed.bind", "deed.make-requeueable", "commit.parking",
        "deed.say-park",
    ]  # fmt: skip


def test_a_lease_that_is_over_while_its_job_gets_our_note_stays_over(case: BaitCase) -> None:
    _, answers = case.intercepted()
    noted: Deferred[None] = Deferred()
    case.lrms.make_requeueable = lambda run, note: noted  # type: ignore[assignment, method-assign]
    case.grant()
    case.follower.put(replace(case.lease, phase=Phase.ENDED, text="superseded"))
    noted.callback(None)
    case.run(0.2)
    assert (case.lease.phase, case.lease.text, answers) == (Phase.ENDED, "superseded", [])


def test_the_request_says_what_the_lrms_says_and_not_what_the_starter_claims(case: BaitCase) -> None:
    job, _ = case.intercepted(memory_mib=700)
    ask = case.take(RequestVm)
    assert (ask.run.job, ask.run.restart, ask.owner, ask.environment) == (job, 0, OWNER, DEBIAN)
    assert (ask.shape.memory_mib, ask.shape.cpus, ask.lease) == (700, SHAPE.cpus, case.lease.lease)


def test_a_request_is_made_once_in_a_conversation_and_again_with_the_same_lease_in_the_next(case: BaitCase) -> None:
    case.intercepted()
    first = case.take(RequestVm)
    case.run(3)
    assert case.sent == []
    case.view.disconnected()
    case.follower.kick_all()
    case.run(1)
    assert case.sent == []
    case.link()
    case.follower.kick_all()
    case.run()
    second = case.take(RequestVm)
    assert (second.lease, second.id != first.id) == (first.lease, True)


def test_a_job_waits_for_a_host_that_is_away_no_longer_than_it_may(case: BaitCase) -> None:
    case.view.disconnected()
    job, answers = case.intercepted()
    case.run(9)
    assert answers == []
    case.run(3)
    assert [answer.answer for answer in answers] == ["hand-back"]
    case.lrms.exits(job, HAND_BACK)
    case.run(2)
    assert case.lrms.all_jobs[job].note.startswith("wnod: given back: ")


def test_a_denied_job_goes_back_for_as_long_as_the_host_says(case: BaitCase) -> None:
    job, answers = case.intercepted(required_nodes=(BAIT,))
    ask = case.take(RequestVm)
    case.hear(Denied(id=ask.id, lease=ask.lease, code=Code.NO_ROOM, text="full", permanent=False, retry_after_s=40.0))
    case.run(0.2)
    assert [(answer.answer, answer.text) for answer in answers] == [("hand-back", "full")]
    case.lrms.exits(job, HAND_BACK)
    case.run(2)
    record = case.lrms.all_jobs[job]
    assert 38.0 < record.eligible_at - case.clock.seconds() < 40.0
    assert record.required_nodes == (BAIT,)  # it was never sent, so there is nothing to put back
    assert case.follower.leases == {}


def test_a_sent_job_whose_vm_is_lost_requires_again_what_its_user_required(case: BaitCase) -> None:
    job = parked(case, required_nodes=(BAIT,), reservation="course")
    case.ready()
    case.lrms.stop()
    case.run(1)
    record = case.lrms.all_jobs[job]
    assert (case.lease.phase, record.required_nodes, record.reservation) == (Phase.RELEASED, (VM,), "")
    later = again(case)  # what is put back is in the journal
    later.link()
    later.hear(VmLost(lease=later.lease.lease, generation=Generation(1), code=Code.VM_DIED, text="it died"))
    later.run(2)
    assert (record.partition, record.required_nodes, record.reservation) == ("batch", (BAIT,), "course")
    later.journal.close()


def test_a_record_of_a_release_that_kept_no_required_nodes_is_read() -> None:
    record = msgspec.to_builtins(granted())
    assert (record.pop("required_nodes"), record.pop("reservation")) == ((), "")
    assert msgspec.json.decode(msgspec.json.encode(record), type=Lease) == granted()


def test_a_job_that_fits_nowhere_is_parked_and_held_for_its_user(case: BaitCase) -> None:
    job, answers = case.intercepted(requeue=False)
    ask = case.take(RequestVm)
    case.hear(Denied(id=ask.id, lease=ask.lease, code=Code.TOO_BIG, text="too big", permanent=True))
    case.run(0.5)
    assert [answer.answer for answer in answers] == ["park"]
    case.lrms.exits(job, PARK)
    case.run(2)
    record = case.lrms.all_jobs[job]
    assert (record.told, bool(record.held_by), record.requeue) == ("too big", True, False)


def test_a_job_that_must_not_be_requeued_is_made_so_once_and_put_back(case: BaitCase) -> None:
    done: list[str] = []
    make = case.lrms.make_requeueable

    async def counted(run: Run, note: str) -> None:
        done.append(str(run))
        await make(run, note)

    case.lrms.make_requeueable = counted  # type: ignore[method-assign]
    job, _ = case.intercepted(requeue=False)
    case.grant()
    case.run(0.3)
    assert len(done) == 1
    case.lrms.exits(job, PARK)
    case.run(1)
    case.ready()
    case.run(1)
    assert case.lrms.all_jobs[job].requeue is True  # or a node that fails now would end it before it has started
    case.lrms.tick()
    case.started()
    case.run(10)
    assert case.lrms.all_jobs[job].requeue is False


def test_a_lost_vm_is_told_to_the_lrms_and_its_slot_released(case: BaitCase) -> None:
    job = running(case)
    lease = case.lease.lease
    case.hear(VmLost(lease=lease, generation=Generation(1), code=Code.VM_DIED, text="the VM died"))
    case.run(2)
    assert case.lrms.all_jobs[job].run.restart == 2
    assert case.lrms.all_jobs[job].required_nodes == ()
    case.run(2)
    assert case.follower.leases
    case.released()
    assert case.follower.leases == {}


def test_a_job_is_gone_only_after_two_looks_without_it(case: BaitCase) -> None:
    job = running(case)
    record = case.lrms.all_jobs.pop(job)
    case.run(0.9)
    assert case.lease.phase is Phase.STARTED
    case.lrms.all_jobs[job] = record
    case.run(3)
    assert case.lease.phase is Phase.STARTED
    case.lrms.forget(job)
    case.run(4)
    assert [lease.phase for lease in case.follower.leases.values()] == [Phase.ENDED]


def test_an_lrms_that_is_away_is_no_reason_for_anything(case: BaitCase) -> None:
    running(case)
    case.lrms.away, case.sent = True, []
    case.hear(VmLost(lease=case.lease.lease, generation=Generation(1), code=Code.VM_DIED, text="the VM died"))
    case.run(30)
    assert case.lease.phase is Phase.STARTED
    assert case.sent == []


def test_a_job_that_the_lrms_cannot_clean_up_is_not_asked_for_ten_times_a_second(case: BaitCase) -> None:
    """Slurm does not reach its node: it is COMPLETING until that is given up, after minutes."""
    job = running(case)
    case.lrms.settle_s = 300.0
    case.lrms.exits(job, 0)
    case.finished()
    case.run(3)
    before = case.lrms.queries
    case.run(30)
    assert 25 <= case.lrms.queries - before <= 31
    assert case.lease.phase is Phase.STARTED


def test_a_refused_deed_is_not_repeated_at_full_speed(case: BaitCase) -> None:
    job = parked(case)
    case.lrms.hold(job)
    case.ready()
    before = case.lrms.queries
    case.run(5)
    assert case.lrms.queries - before < 30


def test_a_lease_that_a_full_disk_keeps_on_record_is_over_once(case: BaitCase, logged_failures: LoggedFailures) -> None:
    """It was over once more at each try: others of the past were pushed out, and a failed job waited for longer."""
    job = running(case)
    case.lrms.exits(job, 0)
    case.finished()
    case.run(2)
    transaction = case.journal.transaction

    @contextmanager
    def full() -> Iterator[None]:
        with transaction():
            yield
            raise JournalFull("no space")

    case.journal.transaction = full  # type: ignore[method-assign,assignment]
    case.released()
    case.run(2)
    assert (len(case.follower.leases), len(case.follower.past)) == (1, 0)
    case.journal.transaction = transaction  # type: ignore[method-assign]
    case.run(10)
    assert (len(case.follower.leases), [lease.run.job for lease in case.follower.past]) == (0, [job])
    assert logged_failures.flush(JournalFull)


def test_leases_that_are_over_stay_readable(case: BaitCase) -> None:
    job = running(case)
    case.lrms.exits(job, 0)
    case.finished()
    case.run(2)
    case.released()
    assert [lease.run.job for lease in case.follower.past] == [job]
    case = again(case)
    assert [lease.run.job for lease in case.follower.past] == [job]
    assert any("ended" in entry.text for entry in case.journal.read_history(job))
    case.journal.close()


def test_a_daemon_that_died_while_the_job_was_parked_sends_it_when_it_is_back(case: BaitCase) -> None:
    job = parked(case)
    lease = case.lease
    case = again(case)
    case.run(3)
    assert case.lease.phase is Phase.PARKED
    ask = lease.target
    case.link(HostInventory(vms=(a_status(lease, bound=True),), complete=True))
    case.ready()
    case.run(2)
    case.lrms.tick()
    assert case.lrms.all_jobs[job].node == VM
    assert case.lease.target == ask
    case.journal.close()


def test_a_host_that_has_forgotten_the_vm_gets_no_job(case: BaitCase) -> None:
    job = parked(case)
    case.link(HostInventory(vms=(), complete=True))
    case.follower.kick_all()
    case.run(2)
    record = case.lrms.all_jobs[job]
    assert (record.held_by, record.required_nodes) == ("", ())
    assert case.follower.leases == {}


def test_an_ended_lease_waits_for_its_vms_node_to_be_idle(case: BaitCase) -> None:
    job = running(case)
    case.lrms.all_jobs[job].state = JobState.LEAVING
    case.follower.put(replace(case.lease, phase=Phase.ENDED))
    case.run(3)
    assert VM in case.lrms.all_nodes
    assert not any(isinstance(message, Release) for message in case.sent)


def test_a_node_that_stays_busy_is_not_tried_at_full_speed(case: BaitCase) -> None:
    running(case)
    tried: list[float] = []

    async def busy(node: str) -> None:
        tried.append(case.clock.seconds())
        raise LrmsRefused(f"{node} is busy")

    case.lrms.remove_node = busy  # type: ignore[method-assign]
    case.lrms.exits(case.lease.run.job, 0)
    case.run(120)
    assert len(tried) < 20
    assert max(after - before for before, after in pairwise(tried)) <= 12


def test_a_job_is_not_sent_before_the_lrms_has_been_up_for_the_grace(case: BaitCase) -> None:
    case.lrms.up_since = case.clock.seconds() - (Times().restart_grace_s - 10)
    job = parked(case)
    case.ready()
    case.run(7)
    assert case.lrms.all_jobs[job].held_by == "exit"
    case.run(5)
    assert case.lease.phase is Phase.RELEASED


def test_our_clock_that_jumps_ahead_in_the_grace_makes_it_no_shorter(case: BaitCase) -> None:
    case.lrms.up_since = case.clock.seconds() - 10
    job = parked(case)
    case.ready()
    case.run(2)
    case.clock.rightNow += 3600.0
    case.lrms.up_since += 3600.0  # the LRMS' machine has a clock of its own
    case.run(Times().restart_grace_s - 14)
    assert case.lrms.all_jobs[job].held_by == "exit"
    case.run(5)
    assert case.lrms.all_jobs[job].held_by == ""


def test_the_lrms_is_asked_for_its_age_once_for_all_who_park_together_and_again_for_the_next(case: BaitCase) -> None:
    asked = ages_asked(case)
    first, second = case.intercepted()[0], case.intercepted()[0]
    for lease in (case.follower.of_run(case.lrms.all_jobs[job].run) for job in (first, second)):
        assert lease is not None
        case.follower.put(replace(lease, phase=Phase.PARKING, vm=VM, generation=Generation(1)))
    case.run(20)
    assert len(asked) == 1
    parked_alone = replace(next(iter(case.follower.leases.values())), lease="f" * 32, phase=Phase.PARKING)
    case.follower.put(parked_alone)
    case.run(20)
    assert len(asked) == 2


def test_an_lrms_that_is_too_young_is_asked_again_when_it_should_be_old_enough(case: BaitCase) -> None:
    case.lrms.up_since = case.clock.seconds() - (Times().restart_grace_s - 10)
    say, said = case.lrms.up_for_s, []

    async def saying() -> float:
        said.append(await say())
        return said[-1]

    case.lrms.up_for_s = saying  # type: ignore[method-assign]
    parked(case)
    case.ready()
    case.run(20)
    assert case.lease.phase is Phase.RELEASED
    first, second = said
    assert first == Times().restart_grace_s - 10
    assert 0 <= second - Times().restart_grace_s <= Times().poll_s, "old enough, and not later than the next look"


def test_an_lrms_that_does_not_tell_its_age_is_asked_again_and_nothing_is_sent(case: BaitCase) -> None:
    asked = ages_asked(case, LrmsUnavailable("busy"))
    job = parked(case)
    case.ready()
    case.run(5)
    assert len(asked) > 3
    assert case.lrms.all_jobs[job].held_by == "exit"
    del case.lrms.up_for_s  # type: ignore[attr-defined]
    case.run(2)
    assert case.lease.phase is Phase.RELEASED


def test_a_daemon_that_died_in_the_grace_asks_again_and_waits_for_the_rest_of_it(case: BaitCase) -> None:
    case.lrms.up_since = case.clock.seconds() - (Times().restart_grace_s - 14)
    parked(case)
    case.ready()
    status = a_status(case.lease, phase=VmPhase.BOUND, bound=True)
    after = again(case)
    after.link(HostInventory(vms=(status,), complete=True))
    after.run(6)
    assert after.lease.phase is Phase.PARKED
    after.run(10)
    assert after.lease.phase is Phase.RELEASED
    after.journal.close()


def ages_asked(case: BaitCase, error: Exception | None = None) -> list[float]:
    """When the LRMS was asked for its age from now on; it answers with the error, if there is one."""
    asked: list[float] = []

    async def counted() -> float:
        asked.append(case.clock.seconds())
        if error is not None:
            raise error
        return 1000.0

    case.lrms.up_for_s = counted  # type: ignore[method-assign]
    return asked


def test_failures_of_a_job_are_counted_for_as_long_as_its_leases_are_remembered(
    case: BaitCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bait.follower.KEPT", 2)
    for number, job in enumerate(("12", "12", "13", "14", "15")):
        run = Run(cluster="c", job=job, restart=number)
        ends(case, granted(lease=f"{number:032x}", run=run, phase=Phase.ENDED, failed=job in ("12", "14")))
        counts = case.follower._failures
        assert dict(counts) == [{"12": 1}, {"12": 2}, {"12": 1}, {"14": 1}, {"14": 1}][number], number


def ends(case: BaitCase, lease: Lease) -> None:
    """That lease is over, and its host has let go of it."""
    case.follower.put(lease)
    case.hear_status()
    case.run(2)
    assert lease.lease not in case.follower.leases
