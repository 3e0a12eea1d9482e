"""A VM's life as decided: which facts lead to which deeds, and which never do."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from hostmaster.rules.lifecycle import (
    Deed,
    Facts,
    Step,
    Times,
    Vm,
    Way,
    bind,
    decide,
    ending,
    is_end_of,
    may_start,
    release,
)
from hostmaster.world import DomainState
from protocol.guest import GuestFinished, MayStart
from protocol.ids import Generation, Run
from protocol.messages import Code, VmPhase
from tests.unit.hostmaster.records import BOOT, OTHER_BOOT, RUN, a_vm

TIMES = Times(boot_limit_s=60.0, retry_s=1.0)
BOUND = RUN.next()
SEEN = (DomainState.RUNNING, DomainState.PAUSED, DomainState.STOPPED)
GOING = (VmPhase.DESTROYING, VmPhase.GONE)


def facts(domain: DomainState | None = DomainState.RUNNING, **changes: Any) -> Facts:
    return replace(Facts(now=100.0, domain=domain, overlay=None), **changes)


def after(phase: VmPhase, seen: Facts, **changes: Any) -> Step:
    return decide(a_vm(phase=phase, **changes), seen, TIMES)


# --- examples --------------------------------------------------------------------------------------------


def test_a_granted_vm_is_made() -> None:
    for phase in (VmPhase.RESERVED, VmPhase.CREATING):
        step = after(phase, facts(DomainState.ABSENT))
        assert (step.vm.phase, step.deed, step.vm.tries) == (VmPhase.CREATING, Deed.CREATE, 1)
    step = after(VmPhase.RESERVED, facts(None))
    assert (step.vm.phase, step.deed) == (VmPhase.CREATING, None)


def test_a_create_whose_answer_was_lost_is_found_by_looking() -> None:
    step = after(VmPhase.CREATING, facts(DomainState.RUNNING), tries=1)
    assert (step.vm.phase, step.deed) == (VmPhase.BOOTING, None)


def test_a_vm_whose_making_is_in_doubt_waits_for_libvirt() -> None:
    step = after(VmPhase.CREATING, facts(None), tries=1)
    assert (step.vm.phase, step.deed, step.wake_at) == (VmPhase.CREATING, None, 101.0)


def test_an_absent_vm_whose_create_may_yet_be_carried_out_is_neither_gone_nor_cleaned() -> None:
    for overlay in (True, False):
        step = after(VmPhase.DESTROYING, facts(DomainState.ABSENT, overlay=overlay, may_come=True), tries=1)
        assert (step.vm.phase, step.deed, step.wake_at) == (VmPhase.DESTROYING, None, 101.0)
    came = after(VmPhase.DESTROYING, facts(DomainState.RUNNING, may_come=True), tries=1)
    assert came.deed is Deed.DESTROY
    assert after(VmPhase.DESTROYING, facts(DomainState.ABSENT, overlay=False), tries=1).vm.phase is VmPhase.GONE


@pytest.mark.parametrize("way", [Way.BOOT, Way.RESTORE])
@pytest.mark.parametrize("tries", [1, TIMES.creates])
def test_a_vm_whose_create_may_yet_be_carried_out_is_not_made_once_more_nor_by_another_way(
    way: Way, tries: int
) -> None:
    for refused in ("", "of the try before"):
        seen = facts(DomainState.ABSENT, refused=refused, may_come=True)
        step = after(VmPhase.CREATING, seen, tries=tries, way=way)
        assert (step.vm.phase, step.vm.way, step.deed, step.wake_at) == (VmPhase.CREATING, way, None, 101.0)


def test_a_vm_that_cannot_be_made_goes_and_says_why() -> None:
    step = after(VmPhase.CREATING, facts(DomainState.ABSENT, refused="no such bridge"), tries=TIMES.creates)
    assert (step.vm.phase, step.vm.code, step.vm.text) == (VmPhase.DESTROYING, Code.BOOT_FAILED, "no such bridge")


@pytest.mark.parametrize(("bound", "phase"), [(None, VmPhase.READY), (BOUND, VmPhase.BOUND)])
def test_a_guest_that_is_ready_makes_a_vm_ready(bound: Run | None, phase: VmPhase) -> None:
    vm = after(VmPhase.BOOTING, facts(ready=BOOT), bound=bound).vm
    assert (vm.phase, vm.boot_id) == (phase, BOOT)


def test_a_guest_that_is_not_ready_in_time_goes() -> None:
    assert after(VmPhase.BOOTING, facts(now=159.9)).wake_at == 160.0
    step = after(VmPhase.BOOTING, facts(now=160.0, failed="guest failed at munge: no key"))
    assert (step.vm.phase, step.vm.code) == (VmPhase.DESTROYING, Code.BOOT_FAILED)
    assert step.vm.text == "guest failed at munge: no key"


@pytest.mark.parametrize("phase", [VmPhase.CREATING, VmPhase.BOOTING, VmPhase.READY, VmPhase.BOUND])
def test_a_lease_that_is_not_renewed_ends_a_vm_in_which_nothing_has_started(phase: VmPhase) -> None:
    domain = DomainState.ABSENT if phase is VmPhase.CREATING else DomainState.RUNNING
    vm = after(phase, facts(domain, now=190.0, expires_at=190.0)).vm
    assert (vm.phase, vm.code) == (VmPhase.DESTROYING, Code.LEASE_EXPIRED)


def test_a_started_run_outlives_its_lease() -> None:
    vm = a_vm(phase=VmPhase.STARTED, bound=BOUND, boot_id=BOOT)
    step = decide(vm, facts(now=1e9, expires_at=190.0), TIMES)
    assert (step.vm, step.deed) == (vm, None)


@pytest.mark.parametrize("phase", [VmPhase.BOOTING, VmPhase.READY, VmPhase.BOUND, VmPhase.STARTED])
@pytest.mark.parametrize("domain", [DomainState.ABSENT, DomainState.STOPPED])
def test_a_vm_that_is_seen_dead_goes(phase: VmPhase, domain: DomainState) -> None:
    assert after(phase, facts(domain)).vm.phase is VmPhase.DESTROYING


def test_destroying_goes_from_domain_to_overlay_to_gone() -> None:
    assert after(VmPhase.DESTROYING, facts(None, overlay=True)).deed is None
    assert after(VmPhase.DESTROYING, facts(DomainState.RUNNING)).deed is Deed.DESTROY
    assert after(VmPhase.DESTROYING, facts(DomainState.STOPPED)).deed is Deed.DESTROY
    assert after(VmPhase.DESTROYING, facts(DomainState.ABSENT)).deed is None
    assert after(VmPhase.DESTROYING, facts(DomainState.ABSENT, overlay=True)).deed is Deed.CLEAN
    assert after(VmPhase.DESTROYING, facts(DomainState.ABSENT, overlay=False)).vm.phase is VmPhase.GONE


def test_a_gone_vm_waits_for_its_release_or_the_end_of_its_lease() -> None:
    waiting = after(VmPhase.GONE, facts(DomainState.ABSENT, expires_at=190.0))
    assert (waiting.vm.released, waiting.wake_at) == (False, 190.0)
    assert after(VmPhase.GONE, facts(DomainState.ABSENT, now=190.0, expires_at=190.0)).vm.released


def test_the_first_reason_to_go_stays() -> None:
    vm = ending(a_vm(phase=VmPhase.READY), Code.VM_DIED, "the VM died", 110.0)
    assert release(vm, 120.0) == changed(vm, released=True)
    assert ending(vm, Code.LEASE_EXPIRED, "late", 130.0) == vm


# --- binding -----------------------------------------------------------------------------------------------


def test_binding_a_ready_vm_binds_it() -> None:
    vm = bind(a_vm(phase=VmPhase.READY), Generation(1), BOUND, 110.0)
    assert isinstance(vm, Vm)
    assert (vm.phase, vm.bound, vm.since) == (VmPhase.BOUND, BOUND, 110.0)
    assert bind(vm, Generation(1), BOUND, 120.0) == vm


def test_binding_a_booting_vm_waits_for_its_guest() -> None:
    vm = bind(a_vm(phase=VmPhase.BOOTING), Generation(1), BOUND, 110.0)
    assert isinstance(vm, Vm)
    assert (vm.phase, vm.bound) == (VmPhase.BOOTING, BOUND)


@pytest.mark.parametrize(
    ("generation", "run", "code"),
    [
        (2, BOUND, Code.STALE_GENERATION),
        (1, Run(cluster="c", job="13", restart=1), Code.NOT_PERMITTED),
        (1, Run(cluster="c", job="12", task=1, restart=1), Code.NOT_PERMITTED),
        (1, Run(cluster="d", job="12", restart=1), Code.NOT_PERMITTED),
        (1, changed(RUN, restart=2), Code.NOT_PERMITTED),  # bound to restart 4 already
        (1, changed(RUN, restart=5), Code.NOT_PERMITTED),
    ],
)
def test_a_bound_vm_is_bound_to_nothing_else(generation: int, run: Run, code: Code) -> None:
    vm = a_vm(phase=VmPhase.BOUND, asked=changed(RUN, restart=3), bound=changed(RUN, restart=4))
    assert bind(vm, Generation(generation), run, 110.0) is code


def test_a_run_older_than_the_one_asked_for_is_not_bound() -> None:
    vm = a_vm(phase=VmPhase.READY, asked=changed(RUN, restart=3))
    assert bind(vm, Generation(1), changed(RUN, restart=2), 110.0) is Code.NOT_PERMITTED


@pytest.mark.parametrize("phase", GOING)
def test_a_vm_that_is_going_is_not_bound(phase: VmPhase) -> None:
    assert bind(a_vm(phase=phase), Generation(1), BOUND, 110.0) is Code.NO_SUCH_LEASE


# --- the gate ------------------------------------------------------------------------------------------------


def ask(**changes: Any) -> MayStart:
    return replace(MayStart(boot_id=BOOT, number=1, job="12", task=None, restart=1, uid=1000), **changes)  # type: ignore[arg-type]


def at_the_gate(**changes: Any) -> Vm:
    return a_vm(**{"phase": VmPhase.BOUND, "bound": BOUND, "boot_id": BOOT, **changes})


def test_the_bound_run_may_start_and_the_record_says_so() -> None:
    verdict = may_start(at_the_gate(), ask(), 120.0)
    assert verdict.allowed
    assert (verdict.vm.phase, verdict.vm.since, verdict.vm.boot_id) == (VmPhase.STARTED, 120.0, BOOT)


@pytest.mark.parametrize(
    "change", [{"job": "13"}, {"task": 0}, {"restart": 0}, {"restart": 2}, {"uid": 1001}, {"uid": 0}]
)
def test_any_other_run_is_denied_and_nothing_changes(change: dict[str, Any]) -> None:
    verdict = may_start(at_the_gate(), ask(**change), 120.0)
    assert (verdict.allowed, verdict.vm) == (False, at_the_gate())
    assert verdict.reason


def test_an_unbound_vm_starts_nothing() -> None:
    assert not may_start(a_vm(phase=VmPhase.READY), ask(), 120.0).allowed


def test_the_same_question_of_the_same_boot_is_answered_again() -> None:
    started = may_start(at_the_gate(), ask(), 120.0).vm
    assert may_start(started, ask(number=2), 130.0).vm == started
    assert may_start(started, ask(number=2), 130.0).allowed
    assert not may_start(started, ask(boot_id=OTHER_BOOT), 130.0).allowed


@pytest.mark.parametrize("phase", sorted(set(VmPhase) - {VmPhase.BOOTING, VmPhase.READY, VmPhase.BOUND}))
def test_nothing_starts_in_a_vm_that_does_not_serve(phase: VmPhase) -> None:
    assert not may_start(at_the_gate(phase=phase, boot_id=None), ask(), 120.0).allowed


@pytest.mark.parametrize(
    ("said", "is_end"),
    [
        ({}, True),
        ({"boot_id": OTHER_BOOT}, False),
        ({"job": "13"}, False),
        ({"task": 1}, False),
        ({"restart": 0}, False),
    ],
)
def test_only_the_end_of_the_started_run_counts(said: dict[str, Any], is_end: bool) -> None:
    end = replace(GuestFinished(boot_id=BOOT, job="12", task=None, restart=1, status=0), **said)  # type: ignore[arg-type]
    assert is_end_of(at_the_gate(phase=VmPhase.STARTED), end) is is_end
    assert not is_end_of(at_the_gate(), end)


# --- properties ------------------------------------------------------------------------------------------------

PHASES = st.sampled_from(list(VmPhase))
DOMAINS = st.sampled_from([None, *DomainState])
NOW = st.floats(100, 400)
SOME_FACTS = st.builds(
    Facts,
    now=NOW,
    domain=DOMAINS,
    overlay=st.sampled_from([None, True, False]),
    ready=st.sampled_from([None, BOOT]),
    failed=st.sampled_from(["", "failed"]),
    refused=st.sampled_from(["", "refused"]),
    expires_at=st.floats(100, 400),
    way_free=st.booleans(),
    labelled=st.booleans(),
    may_come=st.booleans(),
)
SOME_VMS = st.builds(
    a_vm,
    phase=PHASES,
    bound=st.sampled_from([None, BOUND]),
    boot_id=st.sampled_from([None, BOOT]),
    tries=st.integers(0, 3),
    since=st.floats(100, 300),
    released=st.booleans(),
    code=st.sampled_from([None, Code.VM_DIED]),
    way=st.sampled_from(Way),
    labelled=st.booleans(),
)
EDGES = {
    VmPhase.RESERVED: {VmPhase.CREATING, VmPhase.DESTROYING},
    VmPhase.CREATING: {VmPhase.BOOTING, VmPhase.DESTROYING},
    VmPhase.BOOTING: {VmPhase.READY, VmPhase.BOUND, VmPhase.DESTROYING},
    VmPhase.READY: {VmPhase.DESTROYING},
    VmPhase.BOUND: {VmPhase.DESTROYING},
    VmPhase.STARTED: {VmPhase.DESTROYING},
    VmPhase.DESTROYING: {VmPhase.GONE},
}


@given(SOME_VMS, SOME_FACTS)
def test_phases_move_along_the_allowed_edges_only(vm: Vm, seen: Facts) -> None:
    step = decide(vm, seen, TIMES)
    assert step.vm.phase is vm.phase or step.vm.phase in EDGES.get(vm.phase, set())
    kept = ("generation", "uuid", "lease", "bait", "owner", "shape", "asked", "bound", "vm")
    assert all(getattr(step.vm, name) == getattr(vm, name) for name in kept)


@given(SOME_VMS, SOME_FACTS)
@settings(max_examples=50)
def test_nothing_is_done_while_nothing_is_known(some: Vm, seen: Facts) -> None:
    for phase in VmPhase:
        vm = changed(some, phase=phase)
        step = decide(vm, replace(seen, domain=None), TIMES)
        assert step.deed is None
        assert step.vm.phase is not VmPhase.GONE or phase is VmPhase.GONE
        assert step.vm.code is not Code.VM_DIED or vm.code is Code.VM_DIED
        if phase is VmPhase.STARTED:
            assert step.vm == vm


@given(SOME_VMS, SOME_FACTS)
def test_each_deed_rests_on_a_fact_that_was_seen(vm: Vm, seen: Facts) -> None:
    step = decide(vm, seen, TIMES)
    if step.deed is Deed.CREATE:
        # A VM whose way is free is created in the same look: one journal round less before its job runs.
        assert vm.phase in (VmPhase.RESERVED, VmPhase.CREATING)
        assert (step.vm.phase, seen.domain) == (VmPhase.CREATING, DomainState.ABSENT)
        assert vm.tries < step.vm.tries <= TIMES.creates
    if step.deed is Deed.DESTROY:
        assert vm.phase is VmPhase.DESTROYING
        assert seen.domain in SEEN
    if step.deed is Deed.CLEAN:
        assert (vm.phase, seen.domain, seen.overlay) == (VmPhase.DESTROYING, DomainState.ABSENT, True)
    if step.vm.phase is VmPhase.GONE and vm.phase is not VmPhase.GONE:
        assert (seen.domain, seen.overlay) == (DomainState.ABSENT, False)


@given(SOME_VMS, SOME_FACTS)
def test_a_started_run_ends_by_the_death_of_its_vm_only(vm: Vm, seen: Facts) -> None:
    vm = changed(vm, phase=VmPhase.STARTED)
    ended = decide(vm, seen, TIMES).vm.phase is not VmPhase.STARTED
    assert ended is (seen.domain in (DomainState.ABSENT, DomainState.STOPPED))


@dataclass
class World:
    """What the deeds of one VM lead to. `deaf`: so many looks in a row get no answer."""

    domain: DomainState = DomainState.ABSENT
    overlay: bool = False
    deaf: int = 0
    lost: bool = False
    creates: int = 0
    labelled: bool = True

    def facts(self, now: float, ready: bool) -> Facts:
        if self.deaf > 0:
            self.deaf -= 1
            return facts(None, now=now)
        booted = BOOT if ready and self.domain is DomainState.RUNNING else None
        seen = facts(self.domain, now=now, overlay=self.overlay, ready=booted, expires_at=1e6)
        return replace(seen, labelled=self.labelled)

    def do(self, deed: Deed | None) -> None:
        if deed is Deed.CREATE:
            self.creates += 1
            self.domain, self.overlay = (self.domain if self.lost else DomainState.RUNNING), True
        elif deed is Deed.DESTROY:
            self.domain = DomainState.ABSENT
        elif deed is Deed.CLEAN:
            self.overlay = False
        elif deed is Deed.LABEL:
            self.labelled = True
        elif deed is Deed.UNPAUSE and self.domain is DomainState.PAUSED:
            self.domain = DomainState.RUNNING


def settle(vm: Vm, world: World, ready: bool, now: float = 100.0) -> Vm:
    """Decide and do until nothing is left to be done."""
    for _ in range(20):
        deaf = world.deaf > 0
        step = decide(vm, world.facts(now, ready), TIMES)
        if step.vm == vm and step.deed is None and not deaf:
            return vm
        vm = step.vm
        world.do(step.deed)
    raise AssertionError(f"never rests: {vm}")


SOME_WORLDS = st.builds(
    World,
    domain=st.sampled_from(DomainState),
    overlay=st.booleans(),
    deaf=st.integers(0, 3),
    lost=st.booleans(),
    labelled=st.booleans(),
)


@given(SOME_VMS, SOME_WORLDS, st.booleans())
def test_deciding_and_doing_comes_to_rest_and_stays_there(vm: Vm, world: World, ready: bool) -> None:
    rested = settle(vm, world, ready)
    assert settle(rested, world, ready) == rested
    # A golden state that is of no use is tried as often as a boot, and the boot comes after it.
    assert world.creates <= TIMES.creates * (1 if vm.way is Way.BOOT else 2)
    if rested.phase is VmPhase.GONE and vm.phase is not VmPhase.GONE:
        assert (world.domain, world.overlay) == (DomainState.ABSENT, False)


@given(st.booleans(), st.booleans(), st.integers(0, 2))
def test_a_released_vm_leaves_nothing_behind(started: bool, lost: bool, deaf: int) -> None:
    world = World(lost=lost)
    vm = settle(a_vm(), world, ready=True)
    if started and vm.phase is VmPhase.READY:
        bound = bind(vm, vm.generation, BOUND, 110.0)
        assert isinstance(bound, Vm)
        vm = may_start(bound, ask(), 111.0).vm
        assert vm.phase is VmPhase.STARTED
    world.deaf = deaf
    gone = settle(release(vm, 120.0), world, ready=True)
    assert (gone.phase, gone.released) == (VmPhase.GONE, True)
    assert (world.domain, world.overlay) == (DomainState.ABSENT, False)


@given(SOME_VMS, st.integers(1, 3), st.integers(0, 3), st.sampled_from(["12", "13"]), st.sampled_from([None, 1]))
def test_binding_never_moves_a_vm_to_another_run(
    vm: Vm, generation: int, restart: int, job: str, task: int | None
) -> None:
    run = Run(cluster="c", job=job, task=task, restart=restart)
    bound = bind(vm, Generation(generation), run, 110.0)
    if isinstance(bound, Vm):
        assert generation == vm.generation
        assert bound.bound == run
        assert run.same_job(vm.asked)
        assert vm.bound in (None, run)
        assert bound.phase is vm.phase or (vm.phase, bound.phase) == (VmPhase.READY, VmPhase.BOUND)


@given(SOME_VMS, st.integers(0, 2), st.sampled_from([1000, 0, 5]), st.sampled_from([BOOT, OTHER_BOOT]))
def test_what_starts_is_what_was_bound(vm: Vm, restart: int, uid: int, boot: str) -> None:
    verdict = may_start(vm, ask(restart=restart, uid=uid, boot_id=boot), 110.0)
    if verdict.allowed:
        assert vm.bound == changed(RUN, restart=restart)
        assert uid == vm.owner
        assert verdict.vm.phase is VmPhase.STARTED
        assert verdict.vm.boot_id == boot
    else:
        assert changed(verdict.vm, keep=vm.keep) == vm
