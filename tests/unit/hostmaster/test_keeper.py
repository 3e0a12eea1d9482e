"""The keeper: records become deeds, deeds are found again after a crash, and nothing of others is touched."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as changed
from twisted.internet.defer import Deferred

from hostmaster.edges.domain import domain_xml
from hostmaster.keeper import AHEAD
from hostmaster.recovery import Recovery
from hostmaster.rules import lifecycle
from hostmaster.rules.lifecycle import Times, Way
from hostmaster.rules.standstill import Pause
from hostmaster.rules.unheard import SETTLED_S
from hostmaster.world import Domain, DomainState, HypervisorUnavailable
from protocol.ids import BootId, Generation
from protocol.messages import Code, VmPhase
from tests.fakes.hypervisor import TOO_LATE_S, Kept
from tests.unit.hostmaster.host_case import HostCase, again, host_case
from tests.unit.hostmaster.records import BOOT, RUN, a_vm


@pytest.fixture
def case(tmp_path: Path) -> Iterator[HostCase]:
    with host_case(tmp_path / "journal") as case:
        yield case


def make(case: HostCase) -> None:
    """A granted VM, its domain made and its guest booting."""
    case.keeper.put(a_vm())
    case.run()


def boot(case: HostCase) -> None:
    case.keeper.ready[Generation(1)] = BootId(BOOT)
    case.keeper.duties.kick("1")
    case.run()


def recovered(case: HostCase) -> object:
    got: list[object] = []
    Deferred.fromCoroutine(Recovery(case.keeper).recover()).addBoth(got.append)
    case.run()
    return got[0] if got else None


def test_a_granted_vm_is_made_booted_and_ready(case: HostCase) -> None:
    make(case)
    assert (case.vm.phase, list(case.images.made)) == (VmPhase.BOOTING, ["vm1-g1"])
    boot(case)
    assert (case.vm.phase, case.vm.boot_id) == (VmPhase.READY, BOOT)
    assert case.changes == [f"vm1-g1 {p}" for p in ("reserved", "creating", "booting", "ready")]
    assert [entry.text for entry in case.journal.read_history("12")][-1] == "vm1-g1 ready"


def test_news_that_only_changes_the_record_costs_one_look(case: HostCase) -> None:
    make(case)
    looks: list[str] = []
    domains = case.keeper.hypervisor.domains
    case.keeper.hypervisor.domains = lambda: looks.append("look") or domains()  # type: ignore[func-returns-value, method-assign]
    boot(case)
    assert (case.vm.phase, looks) == (VmPhase.READY, ["look"])


def test_a_released_vm_leaves_nothing_behind(case: HostCase) -> None:
    make(case)
    case.keeper.put(lifecycle.release(case.vm, 110.0))
    case.run()
    assert (case.keeper.vms, case.hypervisor.kept, case.images.made, case.guests.channels) == ({}, {}, {}, {})
    assert case.journal.load("vm", lifecycle.Vm) == {}
    assert case.changes[-1] == "vm1-g1 forgotten"
    assert case.clock.getDelayedCalls() == []


def test_a_vm_that_is_released_before_it_is_made_leaves_nothing_behind_either(case: HostCase) -> None:
    case.guests.open("vm1-g1")
    case.keeper.put(a_vm())
    case.keeper.put(lifecycle.release(case.vm, 110.0))
    case.run(1)
    assert (case.keeper.vms, case.guests.channels) == ({}, {})
    assert not any(call.startswith("create") for call in case.hypervisor.calls)


def test_what_is_put_is_on_disk_before_anybody_hears_of_it(case: HostCase) -> None:
    on_disk: list[object] = []
    case.changed = lambda before, vm: on_disk.append(case.journal.load("vm", lifecycle.Vm)["1"])  # type: ignore[method-assign]
    case.keeper.put(a_vm())
    assert on_disk == [a_vm()]


def test_putting_the_same_record_again_tells_nobody(case: HostCase) -> None:
    make(case)
    said = len(case.changes)
    case.keeper.put(case.vm)
    assert len(case.changes) == said


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_daemon_that_dies_while_a_vm_is_made_makes_it_once(case: HostCase, lost: int) -> None:
    case.hypervisor.lose_answers = lost
    case.keeper.put(a_vm())
    for _ in range(4):
        case.clock.advance(0)
    after = again(case)
    after.keeper.kick_all()
    after.run(3)
    assert after.vm.phase is VmPhase.BOOTING
    assert len(after.hypervisor.kept) == 1
    assert after.guests.channels == {"vm1-g1": False}
    after.journal.close()


@pytest.mark.parametrize("dies", ["never", "before the release", "after the release"])
def test_a_vm_whose_create_nobody_heard_of_keeps_its_room_until_it_can_come_no_more(case: HostCase, dies: str) -> None:
    case.hypervisor.put_off = True
    make(case)
    assert (case.vm.phase, case.hypervisor.kept) == (VmPhase.CREATING, {})
    after = again(case) if dies == "before the release" else case
    after.keeper.put(lifecycle.release(after.vm, 110.0))
    if dies == "after the release":
        after = again(after)
        after.keeper.kick_all()
    after.run(TOO_LATE_S + 3.0 if dies == "never" else 3.0)
    assert after.vm.phase is VmPhase.DESTROYING
    after.hypervisor.catch_up()
    assert len(after.hypervisor.kept) == 1
    after.run(2)
    assert (after.vm.phase, after.hypervisor.kept) == (VmPhase.DESTROYING, {})
    after.run(SETTLED_S)
    assert (after.keeper.vms, after.hypervisor.kept, after.images.made) == ({}, {}, {})
    after.journal.close()


def test_a_daemon_that_dies_after_any_step_of_destroying_goes_on(case: HostCase) -> None:
    make(case)
    boot(case)
    case.keeper.put(lifecycle.release(case.vm, 110.0))
    for _ in range(30):
        case = again(case)
        case.keeper.kick_all()
        case.clock.advance(0)
        case.clock.advance(0)
        if not case.keeper.vms:
            break
    assert (case.keeper.vms, case.hypervisor.kept, case.images.made) == ({}, {}, {})
    case.journal.close()


def test_a_restore_that_comes_after_it_was_given_up_finds_the_overlay_that_its_memory_knows(case: HostCase) -> None:
    saved = case.keeper.specify(a_vm(), "", "")
    case.hypervisor.saved["/golden/g/memory"] = Kept(domain_xml(saved), spec=saved)
    case.images.golden["g"] = 128
    case.keeper.times = replace(case.keeper.times, creates=1)
    case.hypervisor.put_off = True
    case.keeper.put(a_vm(way=Way.RESTORE, golden="g"))
    case.run(TOO_LATE_S + 5.0)
    case.hypervisor.catch_up()
    assert len(case.hypervisor.kept) == 1
    assert case.images.disks["vm1-g1"].of == "g"
    case.run()
    assert (case.vm.phase, case.vm.way) == (VmPhase.BOOTING, Way.RESTORE)


def test_a_restore_that_nobody_heard_of_falls_back_to_a_boot_when_it_can_come_no_more(case: HostCase) -> None:
    case.images.golden["g"] = 128
    case.keeper.times = replace(case.keeper.times, creates=1)
    case.hypervisor.put_off = True
    case.keeper.put(a_vm(way=Way.RESTORE, golden="g"))
    case.run(TOO_LATE_S + 5.0)
    case.hypervisor.put_off = False
    case.run(SETTLED_S)
    assert (case.vm.phase, case.vm.way) == (VmPhase.BOOTING, Way.BOOT)
    assert case.images.disks["vm1-g1"].of == ""


@pytest.mark.parametrize("opened", [False, True])
def test_a_create_in_flight_when_the_journal_is_lost_comes_to_nothing_or_is_known_at_once(
    case: HostCase, opened: bool
) -> None:
    """`opened`: its domain comes in the moment between the look at libvirt and the removal of its overlay."""
    case.hypervisor.overlays = case.images.made
    case.hypervisor.put_off = True
    make(case)
    assert set(case.images.made) == {"vm1-g1"}
    after = again(case, lose_journal=True)
    remove = after.images.remove_overlay

    async def removed(name: str) -> None:
        if opened:
            after.hypervisor.catch_up()
        await remove(name)

    after.images.remove_overlay = removed  # type: ignore[method-assign]
    after.hypervisor.come_back()
    after.run()
    after.hypervisor.catch_up()
    after.run()
    assert [vm.key for vm in after.keeper.vms.values()] == (["vm1-g1"] if opened else [])
    assert len(after.hypervisor.kept) == len(after.keeper.vms)
    after.journal.close()


def test_nothing_is_made_or_destroyed_while_libvirt_is_away(case: HostCase) -> None:
    make(case)
    boot(case)
    case.hypervisor.away = "libvirtd hangs"
    case.hypervisor.calls.clear()
    case.keeper.put(lifecycle.release(case.vm, 110.0))
    case.run(20)
    assert set(case.hypervisor.calls) == {"domains"}
    assert case.keeper.away
    assert case.vm.phase is VmPhase.DESTROYING
    case.hypervisor.come_back()
    case.run(2)
    assert case.keeper.vms == {}


def test_a_refused_create_is_tried_again_and_then_given_up_with_its_reason(case: HostCase) -> None:
    case.hypervisor.refuse = "no bridge br0"
    case.keeper.put(a_vm())
    case.run(2)
    assert len([call for call in case.hypervisor.calls if call.startswith("create")]) == Times().creates
    assert (case.vm.phase, case.vm.code, case.vm.text) == (VmPhase.GONE, Code.BOOT_FAILED, "no bridge br0")
    assert case.images.made == {}


def test_a_vm_is_not_made_from_another_image_than_is_on_its_record(case: HostCase) -> None:
    case.keeper.put(a_vm(image="b" * 64))
    case.run(2)
    assert (case.vm.code, case.hypervisor.kept) == (Code.BOOT_FAILED, {})
    assert "has another image now" in case.vm.text


def test_a_daemon_that_does_not_know_yet_what_vms_are_made_of_counts_no_try_and_keeps_the_fast_way(
    case: HostCase,
) -> None:
    """It hashed large images after its start for longer than two tries took: jobs failed, golden states were lost."""
    case.keeper.able = lambda: False
    case.keeper.put(a_vm(way=Way.RESTORE, golden="vm1-a"))
    case.run(40)
    assert (case.vm.phase, case.vm.way, case.vm.tries) == (VmPhase.CREATING, Way.RESTORE, 0)
    case.keeper.able = lambda: True
    case.hypervisor.saved["/golden/vm1-a/memory"] = Kept(domain_xml(case._specify(case.vm, "/overlays/vm1-a", "")))
    case.images.golden["vm1-a"] = 1
    case.run(2)
    assert (case.vm.phase, case.vm.way) == (VmPhase.BOOTING, Way.RESTORE)


def test_a_host_that_never_gets_ready_gives_its_jobs_back(case: HostCase) -> None:
    case.keeper.able = lambda: False
    case.keeper.put(a_vm())
    for _ in range(2):
        case.keeper.renew(case.vm.lease)
        case.run(40)
    assert (case.vm.phase, case.vm.code) == (VmPhase.GONE, Code.BOOT_FAILED)
    assert "did not get ready" in case.vm.text


def test_what_libvirt_says_is_the_matter_with_a_vm_is_kept_for_people_while_it_is_so(
    case: HostCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stopped a VM, and the list of VMs said that somebody had paused it."""
    make(case)
    looks, why = case.hypervisor.domains, "is the host's disk full?"

    async def full() -> tuple[Domain, ...]:
        return tuple([replace(domain, state=DomainState.PAUSED, reason=why) for domain in await looks()])

    with monkeypatch.context() as patched:
        patched.setattr(case.hypervisor, "domains", full)
        case.keeper.kick_all()
        case.run(1)
        assert case.keeper.trouble == {1: why}
    case.keeper.kick_all()
    case.run(1)
    assert case.keeper.trouble == {1: ""}


def test_a_vm_that_stops_again_whenever_it_is_let_go_on_is_not_let_go_on_without_end(case: HostCase) -> None:
    """As one whose disk's host is full, after a pause: libvirt was kept at nothing else."""
    make(case)
    boot(case)
    held = Pause(case.clock.seconds() - 60, case.clock.seconds(), "root")
    resumed: list[float] = []
    unpause = case.hypervisor.unpause

    async def in_vain(uuid: str) -> None:
        resumed.append(case.clock.seconds())
        assert len(resumed) < 100
        await unpause(uuid)
        case.hypervisor.kept[uuid].state = DomainState.PAUSED
        case.hypervisor._hint(uuid)

    case.hypervisor.unpause = in_vain  # type: ignore[method-assign]
    case.hypervisor.kept[case.vm.uuid].state = DomainState.PAUSED
    case.keeper.put(changed(case.vm, phase=VmPhase.STARTED, bound=RUN.next(), pause=held))
    case.run(10)
    assert 5 <= len(resumed) <= 12


def test_a_full_disk_is_a_reason_too(case: HostCase) -> None:
    case.images.full = "no space left on device"
    case.keeper.put(a_vm())
    case.run(2)
    assert case.vm.text == "no space left on device"


def test_a_slot_that_the_configuration_has_lost_is_a_reason_too(case: HostCase) -> None:
    case.keeper.put(a_vm(vm="vm9"))
    case.run(2)
    assert case.vm.text == "slot 'vm9' is not in the configuration any more"


def test_a_dead_vm_is_noticed_by_its_event_and_by_looking(case: HostCase) -> None:
    make(case)
    boot(case)
    case.hypervisor.vanish(a_vm().uuid)
    case.run(1)
    assert (case.vm.phase, case.vm.code) == (VmPhase.GONE, Code.VM_DIED)


def test_a_gone_vm_that_nobody_releases_frees_its_slot_when_its_lease_ends(case: HostCase) -> None:
    make(case)
    case.hypervisor.vanish(a_vm().uuid)
    case.run(1)
    assert case.keeper.renew(a_vm().lease)
    case.run(88)
    assert case.keeper.vms
    case.run(3)
    assert case.keeper.vms == {}
    assert not case.keeper.renew(a_vm().lease)


def test_a_lease_that_is_renewed_does_not_end(case: HostCase) -> None:
    make(case)
    boot(case)
    for _ in range(5):
        case.run(60)
        case.keeper.renew(a_vm().lease)
    assert case.vm.phase is VmPhase.READY
    case.run(92)
    assert "vm1-g1 destroying" in case.changes
    assert case.changes[-1] == "vm1-g1 forgotten"


def test_a_daemon_that_was_stopped_for_longer_than_a_lease_lives_hears_its_bait_first(case: HostCase) -> None:
    """It destroyed VMs whose renewals waited in its socket."""
    make(case)
    boot(case)
    case.keeper.awake()
    case.clock.rightNow += 100.0
    case.keeper.awake()  # the loop is due before any lease
    for _ in range(80):
        case.run(1)
        case.keeper.awake()
    assert case.vm.phase is VmPhase.READY
    for _ in range(20):
        case.run(1)
        case.keeper.awake()
    assert "vm1-g1 destroying" in case.changes


def test_a_restarted_daemon_gives_every_lease_its_full_time(case: HostCase) -> None:
    make(case)
    boot(case)
    case.clock.advance(85)
    case = again(case)
    case.keeper.ready[Generation(1)] = BootId(BOOT)
    case.keeper.kick_all()
    case.run(80)
    assert case.vm.phase is VmPhase.READY
    case.journal.close()


def test_recovery_adopts_what_the_journal_lost_and_never_uses_its_generation_again(case: HostCase) -> None:
    make(case)
    case.journal.remove("vm", "1")
    case = again(case)
    recovered(case)
    assert (case.vm.phase, case.vm.key, case.vm.bound) == (VmPhase.STARTED, "vm1-g1", RUN.next())
    assert "vm1-g1" in case.guests.channels
    assert case.journal.next_number("generation") > 1
    case.journal.close()


def test_a_world_that_is_ahead_of_a_clock_that_went_back_is_left_behind_by_far(case: HostCase) -> None:
    """Seed 407 of that day: the journal was lost, and with it a generation that had come and gone after this one."""
    case.journal.raise_number("generation", 118)
    case.keeper.count_above(Generation(118))
    assert case.journal.raise_number("generation", 0) == 118
    case.keeper.count_above(Generation(119))
    assert case.journal.next_number("generation") == 119 + AHEAD + 1
    case.journal.close()


def test_recovery_removes_overlays_of_nobody_and_leaves_strangers_alone(case: HostCase) -> None:
    make(case)
    case.images.made["vm9-g9"] = 10
    stranger = case.hypervisor.stranger("database")
    recovered(case)
    assert list(case.images.made) == ["vm1-g1"]
    assert stranger in case.hypervisor.kept
    assert not any(stranger in call for call in case.hypervisor.calls)


def test_recovery_does_nothing_while_libvirt_is_away(case: HostCase) -> None:
    case.images.made["vm9-g9"] = 10
    case.hypervisor.away = "not started"
    failure = recovered(case)
    assert isinstance(getattr(failure, "value", None), HypervisorUnavailable)
    assert list(case.images.made) == ["vm9-g9"]


def test_two_vms_of_a_slot_never_share_a_look_that_is_older_than_their_deed(case: HostCase) -> None:
    make(case)
    case.hypervisor.hang = True
    case.keeper.put(lifecycle.release(case.vm, 110.0))
    case.run(1)
    assert case.vm.phase is VmPhase.DESTROYING
    case.hypervisor.release()
    case.run(1)
    assert case.keeper.vms == {}
