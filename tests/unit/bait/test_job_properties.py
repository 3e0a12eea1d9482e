"""A lease as decided, over generated facts: what must hold whatever is seen."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bait.lrms.base import JobState
from bait.rules.job import decide
from bait.rules.lease import Deed, Denial, Facts, Lease, Phase, Times
from bait.rules.record import done
from protocol.messages import Code, VmPhase
from tests.unit.bait.records import BAIT, BOOT, RUN, VM, a_job, a_view, facts, granted, lease_id

TIMES = Times()
NO_ROOM = Denial(Code.NO_ROOM, "all 2 slots are taken", False, 7.0)
TOO_BIG = Denial(Code.TOO_BIG, "this host can give at most 1 cpu", True, None)
CAUGHT = replace(RUN, restart=1)
RUNS = st.sampled_from([*(replace(RUN, restart=n) for n in range(5))])
JOBS = st.builds(
    a_job,
    run=RUNS,
    state=st.sampled_from(list(JobState)),
    held=st.booleans(),
    node=st.sampled_from([None, BAIT, VM, "bait2"]),
    requeue=st.booleans(),
    required_nodes=st.sampled_from([(), (VM,), ("vm2",)]),
    note=st.sampled_from(["", f"wnod:lease={lease_id()}:home=batch:requeue=1"]),
)
VIEWS = st.none() | st.builds(
    a_view,
    generation=st.sampled_from([1, 2]),
    phase=st.sampled_from(list(VmPhase)),
    run=st.just(CAUGHT.next()),
    bound=st.booleans(),
    boot_id=st.sampled_from([None, BOOT]),
)
LEASES = st.builds(
    granted,
    run=st.just(CAUGHT),
    phase=st.sampled_from(list(Phase)),
    since=st.floats(90, 100),
    vm=st.sampled_from([VM, None]),
    marked=st.booleans(),
    told=st.booleans(),
    failed_node=st.booleans(),
    refused_at=st.sampled_from([None, 99.0]),
    stages=st.sampled_from([{}, {"ready": 95.0}]),
)
SEEN = st.builds(
    facts,
    now=st.floats(100, 400),
    known=st.booleans(),
    job=st.none() | JOBS,
    hook=st.booleans(),
    linked=st.booleans(),
    asking=st.booleans(),
    host_known=st.booleans(),
    vm=VIEWS,
    denied=st.sampled_from([None, NO_ROOM, TOO_BIG]),
    lost=st.sampled_from(["", "the VM died"]),
    node=st.booleans(),
    node_ready=st.booleans(),
    node_busy=st.booleans(),
    up_for_s=st.sampled_from([None, 0.0, 44.0, 45.0, 300.0]),
)
ON_THE_JOB = {
    Deed.MAKE_REQUEUEABLE, Deed.SAY_PARK, Deed.SAY_BACK, Deed.TELL, Deed.SEND, Deed.GIVE_BACK, Deed.REFUSE,
    Deed.FAIL_NODE, Deed.REMOVE_NODE,
}  # fmt: skip
EDGES: dict[Phase, set[Phase]] = {
    Phase.REQUESTED: {Phase.PARKING, Phase.RETURNING, Phase.REFUSING, Phase.ENDED},
    Phase.PARKING: {Phase.PARKED, Phase.RETURNING, Phase.ENDED},
    Phase.PARKED: {Phase.RELEASED, Phase.RETURNING, Phase.ENDED},
    Phase.RELEASED: {Phase.PARKED, Phase.STARTED, Phase.RETURNING, Phase.ENDED},
    Phase.STARTED: {Phase.RETURNING, Phase.REFUSING, Phase.ENDED},
    Phase.RETURNING: {Phase.ENDED},
    Phase.REFUSING: {Phase.ENDED},
    Phase.ENDED: set(),
}


def sane(lease: Lease) -> Lease:
    """Phases past REQUESTED have a VM; others need not."""
    free = lease.phase in (Phase.REQUESTED, Phase.RETURNING, Phase.REFUSING, Phase.ENDED)
    return lease if lease.vm is None and free else replace(lease, vm=VM)


@given(LEASES, SEEN)
@settings(max_examples=400)
def test_phases_move_along_the_allowed_edges_only(lease: Lease, seen: Facts) -> None:
    lease = sane(lease)
    after = decide(lease, seen, TIMES).lease
    assert after.phase is lease.phase or after.phase in EDGES[lease.phase]
    assert (after.lease, after.run, after.owner, after.home) == (lease.lease, lease.run, lease.owner, lease.home)
    assert lease.stages.items() <= after.stages.items()


@given(LEASES, SEEN)
@settings(max_examples=300)
def test_nothing_is_done_to_a_job_of_which_nothing_is_known(lease: Lease, seen: Facts) -> None:
    lease = sane(lease)
    taken = decide(lease, dataclasses.replace(seen, known=False, node=seen.node and lease.vm is not None), TIMES)
    assert replace(taken.lease, vm=lease.vm, generation=lease.generation) == lease
    assert taken.deed not in ON_THE_JOB
    if lease.vm is not None:
        assert taken.deed is None


@given(LEASES, SEEN)
@settings(max_examples=300)
def test_an_lrms_that_went_back_in_time_is_not_acted_on(lease: Lease, seen: Facts) -> None:
    lease = sane(lease)
    old = dataclasses.replace(seen, job=a_job(run=RUN))
    if lease.phase is not Phase.ENDED:
        assert decide(lease, old, TIMES).lease == lease
        assert decide(lease, old, TIMES).deed is None


@given(LEASES, SEEN)
@settings(max_examples=600)
def test_each_deed_rests_on_facts_that_were_seen(lease: Lease, seen: Facts) -> None:
    lease = sane(lease)
    taken, job, vm = decide(lease, seen, TIMES), seen.job, seen.vm
    here = job is not None and (job.run, job.state, job.node) == (lease.run, JobState.RUNNING, BAIT)
    gone = bool(seen.lost) or (seen.host_known and (vm is None or vm.generation != lease.generation))
    match taken.deed:
        case Deed.SAY_PARK:
            assert here
            assert seen.hook
            assert taken.lease.phase in (Phase.PARKING, Phase.REFUSING)
            assert lease.marked or lease.phase is Phase.PARKING
        case Deed.SAY_BACK:
            assert here
            assert lease.phase is Phase.RETURNING
        case Deed.SEND:
            assert job is not None
            assert vm is not None
            assert (job.run, job.state, job.held) == (lease.target, JobState.PENDING, True)
            assert (vm.bound, seen.node_ready, gone) == (True, True, False)
            assert vm.phase in (VmPhase.READY, VmPhase.BOUND)
            assert seen.up_for_s is not None
            assert seen.up_for_s >= TIMES.restart_grace_s
        case Deed.GIVE_BACK | Deed.REFUSE:
            assert job is not None
            assert job.state is JobState.PENDING
            assert job.run.restart >= lease.run.restart
        case Deed.FAIL_NODE:
            stale = lease.phase is Phase.PARKED and seen.node_busy and vm is not None and vm.bound
            assert stale or (gone and lease.phase in (Phase.RELEASED, Phase.STARTED))
        case Deed.REMOVE_NODE:
            assert lease.phase is Phase.ENDED
        case Deed.RELEASE_VM:
            assert lease.phase is Phase.ENDED
            assert not seen.node
        case Deed.FORGET:
            assert lease.phase is Phase.ENDED
            assert seen.host_known
            assert vm is None


@given(LEASES, SEEN)
@settings(max_examples=300)
def test_a_job_leaves_the_bait_for_a_vm_only_when_that_vm_is_bound_to_it(lease: Lease, seen: Facts) -> None:
    lease = replace(sane(lease), phase=Phase.REQUESTED, vm=None, generation=None)
    after = decide(lease, seen, TIMES).lease
    if after.phase is Phase.PARKING:
        assert seen.vm is not None
        assert (seen.vm.bound, seen.vm.vm, seen.vm.generation) == (True, after.vm, after.generation)
        assert seen.hook


def reflected(seen: Facts, deed: Deed, lease: Lease) -> Facts:
    """What is seen when the deed has worked."""
    job = seen.job
    match deed:
        case Deed.ASK | Deed.BIND | Deed.RELEASE_VM:
            return dataclasses.replace(seen, asking=True)
        case Deed.SAY_PARK | Deed.SAY_BACK:
            return dataclasses.replace(seen, hook=False)
        case Deed.REMOVE_NODE:
            return dataclasses.replace(seen, node=False, node_ready=False)
        case Deed.MAKE_REQUEUEABLE if job is not None:
            return dataclasses.replace(seen, job=dataclasses.replace(job, requeue=True))
        case Deed.SEND if job is not None:
            return dataclasses.replace(seen, job=dataclasses.replace(job, held=False, required_nodes=(VM,)))
        case Deed.GIVE_BACK if job is not None:
            return dataclasses.replace(seen, job=dataclasses.replace(job, held=False, required_nodes=()))
    return seen


@given(LEASES, SEEN)
@settings(max_examples=600)
def test_deciding_comes_to_rest_and_no_deed_is_done_twice_over_the_same_facts(lease: Lease, seen: Facts) -> None:
    lease = sane(lease)
    deeds: list[Deed] = []
    for _ in range(12):
        taken = decide(lease, seen, TIMES)
        assert decide(lease, seen, TIMES) == taken
        if taken.deed is None and taken.lease == lease:
            assert taken.wake_s is not None
            return
        lease = taken.lease
        if taken.deed is not None:
            assert taken.deed not in deeds, f"{taken.deed} again after {deeds}"
            deeds.append(taken.deed)
            seen = reflected(seen, taken.deed, lease)
            lease = done(lease, taken.deed, seen.now)
        if taken.deed is Deed.FORGET:
            return
    raise AssertionError(f"never rests: {lease} {deeds}")
