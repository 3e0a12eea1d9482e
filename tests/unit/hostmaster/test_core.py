"""The hostmaster's core on fakes: when it is ready, what it offers, and what it does when something is broken."""

from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from hostmaster.core import RESETTLE_S, TELL_EVERY_S, UNSURE_S, VERIFY_EVERY_S, HostCore
from hostmaster.numbers import Numbers
from hostmaster.rules.golden import Kind
from hostmaster.rules.lifecycle import Vm
from hostmaster.rules.pool import Line
from hostmaster.serve_baits import INVENTORY_EVERY_S
from hostmaster.world import Accelerator, Artifacts, DomainRefused, HypervisorUnavailable, ImageRefused
from protocol.ids import Generation, Shape
from protocol.messages import FromHost, VmPhase
from tests.conftest import LoggedFailures
from tests.fakes.guests import FakeGuests
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.images import FakeImages, artifacts
from tests.fakes.site import CATALOGUE, CONFIG, DEBIAN
from tests.unit.hostmaster.records import a_vm, lease_id
from wnod.duties import Next
from wnod.journal import Journal
from wnod.metrics import Metrics


class Case:
    """A core, everything that it was built from, and what it reported."""

    def __init__(self, path: Path, generations_above: int = 0) -> None:
        self.clock = Clock()
        self.hypervisor = FakeHypervisor(self.clock)
        self.images = FakeImages({DEBIAN: artifacts()})
        self.guests = FakeGuests()
        self.no = ""
        """Why no accelerator works."""
        self.bug: Exception | None = None
        self.proofs = 0
        self.proving: Deferred[None] | None = None
        """Until it fires, a proof is under way."""
        self.broken: list[Failure] = []
        self.journal = Journal(str(path / "journal.sqlite"), "hostmaster", CONFIG.host)
        self.core = HostCore(
            clock=self.clock, config=CONFIG, catalogue=CATALOGUE, journal=self.journal, hypervisor=self.hypervisor,
            images=self.images, guests=self.guests, answers=self._answers, prove=self._prove, guest_files=dict,
            new_uuid=lambda: "00000000-0000-4000-8000-000000000000", observer=self, broken=self.broken.append,
            generations_above=generations_above,
        )  # fmt: skip
        self.core.join(self)
        self.guests.listener = self.core.heard
        self.core.load()
        self.core.start()

    async def _answers(self) -> bool:
        return True

    async def _prove(self, artifacts: Artifacts) -> Accelerator:
        self.proofs += 1
        if self.proving is not None:
            await self.proving
        if self.bug is not None:
            raise self.bug
        if self.no:
            raise DomainRefused(self.no)
        return Accelerator.TCG

    def connected_baits(self) -> frozenset[str]:
        return frozenset()

    def send(self, bait: str, message: FromHost) -> None:
        raise AssertionError("nobody is connected")

    def changed(self, before: Vm | None, vm: Vm) -> None:
        raise AssertionError("there is no VM")

    forgotten = changed  # type: ignore[assignment]

    def libvirt_is_there(self) -> None:
        self.hypervisor._hint("")
        self.clock.pump([0.0] * 10)

    def offered(self) -> tuple[bool, str]:
        """Whether the environment is, and if not why."""
        (offer,) = self.core.baits.capacity().offers
        return offer.available, offer.text


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.core.halt()
    case.journal.close()


def test_nothing_is_offered_before_libvirt_is_there_and_all_of_it_then(case: Case) -> None:
    case.clock.advance(10.0)
    assert case.offered() == (False, "images are being verified")
    case.libvirt_is_there()
    assert case.offered() == (True, "")
    assert case.core.accelerator is Accelerator.TCG


def test_a_hypervisor_that_was_once_too_late_is_asked_again_though_there_is_no_vm(case: Case) -> None:
    """The host would have been closed until its images are verified again."""
    case.libvirt_is_there()
    case.hypervisor.away = "too late"
    asked = Deferred.fromCoroutine(case.core.keeper.look.get())
    case.clock.advance(0)
    assert asked.addErrback(lambda failure: failure.trap(HypervisorUnavailable)).called
    case.hypervisor.away = ""
    assert not case.core.baits.capacity().serving
    case.clock.pump([INVENTORY_EVERY_S, 0.0, 0.0])
    assert case.core.baits.capacity().serving


def test_a_long_absence_of_the_hypervisor_is_asked_about_by_one_only(case: Case) -> None:
    case.hypervisor.away = "not started"
    for _ in range(10):
        case.core.resettle()
        case.clock.pump([0.0] * 3)
    asked = len(case.hypervisor.calls)
    case.clock.pump([RESETTLE_S, 0.0, 0.0])
    assert case.hypervisor.calls[asked:] == ["domains"]


def test_two_reasons_to_get_ready_prove_one_accelerator_after_the_other(case: Case) -> None:
    """Two at once remove each other's probe guest: neither ends as it should, and the host takes the slow one."""
    case.proving = Deferred()
    case.libvirt_is_there()
    case.core.resettle()
    case.libvirt_is_there()
    assert case.proofs == 1
    proving, case.proving = case.proving, None
    proving.callback(None)
    case.clock.pump([0.0] * 10)
    assert (case.proofs, case.core.accelerator) == (2, Accelerator.TCG)


def test_a_core_that_stops_while_it_gets_ready_touches_its_journal_no_more(case: Case) -> None:
    case.proving = Deferred()
    case.libvirt_is_there()
    stopped = Deferred.fromCoroutine(case.core.stop())
    assert stopped.called
    assert case.core.accelerator is None


def test_a_hypervisor_that_is_back_has_each_vm_seen_to_once(case: Case) -> None:
    case.libvirt_is_there()
    case.core.keeper.vms[Generation(1)] = a_vm(phase=VmPhase.GONE, since=case.clock.seconds())
    steps: list[str] = []
    step = case.core.keeper.duties.step

    def counted(key: str) -> Awaitable[Next]:
        steps.append(key)
        return step(key)

    case.core.keeper.duties.step = counted
    case.hypervisor.away = "restarting"
    case.libvirt_is_there()  # libvirt says that all may have changed also when it goes
    case.hypervisor.away = ""
    case.libvirt_is_there()
    case.clock.pump([RESETTLE_S, 0.0, 0.0, 0.0])
    assert steps == ["1"]


def test_a_hint_of_one_domain_is_no_reason_to_prove_everything_anew(case: Case) -> None:
    case.libvirt_is_there()
    case.hypervisor._hint("00000000-0000-4000-8000-000000000001")
    case.clock.advance(0)
    assert case.proofs == 1


def test_without_an_accelerator_nothing_is_offered_and_everybody_hears_why(case: Case) -> None:
    case.no = "only TCG works"
    case.libvirt_is_there()
    assert case.offered() == (False, "only TCG works")
    case.no = ""
    case.clock.pump([VERIFY_EVERY_S, 0.0, 0.0, 0.0])
    assert case.offered() == (True, "")


def test_what_nobody_foresaw_is_reported_and_tried_again(case: Case, logged_failures: LoggedFailures) -> None:
    case.bug = ZeroDivisionError("nobody foresaw it")
    case.libvirt_is_there()
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
    case.bug = None
    case.clock.pump([RESETTLE_S, 0.0, 0.0, 0.0])
    assert case.offered() == (True, "")


def test_a_daemon_that_slept_ends_no_lease_before_it_has_heard_its_baits(case: Case) -> None:
    case.libvirt_is_there()
    case.core.keeper._renewed[lease_id()] = case.clock.seconds()
    case.clock.rightNow += 1000.0
    case.clock.advance(0)
    assert case.core.keeper._renewed[lease_id()] >= case.clock.seconds() - 10.0


def test_no_vm_is_made_before_it_is_known_what_of(case: Case) -> None:
    assert not case.core.keeper.able()
    case.libvirt_is_there()
    assert case.core.keeper.able()


def test_an_image_whose_file_system_was_away_is_offered_soon_after_it_is_back(case: Case) -> None:
    """It took the ten minutes to the next look at all images."""
    case.images.unreadable[DEBIAN] = "root.squashfs: input/output error"
    case.libvirt_is_there()
    assert case.offered() == (False, "root.squashfs: input/output error")
    case.images.unreadable.clear()
    case.clock.pump([UNSURE_S, *[0.0] * 5])
    assert case.offered() == (True, "")


def test_a_loop_that_fails_is_reported_once_and_the_others_go_on(case: Case) -> None:
    calls: list[float] = []
    case.core.every(1.0, lambda: 1 / 0)
    case.core.every(1.0, lambda: calls.append(case.clock.seconds()))
    case.clock.pump([TELL_EVERY_S] * 3)
    assert [failure.type for failure in case.broken] == [ZeroDivisionError]
    assert calls == [1.0, 2.0, 3.0]


def test_a_core_that_was_halted_begins_nothing_more(case: Case) -> None:
    case.core.halt()
    case.libvirt_is_there()
    case.clock.advance(VERIFY_EVERY_S)
    assert case.proofs == 0
    assert case.broken == []


def test_a_life_that_died_before_it_counted_gives_no_generation_of_the_lost_journal_to_the_next(tmp_path: Path) -> None:
    Journal(str(tmp_path / "journal.sqlite"), "hostmaster", CONFIG.host).close()
    case = Case(tmp_path, generations_above=1000)
    assert case.journal.next_number("generation") == 1001
    case.core.halt()
    case.journal.close()


@pytest.mark.parametrize(("life", "next_one"), [(1, 1001), (2, 1001)])
def test_a_journal_that_begins_counts_generations_above_those_of_a_lost_one(
    tmp_path: Path, life: int, next_one: int
) -> None:
    for number in range(life):
        case = Case(tmp_path, generations_above=1000 * (number + 1))
        found = case.journal.next_number("generation") if number == life - 1 else 0
        case.core.halt()
        case.journal.close()
    assert found == next_one


@pytest.mark.parametrize("lives_between", [0, 1])
def test_a_lost_journals_generations_do_not_come_again_when_the_clock_went_back_too(
    tmp_path: Path, lives_between: int
) -> None:
    """And libvirt shows no VM any more by which to know them."""
    case = Case(tmp_path, generations_above=1_700_000_000)
    with case.journal.transaction():
        highest = max(case.journal.next_number("generation") for _ in range(5000))
    case.core.halt()
    case.journal.close()
    for _ in range(2):  # it may be lost more than once
        for path in tmp_path.glob("journal.sqlite*"):
            if not path.name.endswith(".mark"):
                path.unlink()
        for _ in range(lives_between):  # dead before it counted
            Journal(str(tmp_path / "journal.sqlite"), "hostmaster", CONFIG.host).close()
        case = Case(tmp_path, generations_above=1_000)
        found = case.journal.next_number("generation")
        assert highest < found < highest + 10_000
        highest = found
        case.core.halt()
        case.journal.close()


def test_a_host_that_has_just_started_and_made_no_vm_yet_publishes_what_it_has(tmp_path: Path) -> None:
    case = Case(tmp_path)
    metrics = Metrics("hostmaster", CONFIG.host)
    Numbers(metrics, case.core.environments, case.core.keeper, case.core.stock)
    text = metrics.text().decode()
    for line in ('wnod_hostmaster_vms{phase="started"} 0.0', 'wnod_hostmaster_capacity_cpus{kind="free"}'):
        assert any(found.startswith(line) for found in text.splitlines()), text


def test_what_is_made_in_advance_gets_another_name_when_a_file_that_it_is_given_changes(case: Case) -> None:
    kind = Kind(DEBIAN, Shape(cpus=1, memory_mib=512, disk_mib=512))
    case.core.background.lines = lambda: [Line(kind, 1, 1)]
    files = {"slurm.conf": b"one"}
    case.core.lrms_files = lambda: dict(files)
    case.libvirt_is_there()
    names = [case.core.background.view().names[case.core.config.slots[0].name, kind]]
    for content in (b"one", b"two", b"one"):
        files["slurm.conf"] = content
        case.core.background.beat()
        names.append(case.core.background.view().names[case.core.config.slots[0].name, kind])
    assert names[0] == names[1] == names[3] != names[2]


def test_while_files_cannot_be_read_nobody_can_say_what_is_made_in_advance(case: Case) -> None:
    kind = Kind(DEBIAN, Shape(cpus=1, memory_mib=512, disk_mib=512))
    case.core.background.lines = lambda: [Line(kind, 1, 1)]
    case.libvirt_is_there()
    assert case.core.background.view().names

    def refuse() -> dict[str, bytes]:
        raise ImageRefused("lrms.guest_files /no: not there")

    case.core.lrms_files = refuse
    case.core.background.beat()
    assert case.core.background.view().names == {}
    case.core.lrms_files = dict
    case.core.background.beat()
    assert case.core.background.view().names


def test_the_files_that_guests_are_given_are_looked_at_once_for_all_who_ask_between_two_beats(case: Case) -> None:
    looks: list[float] = []
    case.libvirt_is_there()
    case.core.lrms_files = lambda: looks.append(case.clock.seconds()) or {}  # type: ignore[func-returns-value]
    case.core.background.told = case.core.lrms_files
    case.core.background.beat()
    for _ in range(10):
        case.core.background.view()
    assert len(looks) == 1
    case.core.background.beat()
    case.core.background.view()
    assert len(looks) == 2
