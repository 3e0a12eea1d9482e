"""The two daemons of a site in memory: their real cores on fakes, which may die after any commit."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from bait.core import BaitCore
from bait.rules.lease import Lease
from bait.rules.lease import Times as BaitTimes
from hostmaster.core import HostCore
from hostmaster.quarantine import DAY_S, Quarantine
from hostmaster.rules.lifecycle import Vm
from hostmaster.world import Accelerator, Artifacts
from protocol.messages import FromBait, FromHost
from tests.fakes.guests import FakeGuests
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.images import FakeImages
from tests.fakes.lrms import FakeLrms
from tests.fakes.wire import Crash, MortalClock, Wire
from wnod.config import Catalogue, Gate, Hook, HostmasterConfig, Rule
from wnod.journal import Journal

HOST, BAIT = "h1", "bait1"
BOOT_LIMIT_S = 60.0
AT_MOST_KEPT = 5


def _report(clock: MortalClock) -> Callable[[Failure], None]:
    """What fails because the daemon is dead is no news."""

    def report(failure: Failure) -> None:
        if not (clock.dead or failure.check(Crash)):
            Logger("daemon").failure("a loop has failed", failure)

    return report


async def _at_once(work: Callable[[], Any]) -> Any:
    return work()


class HostDaemon:
    """One life of a hostmaster."""

    def __init__(
        self, clock: Clock, path: Path, config: HostmasterConfig, catalogue: Catalogue, hypervisor: FakeHypervisor,
        images: FakeImages, wire: Wire, ids: Callable[[], str], committed: Callable[[], None],
        records: dict[str, Vm], answers: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self.clock = MortalClock(clock)
        self.records = records
        self.wire = wire
        self.armed = False
        self.journal = Journal(str(path), "hostmaster", HOST, lambda s: committed() if self.armed else None)
        self.guests = FakeGuests()
        report = _report(self.clock)
        self.core = HostCore(
            clock=self.clock, config=replace(config, times=replace(config.times, boot_limit_s=BOOT_LIMIT_S)),
            catalogue=catalogue, journal=self.journal, hypervisor=hypervisor, images=images, guests=self.guests,
            answers=answers, prove=self._prove, guest_files=dict, new_uuid=ids, observer=self, broken=report,
        )  # fmt: skip
        self.core.join(self)
        self.core.keeper.quarantine = Quarantine(
            self.clock, path.parent / "quarantine", hypervisor, images, AT_MOST_KEPT, 7 * DAY_S, _at_once
        )
        self.guests.listener = self.core.heard
        self.keeper, self.baits, self.environments = self.core.keeper, self.core.baits, self.core.environments

    def start(self) -> None:
        self.armed = True
        if self.core.keeper.quarantine is not None:
            self.core.keeper.quarantine.start()
        self.core.load()
        self.records.update({vm.key: vm for vm in self.keeper.vms.values()})
        self.core.start()
        self.core.resettle()  # libvirt is connected from the beginning

    def stop_loops(self) -> None:
        self.core.halt()

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.armed = False
        self.core.halt()  # the hypervisor goes on hinting to it
        self.clock.die()
        self.guests.listener = None
        self.journal.close()

    @staticmethod
    async def _prove(artifacts: Artifacts) -> Accelerator:
        return Accelerator.TCG

    # --- hostmaster.serve_baits.Link -----------------------------------------------------------------

    def send(self, bait: str, message: FromHost) -> None:
        if not self.clock.dead:
            self.wire.send("bait", message)

    def connected_baits(self) -> frozenset[str]:
        return frozenset({BAIT}) if self.wire.up else frozenset()

    # --- keeper.Observer -----------------------------------------------------------------------------

    def changed(self, before: Vm | None, vm: Vm) -> None:
        self.records[vm.key] = vm

    def forgotten(self, vm: Vm) -> None:
        """The last record is kept: it is what guests are judged by."""


class BaitDaemon:
    """One life of a bait."""

    def __init__(
        self, clock: Clock, path: Path, lrms: FakeLrms, rules: tuple[Rule, ...], gate: Gate, wire: Wire,
        ids: Callable[[], str], uid_of: Callable[[Any], int], committed: Callable[[], None],
    ) -> None:  # fmt: skip
        self.clock = MortalClock(clock)
        self.wire = wire
        self.armed = False
        self.journal = Journal(str(path), "bait", BAIT, lambda s: committed() if self.armed else None)
        self.core = BaitCore(
            clock=self.clock, bait=BAIT, cluster=lrms.cluster, journal=self.journal, lrms=lrms, times=BaitTimes(),
            gate=gate, rules=rules, hook=Hook(socket="/nowhere"), new_id=ids, observer=self,
            broken=_report(self.clock), uid_of=uid_of,
        )  # fmt: skip
        self.core.join(self)
        self.follower, self.opening, self.hooks = self.core.follower, self.core.opening, self.core.hooks

    def start(self) -> None:
        self.armed = True
        self.core.load()
        self.core.start()

    def stop_loops(self) -> None:
        self.core.halt()
        Deferred.fromCoroutine(self.opening.duties.stop())

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.armed = False
        self.core.halt()
        self.clock.die()
        self.journal.close()

    # --- bait.follower.Link --------------------------------------------------------------------------

    def send(self, message: FromBait) -> None:
        if not self.clock.dead:
            self.wire.send("host", message)

    # --- what the wire tells -------------------------------------------------------------------------

    def connected(self, resumed: bool) -> None:
        self.core.connected(HOST, 1, resumed)

    def disconnected(self) -> None:
        self.core.disconnected(HOST)

    def received(self, message: FromHost) -> None:
        self.core.received(HOST, message)

    # --- follower.Observer ---------------------------------------------------------------------------

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """Nobody counts here."""

    def forgotten(self, lease: Lease) -> None:
        """Nobody counts here."""
