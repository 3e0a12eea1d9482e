"""A VM that was not booted for its lease waits for who gives way, carries its lease, runs, and only then is told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostmaster.rules.lifecycle import Deed, Facts, Step, Times, Vm, Way, decide, may_start, release
from hostmaster.rules.reconcile import adoptable, leftovers, state_of, strays
from hostmaster.rules.spare import SparePhase
from hostmaster.world import Domain, DomainState, Ours
from protocol.guest import MayStart
from protocol.ids import BootId, Generation, LeaseId
from protocol.messages import Code, VmPhase
from tests.unit.hostmaster.records import BOOT, RUN, a_domain, a_spare, a_vm

TIMES = Times()
NOW = 110.0
D = DomainState
TAKEN: dict[str, Any] = {"phase": VmPhase.BOOTING, "way": Way.UNPAUSE, "labelled": False, "golden": "vm1-0"}
RESTORED: dict[str, Any] = {"phase": VmPhase.CREATING, "way": Way.RESTORE, "golden": "vm1-0"}


def facts(domain: DomainState | None = D.PAUSED, now: float = NOW, **more: Any) -> Facts:
    return Facts(now=now, domain=domain, overlay=False, **more)


def after(vm: Vm, seen: Facts) -> Step:
    return decide(vm, seen, TIMES)


# --- who gives way ----------------------------------------------------------------------------------------


def test_a_granted_vm_waits_until_the_way_is_free() -> None:
    vm = a_vm()
    assert after(vm, facts(D.ABSENT, way_free=False)) == Step(vm, wake_at=NOW + TIMES.retry_s)
    assert after(vm, facts(D.ABSENT)).vm.phase is VmPhase.CREATING


def test_it_waits_no_longer_than_its_lease_lives() -> None:
    step = after(a_vm(), facts(D.ABSENT, way_free=False, expires_at=NOW))
    assert (step.vm.phase, step.vm.code) == (VmPhase.DESTROYING, Code.LEASE_EXPIRED)
    assert release(a_vm(), NOW).phase is VmPhase.DESTROYING


# --- a spare that was taken -----------------------------------------------------------------------------------


def test_the_label_comes_before_the_first_step() -> None:
    vm = a_vm(**TAKEN)
    assert after(vm, facts(labelled=False)) == Step(vm, Deed.LABEL)
    step = after(vm, facts(labelled=True))
    assert (step.vm.labelled, step.deed) == (True, Deed.UNPAUSE)
    assert after(step.vm, facts(D.RUNNING)).deed is None


def test_one_that_runs_already_needs_the_label_only() -> None:
    vm = a_vm(**{**TAKEN, "way": Way.BOOT})
    assert after(vm, facts(D.RUNNING, labelled=False)).deed is Deed.LABEL
    step = after(vm, facts(D.RUNNING, labelled=True))
    assert (step.vm.labelled, step.deed) == (True, None)


def test_a_vm_that_booted_and_was_paused_by_somebody_is_left_to_him() -> None:
    vm = a_vm(phase=VmPhase.BOOTING)
    assert after(vm, facts(D.PAUSED)).deed is None


def test_one_that_does_not_come_up_soon_is_given_up_before_a_boot_would_be() -> None:
    late = a_vm(**TAKEN).since + TIMES.wake_limit_s
    assert after(a_vm(**TAKEN), facts(D.RUNNING, now=late)).vm.code is Code.BOOT_FAILED
    assert after(a_vm(phase=VmPhase.BOOTING), facts(D.RUNNING, now=late)).vm.phase is VmPhase.BOOTING


def test_the_gate_is_shut_until_the_domain_carries_the_lease() -> None:
    ask = MayStart(BootId(BOOT), 1, RUN.job, RUN.task, RUN.restart + 1, 1000)
    bound = {"bound": RUN.next(), "owner": 1000}
    assert not may_start(a_vm(**TAKEN, **bound), ask, NOW).allowed
    assert may_start(a_vm(**{**TAKEN, "labelled": True}, **bound), ask, NOW).allowed


worlds = st.lists(st.tuples(st.sampled_from([*D, None]), st.booleans(), st.floats(0, 400)), max_size=20)


@given(worlds, st.sampled_from(Way))
def test_nothing_goes_on_before_it_carries_its_lease(history: list[tuple[Any, bool, float]], way: Way) -> None:
    vm = a_vm(**{**TAKEN, "way": way})
    for domain, labelled, later in history:
        step = after(vm, facts(domain, now=NOW + later, labelled=labelled))
        assert step.deed is not Deed.UNPAUSE or step.vm.labelled
        assert step.vm.labelled == vm.labelled or labelled
        assert domain is not None or step.deed is None
        vm = step.vm


# --- one that is restored ---------------------------------------------------------------------------------------


def test_a_restore_that_is_refused_becomes_a_boot_of_the_same_generation() -> None:
    vm = a_vm(**RESTORED, tries=1)
    step = after(vm, facts(D.ABSENT, refused="does not fit"))
    assert (step.vm.way, step.vm.tries, step.vm.generation, step.deed) == (Way.BOOT, 0, vm.generation, None)
    assert after(step.vm, facts(D.ABSENT, refused="does not fit")).deed is Deed.CREATE


def test_a_restore_without_an_answer_is_tried_again_and_then_becomes_a_boot() -> None:
    assert after(a_vm(**RESTORED, tries=1), facts(D.ABSENT)).deed is Deed.CREATE
    assert after(a_vm(**RESTORED, tries=TIMES.creates), facts(D.ABSENT)).vm.way is Way.BOOT


def test_one_that_was_restored_and_left_paused_goes_on() -> None:
    """libvirt was killed between loading the memory and letting it go on."""
    vm = a_vm(**{**RESTORED, "phase": VmPhase.BOOTING})
    assert after(vm, facts(D.PAUSED, labelled=True)).deed is Deed.UNPAUSE


@pytest.mark.parametrize("domain", [None, D.RUNNING, D.PAUSED])
def test_what_may_be_there_is_not_made_again(domain: DomainState | None) -> None:
    assert after(a_vm(**RESTORED, tries=1), facts(domain)).deed is not Deed.CREATE


# --- the journal and libvirt ------------------------------------------------------------------------------------


def spare_domain(generation: int = 7, state: DomainState = D.PAUSED, host: str = "h1") -> Domain:
    spare = a_spare(generation=Generation(generation))
    ours = Ours(
        host=host, slot=spare.vm, generation=spare.generation, lease=LeaseId(""), bait="", owner=0,
        environment=spare.environment, image=spare.image, shape=spare.shape, run="",
    )  # fmt: skip
    return Domain(spare.vm, spare.uuid, state, ours)


def test_a_spare_that_no_journal_knows_goes_and_is_adopted_by_nobody() -> None:
    domain = spare_domain()
    (stray,) = strays((domain,), (), (), "h1", NOW)
    assert (stray.generation, stray.uuid, stray.phase) == (7, domain.uuid, SparePhase.DESTROYING)
    assert adoptable((domain,), {}, "h1", NOW) == ()


def test_spares_that_are_known_or_taken_or_another_hosts_are_left_alone() -> None:
    domain = spare_domain()
    assert strays((domain,), (Generation(7),), (), "h1", NOW) == ()
    assert strays((domain,), (), (Generation(7),), "h1", NOW) == ()
    assert strays((spare_domain(host="h2"),), (), (), "h1", NOW) == ()
    assert strays((a_domain(a_vm()),), (), (), "h1", NOW) == ()


def test_a_domain_of_the_same_uuid_and_another_generation_is_not_this_one() -> None:
    domain = spare_domain(generation=8)
    assert state_of(domain, Generation(8)) is D.PAUSED
    assert state_of(domain, Generation(7)) is D.ABSENT
    assert state_of(None, Generation(7)) is D.ABSENT


def test_a_spares_overlay_is_no_leftover() -> None:
    assert leftovers(("vm1-g7", "vm1-g6"), (a_spare(),), ()) == ("vm1-g6",)
