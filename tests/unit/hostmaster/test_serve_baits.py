"""The conversation with the baits: each answer after its commit, each request as often as it comes, each to its own."""

import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hostmaster.rules.vm import End
from hostmaster.world import DomainState
from protocol.ids import BootId, Generation, LeaseId, RequestId, Room, Run
from protocol.messages import (
    BaitInventory,
    Bind,
    Bound,
    Capacity,
    Code,
    Denied,
    Disposition,
    Error,
    Finished,
    Granted,
    HostInventory,
    Release,
    Released,
    Renew,
    Renewed,
    RequestVm,
    Started,
    VmLost,
    VmPhase,
    VmReady,
)
from tests.conftest import LoggedFailures
from tests.unit.hostmaster.host_case import HostCase, host_case
from tests.unit.hostmaster.records import BOOT, RUN, SHAPE, a_host, a_request, lease_id
from wnod.journal import JournalFull

OWNER = next(user.pw_uid for user in pwd.getpwall() if user.pw_uid > 0)
ASK = a_request(owner=OWNER)
BIND = Bind(id=ASK.id, lease=ASK.lease, generation=Generation(1), run=RUN.next())
RELEASE = Release(id=ASK.id, lease=ASK.lease, generation=Generation(1))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[HostCase]:
    with host_case(tmp_path / "journal") as case:
        yield case


def says(case: HostCase, message: Any, kind: Any, bait: str = "bait1") -> Any:
    """The only answer of that kind."""
    case.sent.clear()
    case.baits.received(bait, message)
    (answer,) = case.take(kind, bait)
    return answer


def granted(case: HostCase) -> None:
    says(case, ASK, Granted)
    case.run()


def ready(case: HostCase) -> None:
    case.keeper.ready[Generation(1)] = BootId(BOOT)
    case.keeper.kick_all()
    case.run()


def denial(case: HostCase, **changes: Any) -> Denied:
    answer = says(case, replace(ASK, **changes), Denied)
    assert isinstance(answer, Denied)
    return answer


def test_a_request_is_granted_when_its_vm_is_on_record(case: HostCase) -> None:
    answer = says(case, ASK, Granted)
    assert (answer.id, answer.lease, answer.generation, answer.vm, answer.ttl_s) == (ASK.id, ASK.lease, 1, "vm1", 90.0)
    (vm,) = case.journal.load("vm", type(case.vm)).values()
    assert (vm.lease, vm.asked, vm.bait, vm.owner, vm.shape) == (ASK.lease, RUN, "bait1", OWNER, SHAPE)


def test_a_repeated_request_gets_the_same_vm_and_its_present_state(case: HostCase) -> None:
    granted(case)
    ready(case)
    case.sent.clear()
    case.baits.received("bait1", ASK)
    (first, second) = case.take_all()
    assert isinstance(first, Granted)
    assert first.generation == 1
    assert isinstance(second, VmReady)
    assert len(case.keeper.vms) == 1


def test_a_host_that_cannot_see_says_not_now(case: HostCase) -> None:
    case.keeper.away = True
    answer = denial(case)
    assert (answer.code, answer.permanent) == (Code.NOT_READY, False)
    assert case.keeper.vms == {}


@pytest.mark.parametrize(("owner", "words"), [(0, "root"), (4_000_000_000, "knows no user")])
def test_nobodys_and_roots_jobs_get_no_vm(case: HostCase, owner: int, words: str) -> None:
    answer = denial(case, owner=owner)
    assert (answer.code, answer.permanent) == (Code.NOT_PERMITTED, True)
    assert words in answer.text


def test_a_refusal_of_the_capacity_is_passed_on(case: HostCase) -> None:
    answer = denial(case, shape=replace(SHAPE, cpus=99))
    assert (answer.id, answer.lease, answer.code, answer.permanent) == (ASK.id, ASK.lease, Code.TOO_BIG, True)


def test_a_generation_is_never_given_twice(case: HostCase) -> None:
    granted(case)
    case.baits.received("bait1", RELEASE)
    case.run(1)
    assert case.keeper.vms == {}
    assert says(case, a_request(10, owner=OWNER), Granted).generation == 2


def test_a_newer_run_supersedes_the_older_and_gets_its_vm_when_that_is_gone(case: HostCase) -> None:
    granted(case)
    newer = a_request(10, owner=OWNER, run=RUN.next())
    assert says(case, newer, Denied).code is Code.SUPERSEDED
    case.run(1)
    assert case.hypervisor.kept == {}
    assert says(case, newer, Denied).code is Code.SUPERSEDED  # its node may still be known to the LRMS
    case.baits.received("bait1", RELEASE)
    case.run()
    assert says(case, newer, Granted).generation == 2


def test_another_bait_learns_and_changes_nothing(case: HostCase) -> None:
    granted(case)
    before = case.vm
    assert says(case, ASK, Denied, "bait2").code is Code.NO_SUCH_LEASE
    assert says(case, BIND, Error, "bait2").code is Code.NO_SUCH_LEASE
    says(case, RELEASE, Released, "bait2")
    unknown = says(case, Renew(id=ASK.id, leases=(ASK.lease,)), Renewed, "bait2").unknown
    assert unknown == (ASK.lease,)
    assert says(case, BaitInventory(leases=(ASK.lease,)), HostInventory, "bait2").vms == ()
    assert case.vm == before


def test_binding_is_on_disk_before_it_is_confirmed_and_can_be_repeated(case: HostCase) -> None:
    granted(case)
    for _ in range(2):
        answer = says(case, BIND, Bound)
        assert (answer.lease, answer.generation, answer.run) == (ASK.lease, 1, RUN.next())
    (vm,) = case.journal.load("vm", type(case.vm)).values()
    assert vm.bound == RUN.next()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"generation": 2}, Code.STALE_GENERATION),
        ({"lease": lease_id(77)}, Code.NO_SUCH_LEASE),
        ({"run": Run(cluster="c", job="13", restart=1)}, Code.NOT_PERMITTED),
    ],
)
def test_a_bind_that_does_not_fit_changes_nothing(case: HostCase, change: dict[str, Any], code: Code) -> None:
    granted(case)
    assert says(case, replace(BIND, **change), Error).code is code
    assert case.vm.bound is None


def test_a_release_is_answered_when_vm_and_overlay_are_gone(case: HostCase) -> None:
    granted(case)
    for number in (1, 2):
        case.baits.received("bait1", replace(RELEASE, id=RequestId(f"{number:032x}")))
    assert case.take(Released) == []
    case.run(1)
    answers = case.take(Released)
    assert [answer.id for answer in answers] == [f"{number:032x}" for number in (1, 2)]
    assert (case.hypervisor.kept, case.images.made) == ({}, {})


def test_a_release_of_what_is_not_there_is_answered_at_once(case: HostCase) -> None:
    assert says(case, RELEASE, Released).id == ASK.id


def test_a_release_of_what_libvirt_may_yet_show_is_answered_when_it_has_been_asked(case: HostCase) -> None:
    case.keeper.away = True
    case.baits.received("bait1", RELEASE)
    assert case.take(Released) == []
    case.keeper.away = False
    case.baits.tell_capacity()
    assert [answer.id for answer in case.take(Released)] == [ASK.id]
    case.baits.tell_capacity()
    assert case.sent == []


def test_a_release_of_another_generation_changes_nothing(case: HostCase) -> None:
    granted(case)
    assert says(case, replace(RELEASE, generation=Generation(7)), Error).code is Code.STALE_GENERATION
    assert says(case, replace(RELEASE, disposition=Disposition.QUARANTINE), Error).code is Code.NOT_PERMITTED
    case.run(1)
    assert case.vm.phase is VmPhase.BOOTING


def test_the_bait_is_told_of_each_stage(case: HostCase) -> None:
    granted(case)
    case.baits.received("bait1", BIND)
    case.sent.clear()
    ready(case)
    (told,) = case.take(VmReady)
    assert told == VmReady(lease=ASK.lease, generation=Generation(1), vm=case.vm.vm, boot_id=BootId(BOOT))
    case.keeper.put(replace(case.vm, phase=VmPhase.STARTED))
    assert case.take(Started) == [
        Started(lease=ASK.lease, generation=Generation(1), run=RUN.next(), boot_id=BootId(BOOT))
    ]
    case.baits.finished(case.vm, 3)
    (finished,) = case.take(Finished)
    assert (finished.run, finished.status) == (RUN.next(), 3)


def test_the_end_of_a_run_is_told_before_each_inventory_also_of_a_vm_that_is_gone(case: HostCase) -> None:
    """A bait that was away when it was told for the first time gave a job back that had run to its end."""
    granted(case)
    case.baits.received("bait1", BIND)
    ready(case)
    case.keeper.put(replace(case.vm, phase=VmPhase.STARTED, end=End(199)))
    told = Finished(lease=ASK.lease, generation=Generation(1), run=RUN.next(), status=199)
    case.sent.clear()
    case.baits.connected("bait1", 2, resumed=False)
    assert case.take_all()[1:] == [told, HostInventory(vms=(case.vm.status(),), complete=True)]
    case.hypervisor.vanish(case.vm.uuid)
    case.run(2)
    assert case.vm.phase is VmPhase.GONE
    case.sent.clear()
    case.baits.received("bait1", BaitInventory(leases=(ASK.lease,)))
    case.baits.send_inventories()
    assert case.take_all() == [told, HostInventory(vms=(case.vm.status(),), complete=True)] * 2
    case.baits.connected("bait2", 1, resumed=False)
    assert case.take(Finished, "bait2") == []


def test_a_loss_is_told_when_it_is_a_fact_and_never_after_a_release(case: HostCase) -> None:
    granted(case)
    case.hypervisor.vanish(case.vm.uuid)
    case.hypervisor.away = "hangs"
    case.run(2)
    assert case.take(VmLost) == []
    case.hypervisor.come_back()
    case.run(2)
    (lost,) = case.take(VmLost)
    assert (lost.code, lost.generation) == (Code.BOOT_FAILED, 1)
    case.baits.received("bait1", RELEASE)
    case.run(1)
    assert case.take(VmLost) == []
    assert case.keeper.vms == {}


def test_a_new_conversation_begins_with_capacity_and_inventory(case: HostCase) -> None:
    granted(case)
    case.sent.clear()
    case.baits.connected("bait1", 2, False)
    (capacity, inventory) = case.take_all()
    assert isinstance(capacity, Capacity)
    assert isinstance(inventory, HostInventory)
    assert (inventory.complete, [vm.lease for vm in inventory.vms]) == (True, [ASK.lease])
    assert (inventory.vms[0].run, inventory.vms[0].bound) == (RUN.next(), False)


def test_an_inventory_that_rests_on_nothing_says_so(case: HostCase) -> None:
    case.keeper.away = True
    assert says(case, BaitInventory(leases=()), HostInventory).complete is False


def test_an_inventory_renews_the_leases_it_names(case: HostCase) -> None:
    granted(case)
    ready(case)
    for _ in range(3):
        case.run(60)
        case.baits.received("bait1", BaitInventory(leases=(ASK.lease, LeaseId("f" * 32))))
    assert case.vm.phase is VmPhase.READY


def test_capacity_is_told_once_per_change(case: HostCase) -> None:
    case.baits.tell_capacity()
    case.sent.clear()
    case.baits.tell_capacity()
    assert case.sent == []
    case.baits.received("bait1", ASK)
    told = case.take(Capacity)
    assert [message.free_slots for message in told] == [1]
    assert told[0].free == Room(cpus=3, memory_mib=3584, disk_mib=896)


def test_a_host_without_libvirt_does_not_serve(case: HostCase) -> None:
    case.keeper.away = True
    capacity = case.baits.capacity()
    assert (capacity.serving, capacity.text) == (False, "the hypervisor does not answer")


def test_a_bait_that_connects_while_libvirt_is_away_for_a_moment_hears_that_it_is_back(case: HostCase) -> None:
    """Nobody else was told of that moment: its bait would have stayed closed for ever."""
    case.baits.tell_capacity()
    case.sent.clear()
    case.keeper.away = True
    case.baits.connected("bait1", 1, False)
    case.keeper.away = False
    case.baits.tell_capacity()
    assert [message.serving for message in case.take(Capacity)] == [False, True]


def test_a_message_that_is_none_of_a_baits_is_not_answered(case: HostCase) -> None:
    case.baits.received("bait1", Error(code=Code.INTERNAL, text="a bug"))
    case.baits.received("bait1", Released(id=ASK.id, lease=ASK.lease))
    assert case.sent == []


def test_replaying_a_whole_conversation_leaves_the_state_as_it_was(case: HostCase) -> None:
    words: list[RequestVm | Bind | Renew | BaitInventory] = [
        ASK, BIND, Renew(id=ASK.id, leases=(ASK.lease,)), BaitInventory(leases=(ASK.lease,)),
    ]  # fmt: skip
    for word in words:
        case.baits.received("bait1", word)
    ready(case)
    before = case.vm
    for word in words * 2:
        case.baits.received("bait1", word)
        case.run()
    assert case.vm == before
    assert next(iter(case.hypervisor.kept.values())).state is DomainState.RUNNING
    assert case.offered == a_host()


def test_a_request_that_cannot_be_put_on_record_leaves_no_channel_behind(
    case: HostCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt left a socket, while the disk was full."""

    def full(*_: object) -> None:
        raise JournalFull("no space left")

    monkeypatch.setattr(case.journal, "put", full)
    with pytest.raises(JournalFull):
        case.baits.received("bait1", a_request())
    assert (case.keeper.vms, case.guests.channels) == ({}, {})


def test_a_socket_that_cannot_be_removed_keeps_no_bait_waiting_for_ever(
    case: HostCase, monkeypatch: pytest.MonkeyPatch, logged_failures: LoggedFailures
) -> None:
    """The VM was off the record, and nobody was told that it was gone and its slot free."""
    case.baits.received("bait1", a_request())

    def refused(_: str) -> None:
        raise OSError("read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(case.guests, "close", refused)
        case.baits.received("bait1", Release(id=a_request(3).id, lease=lease_id(9)))
        case.run(2)
    case.take_all()
    case.run(60)
    sent = case.take_all()
    assert [message.lease for message in sent if isinstance(message, Released)] == [lease_id(9)]
    assert [message.free_slots for message in sent if isinstance(message, Capacity)][-1:] == [2]
    logged_failures.flush(OSError)
