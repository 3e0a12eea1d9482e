"""A hostmaster without its link and its sockets, for tests of the parts that decide and act."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from hostmaster.keeper import Keeper
from hostmaster.recovery import Recovery
from hostmaster.rules.lifecycle import Times, Vm
from hostmaster.rules.specify import Site, specify
from hostmaster.serve_baits import BaitService
from hostmaster.serve_guests import GuestService
from hostmaster.world import Accelerator, DomainSpec
from protocol.ids import EnvironmentName
from protocol.messages import FromHost
from tests.fakes.guests import FakeGuests
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.images import FakeImages, artifacts
from tests.fakes.site import CONFIG
from tests.fakes.wire import MortalClock
from tests.unit.hostmaster.records import DEBIAN, a_host
from wnod.journal import Journal

M = TypeVar("M")


class HostCase:
    """One life of a hostmaster; `sent` is what it told its baits."""

    def __init__(self, path: Path, clock: Clock, hypervisor: FakeHypervisor, images: FakeImages) -> None:
        self.clock, self.hypervisor, self.images = clock, hypervisor, images
        self.mortal = MortalClock(clock)
        self.journal = Journal(str(path), "hostmaster", "h1")
        self.guests = FakeGuests()
        self.offered = a_host()
        self.sent: list[tuple[str, FromHost]] = []
        self.baits_there = frozenset({"bait1"})
        self.changes: list[str] = []
        self.keeper = Keeper(
            clock=self.mortal, host="h1", journal=self.journal, hypervisor=hypervisor, images=images,
            guests=self.guests, times=Times(boot_limit_s=60.0), ttl_s=90.0, specify=self._specify, observer=self,
        )  # fmt: skip
        self._uuids = 0
        self.baits = BaitService(self.mortal, self.keeper, lambda: self.offered, 90.0, self._uuid)
        self.baits.link = self
        self.ends: list[tuple[str, int | None]] = []
        self.service = GuestService(
            self.mortal,
            self.keeper,
            lambda vm: b"configuration\n",
            lambda vm, status: self.ends.append((vm.key, status)),
        )
        self.guests.listener = self.service.heard
        self.keeper.load()
        self.keeper.away, self.keeper.compared = False, True
        hypervisor.watch(self._hint)

    def _hint(self, uuid: str) -> None:
        """As the core does when the hypervisor is back."""
        if uuid == "":
            Deferred.fromCoroutine(Recovery(self.keeper).recover())

    def _uuid(self) -> str:
        self._uuids += 1
        return f"00000000-0000-4000-8000-{self._uuids:012x}"

    def _specify(self, vm: Vm, overlay: str, channel: str) -> DomainSpec:
        return specify(Site(CONFIG, Accelerator.TCG), vm, artifacts(), overlay, channel)

    # --- edges ---

    def send(self, bait: str, message: FromHost) -> None:
        self.sent.append((bait, message))

    def connected_baits(self) -> frozenset[str]:
        return self.baits_there

    def changed(self, before: Vm | None, vm: Vm) -> None:
        self.changes.append(f"{vm.key} {vm.phase}")
        self.baits.changed(before, vm)

    def forgotten(self, vm: Vm) -> None:
        self.changes.append(f"{vm.key} forgotten")
        self.baits.forgotten(vm)

    # --- for tests ---

    def take(self, kind: type[M], bait: str = "bait1") -> list[M]:
        """Messages of that kind sent to that bait since the last `take` of anything."""
        return [message for message in self.take_all(bait) if isinstance(message, kind)]

    def take_all(self, bait: str = "bait1") -> list[FromHost]:
        """All messages sent to that bait since the last `take` of anything."""
        sent, self.sent = self.sent, []
        return [message for to, message in sent if to == bait]

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass in small steps."""
        for _ in range(20):
            self.clock.advance(0)
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)

    @property
    def vm(self) -> Vm:
        """The only VM."""
        (vm,) = self.keeper.vms.values()
        return vm


@contextmanager
def host_case(path: Path) -> Iterator[HostCase]:
    """A host that has just started, at time 100."""
    clock = Clock()
    clock.advance(100)
    images = FakeImages({EnvironmentName(DEBIAN): artifacts()})
    case = HostCase(path, clock, FakeHypervisor(clock), images)
    yield case
    case.journal.close()


def again(case: HostCase, *, lose_journal: bool = False) -> HostCase:
    """The daemon dies and starts again over the same disk, hypervisor and clock."""
    case.journal.close()
    case.mortal.die()
    for path in Path(case.journal.path).parent.glob("journal*") if lose_journal else ():
        path.unlink()
    return HostCase(Path(case.journal.path), case.clock, case.hypervisor, case.images)
