"""What the host has said, message by message: what counts as known, and what is forgotten with a conversation."""

from bait.rules.hostview import HostView, Told
from protocol.ids import Generation
from protocol.messages import (
    Bound,
    Code,
    Denied,
    Error,
    Finished,
    Granted,
    HostInventory,
    Released,
    Renewed,
    SrvMsg,
    Started,
    VmLost,
    VmPhase,
    VmReady,
    VmStatus,
)
from tests.unit.bait.records import BOOT, DEBIAN, RUN, SHAPE, TARGET, VM, a_capacity, a_view, lease_id, request_id

ONE = Generation(1)
LEASE = lease_id()
GRANTED = Granted(id=request_id(), lease=LEASE, generation=ONE, vm=VM, ttl_s=90)
LOST = VmLost(lease=LEASE, generation=ONE, code=Code.VM_DIED, text="the VM died")
RELEASED = Released(id=request_id(3), lease=LEASE)


def status(phase: VmPhase = VmPhase.BOOTING, number: int = 1) -> VmStatus:
    return VmStatus(
        lease=lease_id(number), generation=ONE, vm=VM, phase=phase, owner=1, environment=DEBIAN, shape=SHAPE, run=TARGET
    )


def inventory(*vms: VmStatus, complete: bool = True) -> HostInventory:
    return HostInventory(vms=vms, complete=complete)


def told(*messages: SrvMsg) -> HostView:
    view = HostView()
    view.connected(False)
    for message in messages:
        view.heard(message, TARGET)
    return view


def test_a_vms_life_is_followed_message_by_message() -> None:
    view = told(GRANTED)
    assert view.told(LEASE).vm == a_view(phase=VmPhase.RESERVED)
    view.heard(Bound(id=request_id(2), lease=LEASE, generation=ONE, run=TARGET), TARGET)
    view.heard(VmReady(lease=LEASE, generation=ONE, vm=VM, boot_id=BOOT), TARGET)  # type: ignore[arg-type]
    assert view.told(LEASE).vm == a_view(phase=VmPhase.READY, bound=True, boot_id=BOOT)
    view.heard(Started(lease=LEASE, generation=ONE, run=TARGET, boot_id=BOOT), TARGET)  # type: ignore[arg-type]
    assert view.told(LEASE).vm.phase is VmPhase.STARTED
    view.heard(Finished(lease=LEASE, generation=ONE, run=RUN), TARGET)
    assert view.told(LEASE).ended == (ONE, RUN)
    view.heard(Finished(lease=LEASE, generation=ONE, run=TARGET), TARGET)
    view.heard(LOST, TARGET)
    assert view.told(LEASE).vm is None
    assert view.told(LEASE).lost == "the VM died"
    assert view.told(LEASE).ended == (ONE, TARGET)
    view.forget(LEASE)
    assert view == told()


def test_a_repeated_grant_does_not_set_a_vm_back() -> None:
    view = told(GRANTED, VmReady(lease=LEASE, generation=ONE, vm=VM, boot_id=BOOT), GRANTED)  # type: ignore[arg-type]
    assert view.told(LEASE).vm.phase is VmPhase.READY


def test_news_of_a_lease_nobody_asked_for_makes_no_vm() -> None:
    view = HostView()
    view.heard(GRANTED, None)
    view.heard(VmReady(lease=lease_id(2), generation=ONE, vm=VM, boot_id=BOOT), None)  # type: ignore[arg-type]
    assert view.told(LEASE).vm is None


def test_an_answer_ends_the_asking_that_it_answers() -> None:
    view = told()
    view.asks(LEASE, request_id(3))
    view.heard(GRANTED, TARGET)
    assert view.told(LEASE).asking is not None
    view.heard(RELEASED, TARGET)
    assert view.told(LEASE).asking is None


def test_a_denial_is_remembered_with_its_reason() -> None:
    view = told(
        Denied(id=request_id(), lease=LEASE, code=Code.NO_ROOM, text="full", permanent=False, retry_after_s=5.0)
    )
    denial = view.told(LEASE).denied
    assert (denial.code, denial.text, denial.permanent, denial.retry_after_s) == (Code.NO_ROOM, "full", False, 5.0)


def test_a_failed_request_means_that_the_host_has_no_such_vm() -> None:
    view = told(GRANTED)
    view.asks(LEASE, request_id(2))
    assert view.heard(Error(code=Code.NO_SUCH_LEASE, text="x", id=request_id(2)), None) == {LEASE}
    assert view.told(LEASE).vm is None
    assert (view.told(LEASE).denied.text, view.told(LEASE).denied.permanent) == ("x", False)
    assert view.heard(Error(code=Code.INTERNAL, text="x"), None) == frozenset()


def test_a_binding_of_another_generation_is_not_the_vms() -> None:
    view = told(GRANTED)
    view.heard(Bound(id=request_id(2), lease=LEASE, generation=Generation(2), run=TARGET), TARGET)
    assert not view.told(LEASE).vm.bound


def test_nothing_is_known_of_a_lease_before_a_complete_inventory() -> None:
    view = HostView()
    assert not view.knows(LEASE)
    view.connected(False)
    assert not view.knows(LEASE)
    view.heard(inventory(complete=False), None)
    assert not view.knows(LEASE)
    view.heard(inventory(), None)
    assert view.knows(LEASE)
    view.disconnected()
    assert not view.knows(LEASE)


def test_a_new_conversation_starts_from_nothing_and_a_resumed_one_goes_on() -> None:
    view = told(GRANTED, inventory(status()))
    view.asks(LEASE, request_id(2))
    view.disconnected()
    view.connected(True)
    assert view.knows(LEASE)
    assert view.told(LEASE).asking is not None
    view.connected(False)
    assert not view.knows(LEASE)
    assert (view.told(LEASE).vm, view.told(LEASE).asking) == (None, None)


def test_an_inventory_that_is_not_complete_takes_nothing_away() -> None:
    view = told(GRANTED, inventory(complete=False))
    assert view.told(LEASE).vm is not None
    view.heard(inventory(), None)
    assert view.told(LEASE).vm is None


def test_an_inventory_from_before_the_answer_does_not_hide_the_vm_that_is_asked_about() -> None:
    view = told(GRANTED)
    view.asks(LEASE, request_id(2))
    view.heard(inventory(), None)
    assert view.told(LEASE).vm is not None


def test_an_inventory_names_all_whose_state_may_have_changed() -> None:
    view = told(inventory(status()))
    assert view.heard(inventory(status(number=2)), None) == {LEASE, lease_id(2)}


def test_a_vm_that_the_inventory_shows_as_gone_is_lost() -> None:
    view = told(GRANTED, inventory(status(VmPhase.GONE)))
    assert view.told(LEASE).vm is None
    assert view.told(LEASE).lost


def test_a_release_is_known_even_while_the_hosts_inventory_is_not_complete() -> None:
    view = told(inventory(complete=False), LOST, RELEASED)
    assert view.knows(LEASE)
    assert (view.told(LEASE).vm, view.told(LEASE).lost) == (None, "")
    view.forget(LEASE)
    assert not view.knows(LEASE)


def test_a_lease_the_host_does_not_know_any_more_has_no_vm() -> None:
    view = told(GRANTED)
    assert view.heard(Renewed(id=request_id(), unknown=(LEASE,)), None) == {LEASE}
    assert view.told(LEASE).vm is None


def test_capacity_is_the_last_word() -> None:
    view = told(a_capacity(), a_capacity(free_slots=0))
    assert view.capacity == a_capacity(free_slots=0)


def test_forgetting_leaves_nothing() -> None:
    view = told(GRANTED, LOST, Denied(id=request_id(), lease=LEASE, code=Code.NO_ROOM, text="", permanent=False))
    view.asks(LEASE, request_id())
    view.forget(LEASE)
    assert view.told(LEASE) == Told()
