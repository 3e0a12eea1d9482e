"""A spare's life: made, at standby, paused or saved; and how it becomes a lease's VM, or gives way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostmaster.rules import spare as spares
from hostmaster.rules.lifecycle import Times, Way
from hostmaster.rules.spare import Deed, Facts, Purpose, Spare, SparePhase, decide, ending, evict, taken
from hostmaster.world import DomainState
from protocol.ids import BaitName, BootId
from protocol.messages import VmPhase
from tests.unit.hostmaster.records import BOOT, a_request, a_spare

TIMES = Times()
NOW = 110.0
P, D = SparePhase, DomainState


def facts(domain: DomainState | None = D.RUNNING, now: float = NOW, **more: object) -> Facts:
    return Facts(now=now, domain=domain, **more)  # type: ignore[arg-type]


def after(spare: Spare, seen: Facts) -> tuple[SparePhase | None, Deed | None]:
    step = decide(spare, seen, TIMES)
    return (step.spare.phase if step.spare is not None else None, step.deed)


def test_it_is_created_then_boots_then_is_paused_at_standby() -> None:
    assert after(a_spare(), facts(D.ABSENT)) == (P.CREATING, Deed.CREATE)
    assert after(a_spare(tries=1), facts()) == (P.BOOTING, None)
    assert after(a_spare(phase=P.BOOTING), facts()) == (P.BOOTING, None)
    assert after(a_spare(phase=P.BOOTING), facts(standby=BOOT)) == (P.STANDBY, None)
    assert after(a_spare(phase=P.STANDBY), facts()) == (P.STANDBY, Deed.PAUSE)
    assert after(a_spare(phase=P.STANDBY), facts(D.PAUSED)) == (P.PAUSED, None)
    assert after(a_spare(phase=P.PAUSED), facts(D.PAUSED)) == (P.PAUSED, None)


def test_one_for_a_golden_state_is_saved_instead_and_asked_for_again_until_there_is_an_answer() -> None:
    golden = a_spare(purpose=Purpose.GOLDEN, phase=P.STANDBY, tries=1)
    assert after(golden, facts()) == (P.SAVING, None)
    for domain in (D.RUNNING, D.PAUSED, D.ABSENT):
        assert after(a_spare(purpose=Purpose.GOLDEN, phase=P.SAVING), facts(domain)) == (P.SAVING, Deed.SAVE)
    saving = a_spare(purpose=Purpose.GOLDEN, phase=P.SAVING, tries=TIMES.creates)
    assert after(saving, facts(D.ABSENT)) == (P.DESTROYING, None)


@pytest.mark.parametrize("phase", [P.BOOTING, P.STANDBY, P.PAUSED])
@pytest.mark.parametrize("domain", [D.ABSENT, D.STOPPED])
def test_one_that_dies_goes(phase: SparePhase, domain: DomainState) -> None:
    assert after(a_spare(phase=phase), facts(domain)) == (P.DESTROYING, None)


def test_an_absent_one_whose_create_may_yet_be_carried_out_keeps_its_room() -> None:
    going = a_spare(phase=P.DESTROYING, tries=1)
    for remains in (True, False):
        assert after(going, facts(D.ABSENT, remains=remains, may_come=True)) == (P.DESTROYING, None)
    assert after(going, facts(D.RUNNING, may_come=True)) == (P.DESTROYING, Deed.DESTROY)
    assert after(going, facts(D.ABSENT, remains=False)) == (None, None)


def test_one_whose_create_may_yet_be_carried_out_is_not_made_once_more() -> None:
    for tries in (1, TIMES.creates):
        assert after(a_spare(tries=tries), facts(D.ABSENT, may_come=True)) == (P.CREATING, None)
    assert after(a_spare(tries=1), facts(may_come=True)) == (P.BOOTING, None)


def test_one_that_is_late_or_refused_or_fails_goes() -> None:
    assert after(a_spare(phase=P.BOOTING, since=0.0), facts(now=181.0)) == (P.DESTROYING, None)
    assert after(a_spare(phase=P.BOOTING, since=0.0, way=Way.RESTORE), facts(now=61.0)) == (P.DESTROYING, None)
    assert after(a_spare(tries=1), facts(D.ABSENT, refused="no")) == (P.DESTROYING, None)
    assert after(a_spare(tries=TIMES.creates), facts(D.ABSENT)) == (P.DESTROYING, None)
    assert after(a_spare(phase=P.BOOTING), facts(failed="network")) == (P.DESTROYING, None)


def test_one_that_somebody_let_go_on_is_paused_again() -> None:
    assert after(a_spare(phase=P.PAUSED), facts(D.RUNNING)) == (P.PAUSED, Deed.PAUSE)


def test_it_is_forgotten_only_when_domain_and_remains_are_seen_gone() -> None:
    going = a_spare(phase=P.DESTROYING)
    assert after(going, facts(D.PAUSED)) == (P.DESTROYING, Deed.DESTROY)
    assert after(going, facts(D.ABSENT)) == (P.DESTROYING, None)
    assert after(going, facts(D.ABSENT, remains=True)) == (P.DESTROYING, Deed.CLEAN)
    assert after(going, facts(D.ABSENT, remains=False)) == (None, None)


phases = st.sampled_from(P)


@given(phases, st.sampled_from(Purpose), st.booleans())
def test_what_nobody_knows_changes_nothing(phase: SparePhase, purpose: Purpose, late: bool) -> None:
    record = a_spare(phase=phase, purpose=purpose)
    step = decide(record, facts(None, now=1e6 if late else NOW), TIMES)
    assert (step.spare, step.deed) == (record, None)


@given(phases)
def test_evicted_it_goes_unless_it_is_being_saved(phase: SparePhase) -> None:
    gone = evict(a_spare(phase=phase), "gives way", NOW)
    assert gone.phase is (P.SAVING if phase is P.SAVING else P.DESTROYING)
    assert gone.going
    assert ending(gone, "another reason", NOW).text in ("gives way", "", "another reason")


@pytest.mark.parametrize("phase", [phase for phase in P if phase not in (P.SAVING, P.DESTROYING)])
def test_a_lease_keeps_generation_slot_and_uuid_and_nothing_is_told_before_the_label(phase: SparePhase) -> None:
    record = a_spare(phase=phase, boot_id=BootId(BOOT), tries=1)
    vm = taken(record, a_request(), BaitName("bait1"), NOW)
    assert (vm.generation, vm.vm, vm.uuid, vm.key) == (record.generation, record.vm, record.uuid, record.key)
    assert (vm.labelled, vm.boot_id, vm.bound) == (False, None, None)
    assert vm.phase is (VmPhase.CREATING if phase is P.CREATING else VmPhase.BOOTING)
    assert vm.way is (Way.UNPAUSE if phase in (P.STANDBY, P.PAUSED) else Way.BOOT)


def test_one_that_is_going_cannot_be_taken() -> None:
    for phase in (P.SAVING, P.DESTROYING):
        with pytest.raises(KeyError):
            taken(a_spare(phase=phase), a_request(), BaitName("bait1"), NOW)


@given(
    st.lists(st.tuples(st.sampled_from([*D, None]), st.booleans(), st.booleans()), max_size=30),
    st.sampled_from(Purpose),
)
def test_nothing_is_created_after_it_was_seen(
    history: list[tuple[DomainState | None, bool, bool]], purpose: Purpose
) -> None:
    """R5: a generation is made once."""
    record: Spare | None = a_spare(purpose=purpose)
    seen = False
    for domain, standby, remains in history:
        assert record is not None
        step = decide(record, facts(domain, standby=BOOT if standby else None, remains=remains), TIMES)
        assert not (seen and step.deed is spares.Deed.CREATE)
        seen = seen or domain in (D.RUNNING, D.PAUSED)
        record = step.spare
        if record is None:
            break
