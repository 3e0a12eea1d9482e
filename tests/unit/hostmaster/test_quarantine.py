"""VMs that are kept when they end: what is on disk afterwards, what is refused, and what goes by itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from hostmaster.administer import Administration
from hostmaster.quarantine import DAY_S, Kept, NotKept, Quarantine
from hostmaster.recovery import Recovery
from hostmaster.rules.lifecycle import Deed, Facts, Times, decide, may_start, release
from hostmaster.rules.vm import Keep
from hostmaster.world import DomainState
from protocol.guest import MayStart
from protocol.ids import BootId, VmName
from protocol.messages import Disposition, Error, Release, Released, VmPhase
from tests.fakes.guests import FakeGuests
from tests.unit.hostmaster.host_case import HostCase, again, host_case
from tests.unit.hostmaster.records import BOOT, OTHER_BOOT, RUN, a_request, a_vm, lease_id

WISH = Keep("root", "ticket 4711", 100.0)
GOING = a_vm(phase=VmPhase.DESTROYING, keep=WISH)
TIMES = Times()
OTHER = Kept(
    name="vm2-g1", vm="vm2", run="c/1.1", owner=1, environment="e", image="i", bait="b", lease="l", by="root", why="x",
    at=0.0, until=1e12,
)  # fmt: skip


def facts(domain: DomainState | None, overlay: bool | None = None) -> Facts:
    return Facts(now=200.0, domain=domain, overlay=overlay)


# --- decided ---------------------------------------------------------------------------------------------


def test_a_vm_that_is_to_be_kept_is_never_destroyed_nor_cleaned_away() -> None:
    for domain in (DomainState.RUNNING, DomainState.PAUSED):
        assert decide(GOING, facts(domain), TIMES).deed is Deed.KEEP
    assert decide(GOING, facts(DomainState.ABSENT, overlay=True), TIMES).deed is Deed.KEEP
    assert decide(GOING, facts(None), TIMES).deed is None
    assert decide(GOING, facts(DomainState.ABSENT, overlay=False), TIMES).vm.phase is VmPhase.GONE


def test_a_vm_that_has_stopped_by_itself_has_no_memory_to_keep() -> None:
    assert decide(GOING, facts(DomainState.STOPPED), TIMES).deed is Deed.DESTROY


def test_a_second_start_in_another_boot_marks_the_vm_to_be_kept() -> None:
    vm = a_vm(phase=VmPhase.STARTED, bound=RUN.next(), boot_id=BOOT)
    again = MayStart(BootId(OTHER_BOOT), 1, RUN.job, None, 1, vm.owner)
    verdict = may_start(vm, again, 5.0)
    assert not verdict.allowed
    assert verdict.vm.keep == Keep("wnod", "its run was about to start a second time, in another boot", 5.0)
    assert may_start(replace(vm, keep=WISH), again, 5.0).vm.keep == WISH
    assert may_start(replace(vm, boot_id=None), again, 5.0).vm.keep is None, "adopted: nobody knows its boot"


def test_a_release_leaves_the_wish_on_record() -> None:
    assert release(a_vm(keep=WISH), 5.0).keep == WISH


# --- done ------------------------------------------------------------------------------------------------


async def at_once(work: Callable[[], Any]) -> Any:
    return work()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[HostCase]:
    with host_case(tmp_path / "journal") as case:
        equip(case)
        yield case


def equip(case: HostCase, at_most: int = 2) -> Quarantine:
    directory = Path(case.journal.path).parent / "quarantine"
    quarantine = Quarantine(case.mortal, directory, case.hypervisor, case.images, at_most, 3 * DAY_S, at_once)
    quarantine.start()
    case.keeper.quarantine = quarantine
    return quarantine


def kept(case: HostCase) -> Quarantine:
    assert case.keeper.quarantine is not None
    return case.keeper.quarantine


def running(case: HostCase) -> None:
    case.baits.received("bait1", a_request())
    case.run(2)
    assert case.vm.phase is VmPhase.BOOTING


def let_go(case: HostCase, disposition: Disposition = Disposition.DESTROY) -> None:
    case.take_all()
    release = Release(id=a_request().id, lease=lease_id(9), disposition=disposition)
    case.baits.received("bait1", release)
    case.run(2)


def test_what_the_bait_wants_kept_is_kept_and_its_slot_is_free(case: HostCase) -> None:
    running(case)
    key, uuid = case.vm.key, case.vm.uuid
    let_go(case, Disposition.QUARANTINE)
    assert len(case.take(Released)) == 1
    assert case.keeper.vms == {}
    (one,) = kept(case).rows()
    assert (one["name"], one["by"], one["owner"]) == (key, "bait1", 1000)
    assert f"save {uuid}" in " ".join(case.hypervisor.calls)
    assert f"destroy {uuid}" not in case.hypervisor.calls
    assert case.images.made == {}
    assert [Path(path).name for path in case.images.moved] == ["overlay"]
    assert isinstance(case.guests, FakeGuests)
    assert case.guests.channels == {}
    story = [step.text for step in case.journal.read_history(RUN.job)]
    assert any("is to be kept, says bait1" in text for text in story)
    assert any(f"kept in quarantine as {key}" in text for text in story)


@pytest.mark.parametrize("at_most", [0, 1])
def test_what_cannot_be_kept_is_refused_and_stays(case: HostCase, at_most: int) -> None:
    quarantine = equip(case, at_most)
    quarantine.kept = (OTHER,) * at_most
    running(case)
    let_go(case, Disposition.QUARANTINE)
    (error,) = case.take(Error)
    assert "quarantine.at_most" in error.text
    assert case.vm.phase is VmPhase.BOOTING


def test_a_quarantine_that_became_full_meanwhile_keeps_the_earlier_and_lets_the_vm_go(case: HostCase) -> None:
    running(case)
    case.keeper.put(replace(case.vm, keep=WISH))
    kept(case).at_most = 0
    let_go(case)
    assert case.keeper.vms == {}
    assert case.images.made == {}
    assert any("not kept: " in step.text for step in case.journal.read_history(RUN.job))


def test_a_vm_whose_memory_cannot_be_saved_leaves_its_disk(case: HostCase) -> None:
    running(case)
    case.keeper.put(replace(case.vm, keep=WISH))
    case.hypervisor.vanish(case.vm.uuid)
    case.run(2)
    assert len(case.images.moved) == 1
    assert [one.why for one in kept(case).kept] == ["ticket 4711"]


def test_a_hostmaster_that_dies_while_it_keeps_a_vm_keeps_it_in_its_next_life(case: HostCase) -> None:
    running(case)
    case.keeper.put(replace(case.vm, keep=WISH))
    case.hypervisor.lose_answers = 1
    let_go(case)
    second = again(case)
    equip(second)
    Deferred.fromCoroutine(Recovery(second.keeper).recover())
    second.run(3)
    let_go(second)
    assert second.keeper.vms == {}
    assert [one.name for one in kept(second).kept] == ["vm1-g1"]
    second.journal.close()


def test_what_is_kept_goes_after_its_days_and_not_before(case: HostCase) -> None:
    running(case)
    case.keeper.put(replace(case.vm, keep=WISH))
    let_go(case)
    quarantine = kept(case)
    case.clock.advance(3 * DAY_S - 10)
    Deferred.fromCoroutine(quarantine.expire())
    assert len(quarantine.kept) == 1
    case.clock.advance(11)
    Deferred.fromCoroutine(quarantine.expire())
    assert quarantine.kept == ()
    assert list(quarantine.directory.iterdir()) == []


def test_a_directory_that_nobody_described_is_left_alone(case: HostCase) -> None:
    quarantine = kept(case)
    (quarantine.directory / "notes").mkdir()
    (quarantine.directory / "bad").mkdir()
    (quarantine.directory / "bad" / "facts.json").write_text("{")
    quarantine.start()
    assert quarantine.kept == ()
    assert oct(quarantine.directory.stat().st_mode & 0o777) == "0o700"


# --- asked by an administrator -----------------------------------------------------------------------------


def ask(case: HostCase, act: str, **arguments: str) -> tuple[int, Any]:
    return Administration(case.keeper, 90.0).acts()[act](arguments, "root")


def test_an_administrator_has_a_vm_kept_and_drops_it(case: HostCase) -> None:
    running(case)
    assert ask(case, "keep", vm="12", why="miner?")[0] == 200
    assert ask(case, "keep", vm="vm7", why="x")[0] == 404
    assert ask(case, "keep", vm="vm1")[0] == 400
    let_go(case)
    assert ask(case, "drop", name="vm9-g9")[0] == 404
    assert ask(case, "drop", name="../vm1-g1")[0] == 404
    assert ask(case, "drop", name="vm1-g1") == (200, {"name": "vm1-g1"})
    case.run()
    assert kept(case).kept == ()


def test_a_host_that_keeps_nothing_says_so(case: HostCase) -> None:
    running(case)
    kept(case).at_most = 0
    code, answer = ask(case, "keep", vm="vm1", why="x")
    assert (code, "quarantine.at_most" in answer["error"]) == (409, True)
    case.keeper.quarantine = None
    assert ask(case, "keep", vm="vm1", why="x")[0] == 409


def test_two_that_come_at_once_do_not_both_get_the_last_place(case: HostCase) -> None:
    written: Deferred[None] = Deferred()

    async def slowly(work: Callable[[], Any]) -> Any:
        await written
        return work()

    quarantine = equip(case, at_most=1)
    quarantine.run = slowly
    first = Deferred.fromCoroutine(quarantine.keep(replace(GOING, uuid="1")))
    second = Deferred.fromCoroutine(quarantine.keep(replace(GOING, vm=VmName("vm2"), uuid="2")))
    assert isinstance(failed(second), NotKept)
    written.callback(None)
    failed(first)  # there is no such domain here
    assert "vm1-g1" in [one.name for one in quarantine.kept]
    assert quarantine.why_not() != ""


def failed(done: "Deferred[Any]") -> BaseException | None:
    got: list[BaseException] = []
    done.addErrback(lambda failure: got.append(failure.value))
    return got[0] if got else None


def test_what_cannot_be_described_leaves_no_directory_that_would_never_go(
    case: HostCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    quarantine = equip(case)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert isinstance(failed(Deferred.fromCoroutine(quarantine.keep(GOING))), NotKept)
    assert list(quarantine.directory.iterdir()) == []
