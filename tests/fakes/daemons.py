"""The two daemons of a site in memory: their real parts, put together as `hostmaster.daemon` and `bait.daemon` do."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, LoopingCall

from bait.adoption import adopt
from bait.follower import Follower
from bait.hookserver import HookServer
from bait.hostview import HostView
from bait.interception import Interception
from bait.lease import Lease
from bait.lease import Times as BaitTimes
from bait.opening import Opening
from bait.rescue import LOOK_EVERY_S as RESCUE_EVERY_S
from bait.rescue import Rescue
from hostmaster import guestconf, specify
from hostmaster.accounts import account_of
from hostmaster.contact import LOOK_EVERY_S, Contact
from hostmaster.environments import Environments
from hostmaster.keeper import Keeper
from hostmaster.lifecycle import Times, Vm
from hostmaster.serve_baits import INVENTORY_EVERY_S, BaitService
from hostmaster.serve_guests import GuestService
from hostmaster.world import Accelerator, DomainSpec, HypervisorUnavailable
from protocol.ids import LeaseId, RequestId, VmName
from protocol.messages import BaitInventory, FromBait, FromHost, HostInventory, Renew
from tests.fakes.guests import FakeGuests
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.images import FakeImages
from tests.fakes.lrms import FakeLrms
from tests.fakes.wire import MortalClock, Wire
from wnod.config import Catalogue, Gate, HostmasterConfig, Rule
from wnod.journal import Journal

HOST, BAIT = "h1", "bait1"
TTL_S = 90.0


class HostDaemon:
    """One life of a hostmaster."""

    def __init__(
        self, clock: Clock, path: Path, config: HostmasterConfig, catalogue: Catalogue, hypervisor: FakeHypervisor,
        images: FakeImages, wire: Wire, ids: Callable[[], str], committed: Callable[[], None],
        records: dict[str, Vm], answers: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self.clock = MortalClock(clock)
        self.config = config
        self.records = records
        self.wire = wire
        self.armed = False
        self.journal = Journal(str(path), "hostmaster", HOST, lambda s: committed() if self.armed else None)
        slots = tuple(VmName(slot.name) for slot in config.slots)
        self.environments = Environments(catalogue, images, config.capacity, slots)
        self.guests = FakeGuests()
        self.keeper = Keeper(
            clock=self.clock, host=HOST, journal=self.journal, hypervisor=hypervisor, images=images, guests=self.guests,
            times=Times(boot_limit_s=60.0), ttl_s=TTL_S, specify=self._specify, observer=self,
            contact=Contact(self.clock, self.journal, config.lrms.controller, answers),
        )  # fmt: skip
        self.baits = BaitService(self.clock, self.keeper, self.environments.host, TTL_S, ids)
        self.baits.link = self
        self.guest_service = GuestService(self.clock, self.keeper, self._configure, self.baits.finished)
        self.guests.listener = self.guest_service.heard
        self.hypervisor = hypervisor
        self._loops: list[LoopingCall] = []

    def start(self) -> None:
        self.armed = True
        self.keeper.load()
        self.records.update({vm.key: vm for vm in self.keeper.vms.values()})
        self.hypervisor.watch(self._hint)
        self._every(INVENTORY_EVERY_S, self.baits.send_inventories)
        self._every(1.0, self.baits.tell_capacity)
        self._every(LOOK_EVERY_S, self.keeper.look_for_contact)
        self._every(600.0, self._resettle)
        self._resettle()

    def _every(self, seconds: float, call: Callable[[], None]) -> None:
        loop = LoopingCall(call)
        loop.clock = self.clock
        loop.start(seconds, now=False).addErrback(lambda failure: None)  # a Crash
        self._loops.append(loop)

    def stop_loops(self) -> None:
        for loop in self._loops:
            if loop.running:
                loop.stop()

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.armed = False
        self.clock.die()
        self.guests.listener = None
        self.journal.close()

    # --- protocol.link -------------------------------------------------------------------------------

    def send(self, bait: str, message: FromHost) -> None:
        if not self.clock.dead:
            self.wire.send("bait", message)

    def connected_baits(self) -> frozenset[str]:
        return frozenset({BAIT}) if self.wire.up else frozenset()

    # --- as the daemon does it --------------------------------------------------------------------------

    def _hint(self, uuid: str) -> None:
        if uuid == "":
            self._resettle()

    def _resettle(self) -> None:
        if not self.clock.dead:
            Deferred.fromCoroutine(self._settle()).addErrback(lambda failure: None)  # a Crash

    async def _settle(self) -> None:
        try:
            await self.keeper.recover()
            await self.environments.verify()
            self.environments.obstacle = ""
        except HypervisorUnavailable:
            self.clock.callLater(2.0, self._resettle)
        self.baits.tell_capacity()

    def _specify(self, vm: Vm, overlay: str, channel: str) -> DomainSpec:
        site = specify.Site(self.config, Accelerator.TCG)
        return specify.specify(site, vm, self.environments.usable(vm.environment), overlay, channel)

    def _configure(self, vm: Vm) -> bytes:
        site = guestconf.Site("slurm", self.config.lrms.controller, ("vwn",), {}, ())
        address = specify.slot_of(self.config, vm).address
        return guestconf.lines(vm, site, address, account_of(vm.owner), {}, self.clock.seconds())

    def changed(self, before: Vm | None, vm: Vm) -> None:
        self.records[vm.key] = vm
        self.baits.changed(before, vm)

    def forgotten(self, vm: Vm) -> None:
        self.baits.forgotten(vm)


class BaitDaemon:
    """One life of a bait."""

    def __init__(
        self, clock: Clock, path: Path, lrms: FakeLrms, rules: tuple[Rule, ...], gate: Gate, wire: Wire,
        ids: Callable[[], str], uid_of: Callable[[Any], int], committed: Callable[[], None],
    ) -> None:  # fmt: skip
        self.clock = MortalClock(clock)
        self.wire = wire
        self.lrms = lrms
        self.armed = False
        self.journal = Journal(str(path), "bait", BAIT, lambda s: committed() if self.armed else None)
        self.view = HostView()
        self.follower = Follower(
            clock=self.clock, bait=BAIT, journal=self.journal, lrms=lrms, view=self.view, times=BaitTimes(),
            new_id=ids, observer=self,
        )  # fmt: skip
        self.follower.link = self
        self.opening = Opening(self.clock, BAIT, lrms, self.view, gate, lambda is_open: None)
        self.interception = Interception(self.clock, lrms.cluster, BAIT, lrms, self.follower, rules, ids)
        self.hooks = HookServer(self.clock, "/nowhere", self.interception.intercepted, 15.0, uid_of=uid_of)
        self._loop = LoopingCall(self.renew)
        self._vouching = LoopingCall(self.vouch)
        self.rescue = Rescue(self.clock, lrms, self.follower)
        self._rescuing = LoopingCall(self.rescue.look)

    def start(self) -> None:
        self.armed = True
        self.follower.load()
        self.opening.kick()
        self._loop.clock = self.clock
        self._loop.start(30.0, now=False).addErrback(lambda failure: None)
        self._vouching.clock = self.clock
        self._vouching.start(10.0, now=False).addErrback(lambda failure: None)
        self._rescuing.clock = self.clock
        self._rescuing.start(RESCUE_EVERY_S, now=False).addErrback(lambda failure: None)

    def stop_loops(self) -> None:
        for loop in (self._loop, self._vouching, self._rescuing):
            if loop.running:
                loop.stop()
        Deferred.fromCoroutine(self.opening.duties.stop())

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.armed = False
        self.clock.die()
        self.journal.close()

    # --- as the daemon does it --------------------------------------------------------------------------

    def send(self, message: FromBait) -> None:
        if not self.clock.dead:
            self.wire.send("host", message)

    def renew(self) -> None:
        self.send(BaitInventory(leases=tuple(self.follower.leases)))

    def vouch(self) -> None:
        leases = self.follower.vouched()
        if leases:
            self.send(Renew(id=RequestId("f" * 32), leases=leases))

    def connected(self, resumed: bool) -> None:
        self.view.connected(resumed)
        self.renew()
        self.follower.kick_all()
        self.opening.kick()

    def disconnected(self) -> None:
        self.view.disconnected()
        self.follower.kick_all()
        self.opening.kick()

    def received(self, message: FromHost) -> None:
        lease = self.follower.leases.get(getattr(message, "lease", LeaseId("")))
        for touched in self.view.heard(message, lease.target if lease is not None else None):
            self.follower.kick(touched)
        if isinstance(message, HostInventory):
            for vm in message.vms:
                if vm.lease not in self.follower.leases:
                    adopt(self.follower, self.lrms, vm)
        self.opening.kick()

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """Nobody counts here."""

    def forgotten(self, lease: Lease) -> None:
        """Nobody counts here."""
