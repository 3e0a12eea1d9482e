"""The hostmaster daemon: builds the parts, starts them in order, and answers what people ask of it."""

import os
import time
import uuid as uuids
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from hostmaster import accelerator, contact, guestconf, specify
from hostmaster.accounts import account_of
from hostmaster.environments import Environments
from hostmaster.events import EventThread, Limits
from hostmaster.guests import GuestChannels
from hostmaster.hypervisor import LibvirtHypervisor
from hostmaster.images import LocalImages, Source
from hostmaster.keeper import Keeper
from hostmaster.lifecycle import Times, Vm
from hostmaster.numbers import Numbers
from hostmaster.serve_baits import INVENTORY_EVERY_S, BaitService
from hostmaster.serve_guests import GuestService
from hostmaster.world import DomainRefused, DomainSpec, HypervisorUnavailable
from protocol.ids import EnvironmentName
from protocol.link import HostEnd, Tls
from protocol.messages import Code, VmPhase
from wnod.config import Catalogue, HostmasterConfig, load_catalogue
from wnod.journal import Journal
from wnod.metrics import Metrics, serve_metrics
from wnod.service import Context
from wnod.status import StatusServer

VERIFY_EVERY_S = 600.0
RESETTLE_S = 2.0
DAY_S = 86_400.0


class HostmasterDaemon:
    """One hostmaster. `start` returns when baits can connect; VMs are made once libvirt and an image are there."""

    def __init__(self, context: Context, config: HostmasterConfig) -> None:
        reactor = self.reactor = context.reactor
        self.config = config
        self.log = Logger("hostmaster")
        self._context = context
        os.makedirs(config.state, mode=0o711, exist_ok=True)
        os.makedirs(f"{config.state}/console", mode=0o711, exist_ok=True)
        catalogue = load_catalogue(config.catalogue)
        self.metrics = Metrics("hostmaster", config.host)
        self.journal = Journal(
            f"{config.state}/journal.sqlite", "hostmaster", config.host, committed=self.metrics.committed
        )
        slots = tuple(slot.name for slot in config.slots)
        self.libvirt_events = EventThread()
        self.hypervisor = LibvirtHypervisor(
            reactor,
            config.hypervisor.uri,
            Limits(create=config.times.create_limit_s),
            emulator=config.hypervisor.emulator,
        )
        self.sources = _sources(catalogue)
        self.images = LocalImages(reactor, config.state, self.sources, self._qemu_user)
        self.environments = Environments(catalogue, self.images, config.capacity, slots, now=reactor.seconds)
        self.guests = GuestChannels(reactor, f"{config.runtime}/guests", self._heard, self._qemu_uids)
        self.accelerator: accelerator.Proof | None = None
        self._build(slots)

    def _build(self, slots: tuple[str, ...]) -> None:
        config, reactor = self.config, self.reactor
        self.numbers = Numbers(self.metrics, self.environments)
        controller = config.lrms.controller
        hosts = {name: address for address, name in config.network.hosts.items()}
        self.keeper = Keeper(
            clock=reactor,
            host=config.host,
            journal=self.journal,
            hypervisor=self.hypervisor,
            images=self.images,
            guests=self.guests,
            times=Times(
                boot_limit_s=config.times.boot_limit_s,
                creates=1 + config.times.retries,
                fence_pause_s=config.times.fence_pause_s,
                fence_resume_s=config.times.fence_resume_s,
                gives_up_s=config.times.lrms_gives_up_s,
            ),
            ttl_s=config.times.lease_ttl_s,
            specify=self._specify,
            observer=self,
            contact=contact.Contact(reactor, self.journal, controller, contact.tcp(reactor, controller, hosts)),
        )
        self.baits = BaitService(
            clock=reactor,
            keeper=self.keeper,
            host=self.environments.host,
            ttl_s=config.times.lease_ttl_s,
            new_uuid=lambda: str(uuids.uuid4()),
            refused=lambda code: self.metrics.count("wnod_errors_total", code=code),
        )
        tls = Tls(config.tls.ca, config.tls.certificate, config.tls.key)
        names = frozenset(config.baits)
        self.link = HostEnd(reactor, tls, config.listen, config.host, self.journal.epoch, names, self.baits)
        self.baits.link = self.link
        self.guest_service = GuestService(reactor, self.keeper, self._configure, self.baits.finished)
        self.status = StatusServer(reactor, config.runtime, self.snapshot, self.explain, self.metrics)

    # --- service.Daemon ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the journal, listen, and begin to talk to libvirt."""
        if self.journal.epoch == 1:
            # A journal that begins may follow one that was lost: no generation of that one may come again (R15).
            self.journal.raise_number("generation", int(self.reactor.seconds()))
        self.metrics.set("wnod_epoch", self.journal.epoch)
        await self.status.start()
        if self.config.metrics is not None:
            await serve_metrics(self.reactor, self.config.metrics, self.metrics)
        self.libvirt_events.start()
        self.images.start()
        self.keeper.load()
        self.hypervisor.watch(self._hint)
        self.hypervisor.start()
        await self.link.start()
        self._every(INVENTORY_EVERY_S, self.baits.send_inventories)
        # A hint may be lost, so every VM is looked at anew from time to time.
        self._every(INVENTORY_EVERY_S, self.keeper.kick_all)
        self.keeper.look_for_contact()  # at once: a host that has lost its journal fences nothing before an answer
        self._every(contact.LOOK_EVERY_S, self.keeper.look_for_contact)
        self._every(VERIFY_EVERY_S, self._resettle)
        self._every(1.0, self.baits.tell_capacity)
        self._every(DAY_S / 4, self._prune_consoles)

    async def stop(self) -> None:
        """Stop serving. VMs run on: the next start finds them."""
        await self.link.stop()
        await self.keeper.duties.stop()
        await self.hypervisor.stop()
        self.guests.close_all()
        self.images.stop()
        self.libvirt_events.stop()
        await self.status.stop()
        self.journal.close()

    def reload(self) -> None:
        """Read the catalogue again; VMs that exist are not touched."""
        self.environments.catalogue = load_catalogue(self.config.catalogue)
        self.sources.clear()
        self.sources.update(_sources(self.environments.catalogue))
        self._resettle()

    def _every(self, seconds: float, call: Any) -> None:
        loop = LoopingCall(call)
        loop.clock = self.reactor
        loop.start(seconds, now=False).addErrback(lambda f: self._context.fatal(f.getErrorMessage()))

    # --- becoming ready ------------------------------------------------------------------------------

    def _hint(self, uuid: str) -> None:
        if uuid == "":
            self._resettle()

    def _resettle(self) -> None:
        Deferred.fromCoroutine(self._settle()).addErrback(self._not_settled)

    async def _settle(self) -> None:
        """Whatever a start, a libvirt that came back or a new catalogue makes necessary. Idempotent."""
        try:
            await self.keeper.recover()
            await self.environments.verify()
            await self._choose_accelerator()
        except HypervisorUnavailable as error:
            self.log.warn("libvirt does not answer, waiting: {error}", error=error)
            self.reactor.callLater(RESETTLE_S, self._resettle)
        self.baits.tell_capacity()

    def _not_settled(self, failure: Any) -> None:
        self.log.failure("cannot get ready, will try again", failure)
        self.reactor.callLater(RESETTLE_S, self._resettle)

    async def _choose_accelerator(self) -> None:
        artifacts = next(iter(self.environments.artifacts.values()), None)
        if artifacts is None:
            self.environments.obstacle = "no environment has a usable image"
            return
        hypervisor = self.config.hypervisor
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        circumstances = f"{boot} {hypervisor.uri} {artifacts.kernel}"
        try:
            proof = await accelerator.choose(
                hypervisor.accelerator, hypervisor.allow_tcg, self.hypervisor, artifacts, self.journal, circumstances
            )
        except DomainRefused as error:
            self.environments.obstacle = str(error)
            self.log.error("no VM can be made: {error}", error=error)
            return
        if proof != self.accelerator:
            self.log.info("accelerator {accelerator}: {reason}", accelerator=proof.accelerator, reason=proof.reason)
            self.metrics.set("wnod_hostmaster_accelerator_info", 1, accelerator=proof.accelerator)
        self.accelerator = proof
        self.environments.obstacle = ""

    # --- parts' questions ------------------------------------------------------------------------------

    def _specify(self, vm: Vm, overlay: str, channel: str) -> DomainSpec:
        if self.accelerator is None:
            raise HypervisorUnavailable("no accelerator has been proven yet")
        site = specify.Site(self.config, self.accelerator.accelerator)
        return specify.specify(site, vm, self.environments.usable(vm.environment), overlay, channel)

    def _configure(self, vm: Vm) -> bytes:
        config = self.config
        mounts = tuple(guestconf.Mount(m.type, m.source, m.target, m.options) for m in config.mounts)
        site = guestconf.Site(
            lrms=config.lrms.kind,
            controller=config.lrms.controller,
            features=config.lrms.features,
            hosts=config.network.hosts,
            mounts=mounts,
            gateway=config.network.gateway,
            dns=config.network.dns,
        )
        overhead = self.environments.host().overheads.get(vm.environment, 0)
        tags = self.environments.catalogue.environments[vm.environment].tags
        key = Path(config.lrms.munge_key).read_bytes()
        address = specify.slot_of(config, vm).address
        account = account_of(vm.owner)
        return guestconf.lines(vm, site, address, account, {"munge.key": key}, time.time(), overhead, tags)

    def _qemu_user(self) -> tuple[int, int]:
        return self.hypervisor.qemu_user

    def _qemu_uids(self) -> frozenset[int]:
        return frozenset({self._qemu_user()[0]})

    def _heard(self, key: str, said: Any) -> None:
        self.guest_service.heard(key, said)

    def changed(self, before: Vm | None, vm: Vm) -> None:
        """A record changed: tell the bait, count it."""
        if before is not None and before.phase is VmPhase.BOOTING and vm.phase in (VmPhase.READY, VmPhase.BOUND):
            self.environments.came_up(vm.environment)
        if (
            vm.phase is VmPhase.DESTROYING
            and vm.code is Code.BOOT_FAILED
            and before is not None
            and before.code is None
        ):
            self.environments.failed(vm.environment, vm.text)
        self.baits.changed(before, vm)
        self.numbers.changed(before, vm, self.keeper)

    def forgotten(self, vm: Vm) -> None:
        """A slot is free again."""
        self.baits.forgotten(vm)
        self.numbers.count(self.keeper)

    def _prune_consoles(self) -> None:
        oldest = time.time() - self.config.times.keep_console_days * DAY_S
        for path in Path(self.config.state, "console").glob("*.log*"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    # --- people's questions ------------------------------------------------------------------------------

    def snapshot(self) -> Mapping[str, Any]:
        """What `wnod status` and `wnod vms` show."""
        capacity = self.baits.capacity()
        chosen = self.accelerator
        return {
            "role": "hostmaster",
            "host": self.config.host,
            "epoch": self.journal.epoch,
            "accelerator": chosen.accelerator if chosen else None,
            "accelerator_reason": chosen.reason if chosen else self.environments.obstacle,
            "hypervisor": "away" if self.keeper.away else "ok",
            "capacity": {"total": _room(capacity.total), "free": _room(capacity.free)},
            "slots": capacity.slots,
            "baits": sorted(self.link.connected_baits()),
            "vms": [_row(vm) for vm in self.keeper.vms.values()],
            "environments": [
                {
                    "name": offer.environment,
                    "available": offer.available,
                    "text": offer.text,
                    "image": self.environments.catalogue.environments[offer.environment].sha256,
                    "largest": _room(offer.largest),
                }
                for offer in capacity.offers
            ],
        }

    def explain(self, job: str) -> Mapping[str, Any] | None:
        """What this host did for a job, step by step."""
        steps = self.journal.read_history(job)
        if not steps:
            return None
        return {"job": job, "text": steps[-1].text, "steps": [{"at": s.at, "text": s.text} for s in steps]}


def _sources(catalogue: Catalogue) -> dict[EnvironmentName, Source]:
    return {name: Source(entry.image, entry.sha256) for name, entry in catalogue.environments.items()}


def _room(room: Any) -> dict[str, int]:
    return {"cpus": room.cpus, "memory_mib": room.memory_mib, "disk_mib": room.disk_mib}


def _row(vm: Vm) -> dict[str, Any]:
    return {
        "vm": vm.vm,
        "generation": vm.generation,
        "uuid": vm.uuid,
        "phase": vm.phase,
        "lease": vm.lease,
        "run": str(vm.bound or vm.asked.next()),
        "owner": vm.owner,
        "environment": vm.environment,
        "shape": _room(vm.shape),
        "since": vm.since,
        "text": vm.text if vm.fenced is None else "paused: no contact with the LRMS",
    }
