"""One life of each daemon: the real parts and link, put together as `hostmaster.daemon` and `bait.daemon` do."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from bait.follower import Follower
from bait.hearing import hear
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
from protocol.ids import BaitName, HostName, RequestId, VmName
from protocol.link import BaitEnd, HostEnd
from protocol.messages import BaitInventory, FromBait, FromHost, Renew, SrvMsg
from tests.simulation.clock import Crash, Life
from tests.simulation.hypervisor import Connection, Files, Libvirtd
from tests.simulation.journal import Disk, DiskJournal
from tests.simulation.lrms import Way
from tests.simulation.machines import Channels
from tests.simulation.net import NoTls
from wnod.config import Catalogue, Gate, HostmasterConfig

TTL_S = 90.0
RESETTLE_S = 2.0
VERIFY_EVERY_S = 600.0
RENEW_EVERY_S = 30.0
VOUCH_EVERY_S = 10.0

Trace = Callable[[str, str], None]


def _every(life: Life, seconds: float, call: Callable[[], None], failed: Callable[[Any], None]) -> None:
    loop = LoopingCall(call)
    loop.clock = life
    loop.start(seconds, now=False).addErrback(failed)


class HostDaemon:
    """One life of a hostmaster."""

    def __init__(
        self, life: Life, disk: Disk, config: HostmasterConfig, catalogue: Catalogue, libvirtd: Libvirtd,
        images: Any, guest: Callable[[str], Any], new_uuid: Callable[[], str],
        answers: Callable[[], Awaitable[bool]], observer: Any,
    ) -> None:  # fmt: skip
        self.life = life
        self.config = config
        self.observer = observer
        self.journal = DiskJournal(disk, "hostmaster", config.host, life)
        self.hypervisor = Connection(libvirtd, life)
        slots = tuple(VmName(slot.name) for slot in config.slots)
        files = Files(images, life)
        self.environments = Environments(catalogue, files, config.capacity, slots)
        self.guests = Channels(life, guest)
        self.keeper = Keeper(
            clock=life, host=config.host, journal=self.journal, hypervisor=self.hypervisor, images=files,
            guests=self.guests, times=Times(boot_limit_s=60.0, creates=3), ttl_s=TTL_S, specify=self._specify,
            observer=self, contact=Contact(life, self.journal, config.lrms.controller, answers),
        )  # fmt: skip
        self.baits = BaitService(life, self.keeper, self.environments.host, TTL_S, new_uuid)
        self.link = HostEnd(
            life, NoTls(), f"{config.host}:9610", config.host, self.journal.epoch,  # type: ignore[arg-type]
            frozenset(config.baits), self.baits,
        )  # fmt: skip
        self.baits.link = self
        self.guest_service = GuestService(life, self.keeper, self._configure, self.baits.finished)
        self.guests.listener = self.guest_service.heard

    def start(self) -> None:
        self.life.armed = True
        self.keeper.load()
        self.observer.loaded(self)
        self.hypervisor.watch(self._hint)
        self.link.start()
        _every(self.life, INVENTORY_EVERY_S, self.baits.send_inventories, self._broken)
        _every(self.life, INVENTORY_EVERY_S, self.keeper.kick_all, self._broken)
        self.keeper.look_for_contact()
        _every(self.life, LOOK_EVERY_S, self.keeper.look_for_contact, self._broken)
        _every(self.life, 1.0, self.baits.tell_capacity, self._broken)
        _every(self.life, VERIFY_EVERY_S, self._resettle, self._broken)
        self._resettle()

    def _broken(self, failure: Any) -> None:
        if not failure.check(Crash):
            Logger("hostmaster").failure("a loop has failed", failure)

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.hypervisor.leave()
        self.journal.unplug()

    # --- hostmaster.serve_baits.Link ---

    def send(self, bait: str, message: FromHost) -> None:
        self.observer.said(self.config.host, bait, message)
        self.link.send(bait, message)

    def connected_baits(self) -> frozenset[str]:
        return self.link.connected_baits()

    # --- as the daemon does it ---

    def _hint(self, uuid: str) -> None:
        if uuid == "":
            self._resettle()

    def _resettle(self) -> None:
        Deferred.fromCoroutine(self._settle()).addErrback(self._not_settled)

    async def _settle(self) -> None:
        try:
            await self.keeper.recover()
            await self.environments.verify()
            self.environments.obstacle = ""
        except HypervisorUnavailable:
            self.life.callLater(RESETTLE_S, self._resettle)
        self.baits.tell_capacity()

    def _not_settled(self, failure: Any) -> None:
        self._broken(failure)
        self.life.callLater(RESETTLE_S, self._resettle)

    def _specify(self, vm: Vm, overlay: str, channel: str) -> DomainSpec:
        site = specify.Site(self.config, Accelerator.TCG)
        return specify.specify(site, vm, self.environments.usable(vm.environment), overlay, channel)

    def _configure(self, vm: Vm) -> bytes:
        site = guestconf.Site("slurm", self.config.lrms.controller, ("vwn",), {}, ())
        address = specify.slot_of(self.config, vm).address
        return guestconf.lines(vm, site, address, account_of(vm.owner), {}, self.life.seconds())

    # --- keeper.Observer ---

    def changed(self, before: Vm | None, vm: Vm) -> None:
        self.observer.vm_changed(self, before, vm)
        self.baits.changed(before, vm)

    def forgotten(self, vm: Vm) -> None:
        self.observer.vm_forgotten(self, vm)
        self.baits.forgotten(vm)


class BaitDaemon:
    """One life of a bait."""

    def __init__(
        self, life: Life, disk: Disk, host: str, lrms: Way, new_id: Callable[[], str], rng: random.Random,
        observer: Any,
    ) -> None:  # fmt: skip
        self.life = life
        self.name = life.name
        self.host = host
        self.lrms = lrms
        self.observer = observer
        self.journal = DiskJournal(disk, "bait", life.name, life)
        self.view = HostView()
        self.follower = Follower(
            clock=life, bait=life.name, journal=self.journal, lrms=lrms, view=self.view, times=BaitTimes(),
            new_id=new_id, observer=self,
        )  # fmt: skip
        self.link = BaitEnd(
            life, NoTls(), f"{host}:9610", BaitName(life.name), self.journal.epoch,  # type: ignore[arg-type]
            HostName(host), self, rng=rng,
        )  # fmt: skip
        self.follower.link = self
        self.rescue = Rescue(life, lrms, self.follower)
        self.opening = Opening(life, life.name, lrms, self.view, Gate(), lambda is_open: None)
        self.interception = Interception(life, lrms.cluster, life.name, lrms, self.follower, (), new_id)
        self.hooks = HookServer(
            life, "/nowhere", self.interception.intercepted, 15.0, uid_of=lambda transport: int(transport.uid)
        )

    def start(self) -> None:
        self.life.armed = True
        self.follower.load()
        self.link.start()
        self.opening.kick()
        _every(self.life, RENEW_EVERY_S, self.renew, self._broken)
        _every(self.life, RESCUE_EVERY_S, self.rescue.look, self._broken)
        _every(self.life, VOUCH_EVERY_S, self.vouch, self._broken)

    def _broken(self, failure: Any) -> None:
        if not failure.check(Crash):
            Logger("bait").failure("a loop has failed", failure)

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.journal.unplug()

    # --- bait.follower.Link ---

    def send(self, message: FromBait) -> None:
        self.observer.said(self.name, self.host, message)
        self.link.send(message)

    # --- as the daemon does it ---

    def renew(self) -> None:
        self.link.send(BaitInventory(leases=tuple(self.follower.leases)))

    def vouch(self) -> None:
        leases = self.follower.vouched()
        if leases:
            self.link.send(Renew(id=RequestId(self.follower.new_id()), leases=leases))

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        self.observer.trace("", f"{self.name} connected to {peer}, resumed {resumed}")
        self.view.connected(resumed)
        self.renew()
        self.follower.kick_all()
        self.opening.kick()

    def disconnected(self, peer: str) -> None:
        self.observer.trace("", f"{self.name} disconnected from {peer}")
        self.view.disconnected()
        self.follower.kick_all()
        self.opening.kick()

    def received(self, peer: str, message: SrvMsg) -> None:
        hear(message, self.follower, self.opening, self.lrms)

    # --- follower.Observer ---

    def changed(self, before: Lease | None, lease: Lease) -> None:
        self.observer.lease_changed(self, before, lease)

    def forgotten(self, lease: Lease) -> None:
        self.observer.lease_forgotten(self, lease)
