"""A lease as decided: which facts lead to which deeds, and which never do."""

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from bait.lrms.base import JobState
from bait.rules import note
from bait.rules.job import decide
from bait.rules.lease import Deed, Denial, Lease, Phase, Step, Times
from bait.rules.record import done, pause_s, refused, supersede, superseded
from protocol.ids import Generation, Run, VmName
from protocol.messages import Code, VmPhase
from tests.unit.bait.records import (
    BOOT,
    RUN,
    TARGET,
    VM,
    a_job,
    a_lease,
    a_view,
    facts,
    granted,
    lease_id,
    parked_job,
)

TIMES = Times()
BOUND = a_view(bound=True, phase=VmPhase.BOUND, boot_id=BOOT)
STARTED = a_view(bound=True, phase=VmPhase.STARTED, boot_id=BOOT)
NO_ROOM = Denial(Code.NO_ROOM, "all 2 slots are taken", False, 7.0)
OUR_NOTE = note.write(a_lease(), "bait1", 100.0)
TOO_BIG = Denial(Code.TOO_BIG, "this host can give at most 1 cpu", True, None)


def step(lease: Lease, **seen: Any) -> Step:
    return decide(lease, facts(**seen), TIMES)


def ready(**changes: Any) -> Lease:
    return granted(**{"phase": Phase.PARKED, "told": True, "stages": {"intercepted": 100.0, "ready": 101.0}, **changes})


# --- at the bait -------------------------------------------------------------------------------------------


def test_a_caught_job_is_asked_for_once() -> None:
    assert step(a_lease()).deed is Deed.ASK
    assert step(a_lease(), asking=True).deed is None
    assert step(a_lease(), linked=False).deed is None


def test_the_vm_is_bound_before_the_job_may_leave() -> None:
    assert step(a_lease(marked=True), vm=a_view()).deed is Deed.BIND
    assert step(a_lease(marked=True), vm=a_view(), asking=True).deed is None
    assert step(a_lease(marked=True), vm=BOUND).deed is Deed.SAY_PARK


def test_which_vm_a_job_gets_is_written_down_before_the_job_may_leave_for_it() -> None:
    leaves = step(a_lease(marked=True), vm=BOUND).lease
    assert (leaves.phase, leaves.vm, leaves.generation) == (Phase.PARKING, VM, 1)


def test_a_vm_that_its_job_never_left_for_is_written_down_before_its_node_is_removed() -> None:
    over = a_lease(phase=Phase.ENDED)
    named = step(over, vm=None, last=BOUND, lost="the VM died", node=True)
    assert (named.lease.vm, named.lease.generation, named.deed) == (VM, 1, None)
    assert step(named.lease, vm=BOUND, node=True).deed is Deed.REMOVE_NODE


def test_a_job_carries_our_note_before_it_may_leave() -> None:
    assert step(a_lease(), vm=BOUND).deed is Deed.MAKE_REQUEUEABLE
    assert done(a_lease(), Deed.MAKE_REQUEUEABLE, 101.0).marked
    refusing = a_lease(phase=Phase.REFUSING, text="too big")
    assert step(refusing).deed is Deed.MAKE_REQUEUEABLE


def test_a_job_that_a_newer_lease_has_parked_is_not_taken_for_one_that_exited_with_the_reserved_code() -> None:
    lease = granted(phase=Phase.STARTED)
    parked = parked_job(run=TARGET.next())
    assert step(lease, vm=STARTED, ended=True, job=parked).lease.phase is Phase.REFUSING
    others = dataclasses.replace(parked, note="wnod:lease=another:home=batch:requeue=1")
    assert step(lease, vm=STARTED, ended=True, job=others).lease.phase is Phase.RETURNING


def test_the_wish_for_no_requeue_holds_again_when_the_run_has_started_and_not_before() -> None:
    lease = granted(phase=Phase.STARTED, requeue=False)
    running = sent(state=JobState.RUNNING, node=VM)
    assert step(lease, job=running).deed is Deed.FORBID_REQUEUE
    assert step(lease, job=dataclasses.replace(running, requeue=False)).deed is not Deed.FORBID_REQUEUE
    assert step(replace(lease, requeue=True), job=running).deed is not Deed.FORBID_REQUEUE
    assert step(replace(lease, phase=Phase.RELEASED), job=running).deed is not Deed.FORBID_REQUEUE


def test_a_job_that_must_not_be_requeued_is_made_requeueable_first() -> None:
    assert step(a_lease(marked=True), vm=BOUND, job=a_job(requeue=False)).deed is Deed.MAKE_REQUEUEABLE


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ({"denied": NO_ROOM}, "all 2 slots are taken"),
        ({"lost": "the boot failed"}, "the boot failed"),
        ({"now": 110.1}, "the hostmaster did not answer in time"),
    ],
)
def test_a_job_that_gets_no_vm_goes_back_and_is_told_why(seen: dict[str, Any], text: str) -> None:
    lease = step(a_lease(), **seen).lease
    assert (lease.phase, lease.text) == (Phase.RETURNING, text)


def test_a_host_that_is_full_says_how_long_the_job_should_wait() -> None:
    assert step(a_lease(), denied=NO_ROOM).lease.delay_s == 7


def test_a_job_that_fits_no_host_is_refused() -> None:
    lease = step(a_lease(), denied=TOO_BIG).lease
    assert (lease.phase, lease.text) == (Phase.REFUSING, TOO_BIG.text)


def test_a_host_that_does_not_know_of_the_vm_any_more_is_asked_again() -> None:
    assert step(a_lease(marked=True), vm=None) == Step(a_lease(marked=True), Deed.ASK, TIMES.poll_s)


@pytest.mark.parametrize("lease", [a_lease(), a_lease(marked=True)])
def test_a_job_that_left_by_itself_is_let_go(lease: Lease) -> None:
    assert step(lease, job=parked_job(held=False)).lease.phase is Phase.ENDED


def test_a_starter_that_is_gone_is_given_the_time_to_be_noticed() -> None:
    assert step(a_lease(), hook=False) == Step(a_lease(), wake_s=TIMES.soon_s)
    assert step(a_lease(), hook=False, now=111.0).lease.phase is Phase.RETURNING


# --- parking and sending -----------------------------------------------------------------------------------


def test_the_starter_is_told_to_park_and_the_lrms_is_waited_for() -> None:
    parking, noted = granted(phase=Phase.PARKING), a_job(note=OUR_NOTE)
    assert step(parking, vm=BOUND, job=noted).deed is Deed.SAY_PARK
    assert step(parking, vm=BOUND, job=noted, hook=False).deed is None
    assert step(parking, vm=BOUND, job=a_job(state=JobState.LEAVING, node=None)).lease == parking
    assert step(parking, vm=BOUND, job=parked_job()).lease.phase is Phase.PARKED


def test_no_job_is_parked_whose_note_the_lrms_has_forgotten() -> None:
    """Seed 1147 of that day: after an amnesia it was at the bait once more, and parked; then the bait's journal was
    lost, and nobody could know that the job, which was held for ever, was one of ours."""
    parking = granted(phase=Phase.PARKING)
    for forgotten in (a_job(), a_job(note=OUR_NOTE, requeue=False), a_job(note="wnod: given back: full")):
        assert step(parking, vm=BOUND, job=forgotten) == Step(parking, Deed.MAKE_REQUEUEABLE)
        assert step(parking, vm=BOUND, job=forgotten, hook=False).deed is None


def test_a_starter_that_ran_out_of_time_returns_its_job() -> None:
    assert step(granted(phase=Phase.PARKING), job=parked_job(held=False)).lease.phase is Phase.RETURNING


@pytest.mark.parametrize("phase", [Phase.PARKING, Phase.PARKED])
@pytest.mark.parametrize("job", [parked_job(run=replace(RUN, restart=2)), parked_job(state=JobState.RUNNING, node="x")])
def test_a_job_that_somebody_else_moved_is_let_go(phase: Phase, job: Any) -> None:
    assert step(granted(phase=phase), vm=BOUND, job=job).lease.phase is Phase.ENDED


def test_a_parked_job_is_told_of_its_vm_once() -> None:
    parked = granted(phase=Phase.PARKED)
    assert step(parked, vm=a_view(bound=True), job=parked_job()).deed is Deed.TELL
    assert step(done(parked, Deed.TELL, 102.0), vm=a_view(bound=True), job=parked_job()).deed is None


def test_a_job_is_sent_when_its_bound_vm_is_a_node() -> None:
    lease = step(granted(phase=Phase.PARKED), vm=BOUND, job=parked_job()).lease
    assert lease.stages["ready"] == 101.0
    assert step(lease, vm=BOUND, job=parked_job(), node=True).deed is None
    assert step(lease, vm=BOUND, job=parked_job(), node=True, node_ready=True).deed is Deed.SEND


def test_a_vm_that_does_not_become_a_node_is_given_up() -> None:
    lease = step(ready(), vm=BOUND, job=parked_job(), now=161.1).lease
    assert lease.phase is Phase.RETURNING
    assert "did not become a node in 60 s" in lease.text


def test_a_job_that_the_lrms_refuses_to_send_is_given_back_after_a_while() -> None:
    held = refused(ready(), Deed.SEND, 102.0)
    assert refused(held, Deed.SEND, 105.0) == held
    seen = {"vm": BOUND, "job": parked_job(), "node": True, "node_ready": True}
    assert step(held, now=111.9, **seen).deed is Deed.SEND
    assert step(held, now=112.1, **seen).lease.phase is Phase.RETURNING


def test_a_reservation_that_somebody_chose_while_the_job_was_parked_is_what_is_put_back() -> None:
    seen = {"job": parked_job(reservation="course"), "vm": BOUND, "node_ready": True, "node": True, "hook": False}
    sent = step(ready(), **seen)
    assert (sent.deed, sent.lease.home.reservation) == (Deed.SEND, "course")
    aimed = {**seen, "job": parked_job(required_nodes=(VM,))}  # the release alone was forgotten
    assert step(ready(reservation="course"), **aimed).lease.home.reservation == "course"


def test_required_nodes_that_somebody_chose_while_the_job_was_parked_are_what_is_put_back() -> None:
    seen = {"job": parked_job(required_nodes=("h2",)), "vm": BOUND, "node_ready": True, "node": True, "hook": False}
    sent = step(ready(required_nodes=("h1",)), **seen)
    assert (sent.deed, sent.lease.home.required_nodes) == (Deed.SEND, ("h2",))
    aimed = {**seen, "job": parked_job(required_nodes=(VM,))}  # the release alone was forgotten
    assert step(ready(required_nodes=("h1",)), **aimed).lease.home.required_nodes == ("h1",)


@pytest.mark.parametrize(
    "seen",
    [
        {"lost": "the VM died"},
        {"vm": None},
        {"vm": a_view(generation=Generation(2), bound=True)},
        {"linked": False, "host_known": False, "now": 221.0},
        {"vm": STARTED},
    ],
)
def test_a_parked_job_whose_vm_cannot_serve_goes_back(seen: dict[str, Any]) -> None:
    assert step(ready(), **{"vm": BOUND, "job": parked_job(), **seen}).lease.phase is Phase.RETURNING


def test_a_parked_job_waits_for_a_host_that_is_silent_for_a_moment() -> None:
    assert (
        step(granted(phase=Phase.PARKED, told=True), vm=None, linked=False, host_known=False, job=parked_job()).deed
        is None
    )


def test_a_new_vms_node_that_shows_another_job_is_said_to_be_down() -> None:
    """Torture, seed 3: slurmctld had forgotten a run's end, both journals were lost, and the slot's next VM answered
    for the node: the job was RUNNING there for 11 minutes."""
    seen = {"vm": BOUND, "job": parked_job(), "node": True, "node_busy": True}
    lease = step(ready(), **seen, now=130.0).lease
    late = 130.0 + TIMES.stale_s + 1
    assert step(lease, **seen, now=late - 2).deed is None
    idle = step(lease, **{**seen, "node_busy": False}, now=late).lease
    assert step(idle, **seen, now=late).deed is None  # seen once more, and counted from then
    assert step(lease, **seen, now=late).deed is Deed.FAIL_NODE
    told = done(lease, Deed.FAIL_NODE, late)
    after = step(told, **seen, now=late).lease
    assert (after.phase, after.failed) == (Phase.RETURNING, True)
    assert "another job" in after.text
    # Its VM's next registration may bring the node back: then a later death of that VM must be told.
    again = {**seen, "node_busy": False, "node_ready": True}
    sending = step(told, **again, now=late)
    assert sending.deed is Deed.SEND
    assert "busy" not in sending.lease.stages  # or one glimpse is enough if the job is parked here again
    assert not done(told, Deed.SEND, late).failed_node


def test_partitions_are_put_back_as_they_were_when_the_job_was_sent() -> None:
    """Of several the LRMS shows a running job's alone; and somebody may have changed them while it was parked."""
    seen = {"vm": BOUND, "node_ready": True, "node": True, "hook": False}
    first = step(ready(), job=parked_job(partition="batch,long"), **seen)
    assert (first.deed, first.lease.home.partition) == (Deed.SEND, "batch,long")
    forgotten = parked_job(partition="vwn", required_nodes=(VM,))  # the release alone
    assert step(first.lease, job=forgotten, **seen).lease.home.partition == "batch,long"
    again = replace(first.lease, stages={**first.lease.stages, "released": 102.0})
    cleared = parked_job(partition="vwn")  # by an administrator, once it had been sent: that is no home
    assert step(again, job=cleared, **seen).lease.home.partition == "batch,long"


@pytest.mark.parametrize(("nodes", "phase"), [((VM,), Phase.RELEASED), ((), Phase.RETURNING)])
def test_a_send_whose_answer_was_lost_is_found_by_looking(nodes: tuple[str, ...], phase: Phase) -> None:
    assert step(ready(), vm=BOUND, job=parked_job(held=False, required_nodes=nodes)).lease.phase is phase


# --- in the VM ---------------------------------------------------------------------------------------------


def sent(**changes: Any) -> Any:
    return parked_job(**{"held": False, "required_nodes": (VM,), **changes})


def test_a_started_run_is_followed_to_its_end() -> None:
    running = sent(state=JobState.RUNNING, node=VM)
    lease = step(ready(phase=Phase.RELEASED), vm=STARTED, job=running).lease
    assert lease.phase is Phase.STARTED
    assert step(lease, vm=STARTED, job=running) == Step(lease, wake_s=TIMES.running_s)
    assert step(lease, vm=STARTED, job=sent(state=JobState.ENDED, word="COMPLETED")).lease.phase is Phase.ENDED


def test_a_run_whose_end_nobody_would_tell_is_looked_at_often() -> None:
    running, lease = sent(state=JobState.RUNNING, node=VM), ready(phase=Phase.STARTED)
    assert step(lease, vm=STARTED, ended=True, job=running) == Step(lease, wake_s=TIMES.poll_s)
    for blind in ({"linked": False, "host_known": False}, {"host_known": False}):
        assert step(lease, vm=STARTED, job=running, **blind) == Step(lease, wake_s=TIMES.poll_s)
    assert step(lease, vm=STARTED, job=sent(state=JobState.LEAVING, node=VM)) == Step(lease, wake_s=TIMES.soon_s)


def test_what_takes_long_though_it_is_usually_done_in_a_moment_is_looked_at_less_often() -> None:
    leaving, lease = sent(state=JobState.LEAVING, node=VM), ready(phase=Phase.STARTED)
    for since, wake_s in ((None, TIMES.soon_s), (101.0 - TIMES.hasty_s, TIMES.poll_s), (100.9, TIMES.soon_s)):
        assert step(lease, vm=STARTED, job=leaving, leaving_since=since).wake_s == wake_s
    waits = {"vm": BOUND, "job": parked_job()}
    seen = step(ready(), **waits).lease
    assert step(seen, **waits).wake_s == TIMES.soon_s
    assert step(seen, now=101.0 + TIMES.hasty_s, **waits).wake_s == TIMES.poll_s


def test_a_vm_the_host_adopted_is_not_taken_for_one_in_which_the_run_started() -> None:
    adopted = dataclasses.replace(STARTED, boot_id=None)
    assert step(ready(phase=Phase.RELEASED), vm=adopted, job=sent()).lease.phase is Phase.RELEASED


def test_a_job_that_does_not_start_in_its_vm_does_not_keep_it() -> None:
    # simulation, user-updates, seed 500: a user moved the job to a partition that its VM is not in
    lease = ready(phase=Phase.RELEASED)
    seen = {"vm": BOUND, "job": sent(partition="long"), "node": True, "node_ready": True}
    assert step(lease, now=lease.since + TIMES.start_s, **seen).lease == lease
    late = step(lease, now=lease.since + TIMES.start_s + 1, **seen).lease
    assert (late.phase, late.failed) == (Phase.RETURNING, True)


def test_a_run_that_the_batch_system_has_forgotten_to_have_started_goes_back() -> None:
    # simulation, amnesia, seed 2: a controller that lost 5 s held the job that had started, and held it for ever
    for forgotten in (TARGET, RUN):
        lease = step(ready(phase=Phase.STARTED), vm=STARTED, job=parked_job(run=forgotten)).lease
        assert lease.phase is Phase.RETURNING


@pytest.mark.parametrize("phase", [Phase.RELEASED, Phase.STARTED])
def test_a_run_in_a_dead_vm_is_reported_to_the_lrms_once(phase: Phase) -> None:
    seen = {"vm": None, "lost": "the VM died", "job": sent(state=JobState.RUNNING, node=VM)}
    assert step(ready(phase=phase), **seen).deed is Deed.FAIL_NODE
    assert step(ready(phase=phase, failed_node=True), **seen).deed is None


@pytest.mark.parametrize("phase", [Phase.RELEASED, Phase.STARTED])
def test_a_requeued_run_goes_back_to_any_bait(phase: Phase) -> None:
    again = sent(run=replace(RUN, restart=2))
    assert step(ready(phase=phase), vm=BOUND, job=again).lease.phase is Phase.RETURNING


def test_a_run_that_exits_with_the_reserved_code_is_held_for_its_user() -> None:
    again = sent(run=replace(RUN, restart=2), held=True)
    assert step(ready(phase=Phase.STARTED), vm=STARTED, ended=True, job=again).lease.phase is Phase.REFUSING
    assert step(ready(phase=Phase.STARTED), vm=None, lost="died", job=again).lease.phase is Phase.RETURNING
    unheld = sent(run=replace(RUN, restart=2), gave_back=True)
    assert step(ready(phase=Phase.STARTED), vm=STARTED, ended=True, job=unheld).lease.phase is Phase.REFUSING
    leaving = sent(run=replace(RUN, restart=2), state=JobState.LEAVING)
    assert step(ready(phase=Phase.STARTED), vm=STARTED, job=leaving).lease.phase is Phase.STARTED
    later = sent(run=replace(RUN, restart=3), held=True)
    assert step(ready(phase=Phase.STARTED), vm=STARTED, job=later).lease.phase is Phase.RETURNING


def test_a_job_whose_gate_never_heard_the_answer_of_a_host_that_died_goes_back_and_is_not_held_for_its_user() -> None:
    """Seed 673 of that day: allowed on record, and the host was away for longer than the gate waits."""
    again = sent(run=replace(RUN, restart=2), held=True)
    seen = step(ready(phase=Phase.STARTED), vm=STARTED, job=again).lease
    assert seen.stages["back"] == 101.0
    assert step(seen, now=101.0 + TIMES.ended_s - 1, vm=STARTED, job=again) == Step(seen, wake_s=TIMES.poll_s)
    assert step(seen, now=101.0 + TIMES.ended_s, vm=STARTED, job=again).lease.phase is Phase.RETURNING
    away = {"vm": STARTED, "host_known": False, "job": again}
    assert step(seen, now=101.0 + TIMES.silence_s - 1, **away).lease == seen
    assert step(seen, now=101.0 + TIMES.silence_s, **away).lease.phase is Phase.RETURNING


def test_a_run_that_came_and_went_unseen_is_judged_by_what_the_host_knows() -> None:
    """The bait was away while the run started and exited with a reserved code."""
    again = sent(run=replace(RUN, restart=2), held=True)
    assert step(ready(phase=Phase.RELEASED), vm=STARTED, ended=True, job=again).lease.phase is Phase.REFUSING
    assert step(ready(phase=Phase.RELEASED), vm=BOUND, job=again).lease.phase is Phase.RETURNING
    assert step(ready(phase=Phase.RELEASED), vm=None, host_known=False, job=again).lease.phase is Phase.RELEASED


def test_a_job_that_was_sent_and_came_back_is_no_job_that_somebody_else_moved() -> None:
    """A bait that died before it had written down the sending left such a job on a dead VM's node, until the rescue."""
    over = sent(run=replace(RUN, restart=2))
    for job in (over, sent(state=JobState.LEAVING, node=None), sent(state=JobState.RUNNING, node=VM)):
        assert step(ready(), vm=STARTED, job=job).lease.phase is Phase.RELEASED
    moved = sent(run=replace(RUN, restart=2), required_nodes=())
    assert step(ready(), vm=STARTED, job=moved).lease.phase is Phase.ENDED


@pytest.mark.parametrize("phase", [Phase.RELEASED, Phase.STARTED])
def test_a_run_that_ended_before_its_vm_died_is_judged_by_its_exit(phase: Phase) -> None:
    dead = {"vm": None, "lost": "the VM died", "ended": True}
    held, again = sent(run=replace(RUN, restart=2), held=True), sent(run=replace(RUN, restart=2))
    assert step(ready(phase=phase), job=held, **dead).lease.phase is Phase.REFUSING
    assert step(ready(phase=phase), job=again, **dead).lease.phase is Phase.RETURNING


def test_a_job_on_its_way_to_a_dead_vm_goes_back() -> None:
    assert step(ready(phase=Phase.RELEASED), vm=None, lost="died", job=sent()).lease.phase is Phase.RETURNING


def test_a_job_whose_target_was_taken_away_goes_back() -> None:
    assert step(ready(phase=Phase.RELEASED), vm=BOUND, job=sent(required_nodes=())).lease.phase is Phase.RETURNING


# --- back, refused, over -----------------------------------------------------------------------------------


def test_going_back_takes_the_starters_exit_or_the_lrms() -> None:
    lease = granted(phase=Phase.RETURNING)
    assert step(lease).deed is Deed.SAY_BACK
    assert step(lease, hook=False).deed is None
    assert step(lease, job=a_job(state=JobState.LEAVING, node=None)).deed is None
    assert step(lease, job=parked_job()).deed is Deed.GIVE_BACK
    assert step(lease, job=sent(state=JobState.RUNNING, node=VM)).deed is None
    assert step(lease, job=sent(state=JobState.RUNNING, node="bait2")).lease.phase is Phase.ENDED


@pytest.mark.parametrize("lease", [granted(phase=Phase.RETURNING), a_lease(phase=Phase.RETURNING)])
def test_a_job_that_another_bait_has_parked_is_left_to_it(lease: Lease) -> None:
    elsewhere = parked_job(run=replace(RUN, restart=2))
    assert step(lease, job=elsewhere) == Step(
        replace(
            lease,
            phase=Phase.ENDED,
            since=101.0,
            text="the job went on elsewhere",
            stages={"intercepted": 100.0, "ended": 101.0},
        )
    )
    ours = dataclasses.replace(elsewhere, note=f"wnod:lease={lease.lease}:home=batch:requeue=1")
    assert step(lease, job=ours).deed is Deed.GIVE_BACK


def test_of_two_leases_for_a_run_that_the_lrms_started_twice_only_the_one_that_sent_it_takes_it_back() -> None:
    mine, other = granted(phase=Phase.RETURNING), granted(lease=lease_id(2), vm=VmName("vm9"))
    by_me, by_other = (
        sent(required_nodes=(lease.vm,), note=note.write(lease, "bait9", 100.0)) for lease in (mine, other)
    )
    assert step(mine, job=by_me).deed is Deed.GIVE_BACK
    assert step(mine, job=by_other).lease.phase is Phase.ENDED
    held = dataclasses.replace(by_other, held=True)
    assert step(ready(), job=held).lease.phase is Phase.ENDED  # or the other's VM would become its user's own wish
    taken_from_it = dataclasses.replace(by_other, required_nodes=())
    assert step(mine, job=taken_from_it).deed is Deed.GIVE_BACK


def test_refusing_parks_the_job_and_then_holds_it() -> None:
    lease = a_lease(phase=Phase.REFUSING, text="too big", marked=True)
    assert step(lease, job=a_job(note=OUR_NOTE, requeue=False)).deed is Deed.MAKE_REQUEUEABLE
    assert step(lease).deed is Deed.MAKE_REQUEUEABLE
    assert step(lease, job=a_job(note=OUR_NOTE)).deed is Deed.SAY_PARK
    assert step(lease, job=parked_job()).deed is Deed.REFUSE
    assert step(lease, job=a_job(state=JobState.RUNNING, run=TARGET)).lease.phase is Phase.ENDED


def test_a_lease_whose_vm_is_confirmed_gone_leaves_the_node_of_its_slots_next_vm_alone() -> None:
    assert step(granted(phase=Phase.ENDED), vm=None, node=True).deed is Deed.FORGET


def test_a_released_job_that_is_held_again_is_sent_again() -> None:
    """By its user, who then is refused to have it sent; or the batch system has forgotten the release."""
    lease = granted(phase=Phase.RELEASED)
    held = parked_job(required_nodes=(VM,))
    again = step(lease, job=held, vm=a_view(phase=VmPhase.BOUND, bound=True)).lease
    assert again.phase is Phase.PARKED
    ready_vm = a_view(phase=VmPhase.BOUND, bound=True)
    again = replace(again, stages={"ready": 100.0})
    assert step(again, job=held, vm=ready_vm, node=True, node_ready=True).deed is Deed.SEND


def test_a_job_whose_node_went_away_before_it_started_goes_back() -> None:
    lease = granted(phase=Phase.RELEASED)
    waiting = parked_job(held=False, required_nodes=(VM,))
    ready_vm = a_view(phase=VmPhase.BOUND, bound=True)
    assert step(lease, job=waiting, vm=ready_vm, now=159.0).lease == lease
    assert step(lease, job=waiting, vm=ready_vm, now=161.0, node=True, node_ready=True).lease == lease
    assert step(lease, job=waiting, vm=ready_vm, now=161.0).lease.phase is Phase.RETURNING


def test_the_vm_is_released_when_its_node_is_gone_and_forgotten_when_it_is_gone_itself() -> None:
    lease = granted(phase=Phase.ENDED)
    assert step(lease, vm=BOUND, node=True).deed is Deed.REMOVE_NODE
    assert step(lease, vm=BOUND).deed is Deed.RELEASE_VM
    assert step(lease, vm=BOUND, linked=False).deed is None
    assert step(lease, vm=BOUND, asking=True).deed is None
    assert step(lease, vm=None, lost="died").deed is Deed.RELEASE_VM
    assert step(lease, vm=None).deed is Deed.FORGET
    assert step(lease, vm=None, host_known=False).deed is Deed.RELEASE_VM


def test_a_newer_starter_ends_an_older_lease_of_the_same_job_only() -> None:
    assert superseded(a_lease(), TARGET)
    assert not superseded(a_lease(), RUN)
    assert not superseded(a_lease(), Run(cluster="c", job="13", restart=5))
    assert not superseded(a_lease(), Run(cluster="c", job="12", task=1, restart=5))
    over = supersede(a_lease(), TARGET, 105.0)
    assert (over.phase, superseded(over, TARGET)) == (Phase.ENDED, False)


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.ENDED}))
def test_a_job_that_ends_or_is_forgotten_ends_its_lease_wherever_it_is(phase: Phase) -> None:
    for job in (None, a_job(state=JobState.ENDED, word="CANCELLED")):
        assert step(granted(phase=phase), vm=BOUND, job=job).lease.phase is Phase.ENDED


def test_a_node_that_stays_busy_is_removed_less_and_less_often() -> None:
    over = granted(phase=Phase.ENDED, since=100.0)
    pauses = [pause_s(over, Deed.REMOVE_NODE, now, TIMES) for now in (100.0, 100.5, 101.0, 102.0, 104.0, 108.0, 4000.0)]
    assert pauses == [0.5, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert pause_s(over, Deed.GIVE_BACK, 4000.0, TIMES) == 0.5
