"""One life of each daemon: its real core on the simulation's world, with every step told to an observer."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from twisted.logger import Logger
from twisted.python.failure import Failure

from bait.core import BaitCore
from bait.rules.lease import Lease
from bait.rules.lease import Times as BaitTimes
from hostmaster.core import HostCore
from hostmaster.edges.accounts import account_of
from hostmaster.rules.lifecycle import Vm
from hostmaster.world import Accelerator, Artifacts
from protocol.ids import BaitName, HostName
from protocol.link import BaitEnd, HostEnd
from protocol.messages import FromBait, FromHost, SrvMsg
from tests.simulation.clock import Crash, Life
from tests.simulation.hypervisor import Connection, Files, Libvirtd
from tests.simulation.journal import Disk, DiskJournal
from tests.simulation.machines import Channels
from tests.simulation.net import NoTls
from tests.simulation.way import Way
from wnod.config import Catalogue, Gate, Hook, HostmasterConfig

BOOT_LIMIT_S = 60.0
RETRIES = 2


def _report(daemon: str, give_up: Callable[[], None] = lambda: None) -> Callable[[Failure], None]:
    """A dead daemon's loops fail by its death, which is no news; any other failure ends a daemon."""

    def report(failure: Failure) -> None:
        if not failure.check(Crash):  # type: ignore[no-untyped-call]
            Logger(daemon).failure("a loop has failed", failure)
            give_up()

    return report


class HostDaemon:
    """One life of a hostmaster."""

    def __init__(
        self, life: Life, disk: Disk, config: HostmasterConfig, catalogue: Catalogue, libvirtd: Libvirtd,
        images: Any, guest: Callable[[str], Any], new_uuid: Callable[[], str],
        answers: Callable[[], Awaitable[bool]], observer: Any,
    ) -> None:  # fmt: skip
        self.life = life
        self.name = config.host
        self.observer = observer
        self.journal = DiskJournal(disk, "hostmaster", config.host, life)
        self.hypervisor = Connection(libvirtd, life)
        self.guests = Channels(life, guest)
        self.core = HostCore(
            clock=life,
            config=replace(config, times=replace(config.times, boot_limit_s=BOOT_LIMIT_S, retries=RETRIES)),
            catalogue=catalogue, journal=self.journal, hypervisor=self.hypervisor, images=Files(images, life),
            guests=self.guests, answers=answers, prove=self._prove, guest_files=dict, new_uuid=new_uuid,
            observer=self, broken=_report("hostmaster", lambda: observer.gives_up("host")),
            account=account_of,
        )  # fmt: skip
        self.keeper = self.core.keeper
        self.guests.listener = self.core.heard
        self.link = HostEnd(
            life, NoTls(), f"{config.host}:9610", config.host, self.journal.epoch,  # type: ignore[arg-type]
            frozenset(config.baits), self.core.baits,
        )  # fmt: skip
        self.core.join(self)

    def start(self) -> None:
        self.life.armed = True
        self.core.load()
        self.observer.loaded(self)
        self.link.start()
        self.core.start()
        self.core.resettle()  # libvirt is connected from the beginning

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.hypervisor.leave()
        self.journal.unplug()

    @staticmethod
    async def _prove(artifacts: Artifacts) -> Accelerator:
        return Accelerator.NONE  # a domain's text without devices, which nothing here would read

    # --- hostmaster.serve_baits.Link ---

    def send(self, bait: str, message: FromHost) -> None:
        self.observer.said(self.name, bait, message)
        self.link.send(bait, message)

    def connected_baits(self) -> frozenset[str]:
        return self.link.connected_baits()

    # --- keeper.Observer ---

    def changed(self, before: Vm | None, vm: Vm) -> None:
        self.observer.vm_changed(self, before, vm)

    def forgotten(self, vm: Vm) -> None:
        self.observer.vm_forgotten(self, vm)


class BaitDaemon:
    """One life of a bait."""

    def __init__(
        self, life: Life, disk: Disk, host: str, lrms: Way, new_id: Callable[[], str], rng: random.Random,
        observer: Any,
    ) -> None:  # fmt: skip
        self.life = life
        self.name = life.name
        self.host = host
        self.observer = observer
        self.journal = DiskJournal(disk, "bait", life.name, life)
        self.core = BaitCore(
            clock=life, bait=life.name, cluster=lrms.cluster, journal=self.journal, lrms=lrms, times=BaitTimes(),
            gate=Gate(), rules=(), hook=Hook(socket="/nowhere"), new_id=new_id, observer=self,
            broken=_report("bait", lambda: observer.gives_up("bait")), uid_of=lambda transport: int(transport.uid),
        )  # fmt: skip
        self.follower, self.opening, self.hooks = self.core.follower, self.core.opening, self.core.hooks
        self.link = BaitEnd(
            life, NoTls(), f"{host}:9610", BaitName(life.name), self.journal.epoch,  # type: ignore[arg-type]
            HostName(host), self, rng=rng,
        )  # fmt: skip
        self.core.join(self)

    def start(self) -> None:
        self.life.armed = True
        self.core.load()
        self.link.start()
        self.core.start()

    def die(self) -> None:
        """The process is gone; what it has on disk stays."""
        self.journal.unplug()

    # --- bait.follower.Link ---

    def send(self, message: FromBait) -> None:
        self.observer.said(self.name, self.host, message)
        self.link.send(message)

    # --- protocol.link.Listener ---

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        self.observer.trace("", f"{self.name} connected to {peer}, resumed {resumed}")
        self.core.connected(peer, epoch, resumed)

    def disconnected(self, peer: str) -> None:
        self.observer.trace("", f"{self.name} disconnected from {peer}")
        self.core.disconnected(peer)

    def received(self, peer: str, message: SrvMsg) -> None:
        self.core.received(peer, message)

    # --- follower.Observer ---

    def changed(self, before: Lease | None, lease: Lease) -> None:
        self.observer.lease_changed(self, before, lease)

    def forgotten(self, lease: Lease) -> None:
        self.observer.lease_forgotten(self, lease)
