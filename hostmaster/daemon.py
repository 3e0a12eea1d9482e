"""The hostmaster daemon: puts the core on libvirt, files, sockets and TLS, and answers what people ask of it."""

import os
import time
import uuid as uuids
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from hostmaster import accelerator, contact
from hostmaster.administer import Administration
from hostmaster.core import HostCore
from hostmaster.edges import consoles
from hostmaster.edges.accounts import NameService
from hostmaster.edges.events import EventThread, Limits
from hostmaster.edges.guests import GuestChannels
from hostmaster.edges.hypervisor import LibvirtHypervisor
from hostmaster.edges.images import LocalImages, Source
from hostmaster.edges.qemuuser import Ids, QemuUser
from hostmaster.keeper import Keeper
from hostmaster.numbers import Numbers
from hostmaster.quarantine import DAY_S, EXPIRE_EVERY_S, Quarantine
from hostmaster.rules import yielding
from hostmaster.rules.golden import Golden
from hostmaster.rules.lifecycle import Vm, Way
from hostmaster.rules.spare import Spare
from hostmaster.world import Accelerator, Artifacts, ImageRefused
from protocol.ids import EnvironmentName
from protocol.link import HostEnd, Tls
from wnod.config import Catalogue, HostmasterConfig, load_catalogue
from wnod.journal import Journal
from wnod.lrmsfiles import LrmsFiles, LrmsFilesRefused
from wnod.metrics import Metrics, serve_metrics
from wnod.service import Context
from wnod.status import StatusServer


class HostmasterDaemon:
    """One hostmaster. `start` returns when baits can connect; VMs are made once libvirt and an image are there."""

    def __init__(self, context: Context, config: HostmasterConfig) -> None:
        reactor = self.reactor = context.reactor
        self.config = config
        self.log = Logger("hostmaster")
        self._context = context
        _make_directories(Path(config.state))
        catalogue = load_catalogue(config.catalogue)
        self.metrics = Metrics("hostmaster", config.host)
        self.journal = Journal(
            f"{config.state}/journal.sqlite", "hostmaster", config.host, committed=self.metrics.committed
        )
        self.libvirt_events = EventThread()
        self.hypervisor = LibvirtHypervisor(
            reactor,
            config.hypervisor.uri,
            Limits(create=config.times.create_limit_s),
            emulator=config.hypervisor.emulator,
        )
        self.qemu_user = QemuUser(self.journal, self._told_of_qemu, (os.geteuid(), os.getegid()))
        self.sources = _sources(catalogue)
        self.images = LocalImages(reactor, config.state, self.sources, self.qemu_user.ids)
        self.guests = GuestChannels(reactor, f"{config.runtime}/guests", self._heard, self._qemu_uids)
        self.guests.sweep()  # with the journal open, no other hostmaster is
        self._given = LrmsFiles(config.lrms.guest_files)
        self.proof: accelerator.Proof | None = None
        self._build(catalogue)

    def _build(self, catalogue: Catalogue) -> None:
        config, reactor = self.config, self.reactor
        controller = config.lrms.controller
        hosts = {name: address for address, name in config.network.hosts.items()}
        names = NameService(reactor)
        core = self.core = HostCore(
            clock=reactor,
            config=config,
            catalogue=catalogue,
            journal=self.journal,
            hypervisor=self.hypervisor,
            images=self.images,
            guests=self.guests,
            answers=contact.tcp(reactor, controller, hosts),
            prove=self._prove,
            guest_files=lambda: {"munge.key": Path(config.lrms.munge_key).read_bytes()},
            lrms_files=self._lrms_files,
            account=names.account,
            new_uuid=lambda: str(uuids.uuid4()),
            observer=self,
            broken=lambda failure: self._context.fatal(failure.getErrorMessage()),
            refused=lambda code: self.metrics.count("wnod_errors_total", code=code),
            generations_above=int(reactor.seconds()),
            made=self._made,
        )
        names.answered = core.baits.owners.known
        self.numbers = Numbers(self.metrics, core.environments, core.keeper, core.stock)
        tls = Tls(config.tls.ca, config.tls.certificate, config.tls.key)
        baits = frozenset(config.baits)
        self.link = HostEnd(reactor, tls, config.listen, config.host, self.journal.epoch, baits, core.baits)
        core.join(self.link)
        self.quarantine = core.keeper.quarantine = Quarantine(
            reactor,
            Path(config.state, "quarantine"),
            self.hypervisor,
            self.images,
            config.quarantine.at_most,
            config.quarantine.keep_days * DAY_S,
            deferToThread,
        )
        acts = Administration(core.keeper, config.times.longest_pause_s).acts()
        self.status = StatusServer(reactor, config.runtime, self.snapshot, self.explain, self.metrics, acts)

    # --- service.Daemon ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the journal, listen, and begin to talk to libvirt."""
        self.metrics.set("wnod_epoch", self.journal.epoch)
        await self.status.start()
        if self.config.metrics is not None:
            await serve_metrics(self.reactor, self.config.metrics, self.metrics)
        self.libvirt_events.start()
        self.images.start()
        self.hypervisor.watch(self._libvirt_hints)
        self.quarantine.start()
        self.core.load()
        self.hypervisor.start()
        await self.link.start()
        self.core.start()
        self.core.every(DAY_S / 4, self._prune_consoles)
        self.core.every(EXPIRE_EVERY_S, lambda: Deferred.fromCoroutine(self.quarantine.expire()))

    async def stop(self) -> None:
        """Stop serving. VMs run on: the next start finds them."""
        await self.link.stop()
        await self.core.stop()
        await self.hypervisor.stop()
        self.guests.close_all()
        self.images.stop()
        self.libvirt_events.stop()
        await self.status.stop()
        self.journal.close()

    def reload(self) -> None:
        """Read the catalogue again; VMs that exist are not touched."""
        catalogue = self.core.environments.catalogue = load_catalogue(self.config.catalogue)
        self.sources.clear()
        self.sources.update(_sources(catalogue))
        self.core.resettle()

    # --- the core's questions --------------------------------------------------------------------------

    def _lrms_files(self) -> Mapping[str, bytes]:
        try:
            return self._given.read()
        except LrmsFilesRefused as error:
            raise ImageRefused(str(error)) from error

    async def _prove(self, artifacts: Artifacts) -> Accelerator:
        hypervisor = self.config.hypervisor
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        circumstances = f"{boot} {hypervisor.uri} {artifacts.kernel}"
        proof = await accelerator.choose(
            hypervisor.accelerator, hypervisor.allow_tcg, self.hypervisor, artifacts, self.journal, circumstances
        )
        if proof != self.proof:
            self.log.info("accelerator {accelerator}: {reason}", accelerator=proof.accelerator, reason=proof.reason)
            self.metrics.set("wnod_hostmaster_accelerator_info", 1, accelerator=proof.accelerator)
        self.proof = proof
        return proof.accelerator

    def _libvirt_hints(self, uuid: str) -> None:
        if uuid == "":
            self.qemu_user.learn()

    def _told_of_qemu(self) -> Ids | None:
        return None if self.hypervisor.trouble else self.hypervisor.qemu_user

    def _qemu_uids(self) -> frozenset[int]:
        return frozenset({self.qemu_user.ids()[0]})

    def _heard(self, key: str, said: Any) -> None:
        self.core.heard(key, said)

    def changed(self, before: Vm | None, vm: Vm) -> None:
        """Count it. A keeper.Observer."""
        self.numbers.changed(before, vm)

    def forgotten(self, vm: Vm) -> None:
        """Nothing: what is there is counted when somebody asks."""

    def _made(self, way: Way, outcome: str) -> None:
        self.numbers.made(way, outcome)

    def _prune_consoles(self) -> "Deferred[None]":
        oldest = time.time() - self.config.times.keep_console_days * DAY_S
        living = frozenset(record.key for record in self.core.keeper.records())
        return deferToThread(consoles.prune, Path(self.config.state, "console"), oldest, living)

    # --- people's questions ------------------------------------------------------------------------------

    def snapshot(self) -> Mapping[str, Any]:
        """What `wnod status` and `wnod vms` show."""
        core, chosen = self.core, self.proof
        capacity = core.baits.capacity()
        return {
            "role": "hostmaster",
            "host": self.config.host,
            "epoch": self.journal.epoch,
            "accelerator": chosen.accelerator if chosen else None,
            "accelerator_reason": chosen.reason if chosen else core.environments.obstacle,
            "hypervisor": "away" if core.keeper.away else "ok",
            "capacity": {"total": _room(capacity.total), "free": _room(capacity.free)},
            "slots": capacity.slots,
            "baits": sorted(self.link.connected_baits()),
            "vms": [_row(vm, core.keeper) for vm in core.keeper.vms.values()],
            "quarantine": self.quarantine.rows(),
            "spares": [_spare(spare) for spare in core.stock.spares.values()],
            "golden": [_golden(golden) for golden in core.stock.goldens.values()],
            "environments": [
                {
                    "name": offer.environment,
                    "available": offer.available,
                    "text": offer.text,
                    "image": core.environments.catalogue.environments[offer.environment].sha256,
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


def _make_directories(state: Path) -> None:
    """QEMU passes through to what it opens itself, whatever our umask is. A state directory that was there is its
    maker's."""
    console = state / "console"
    ours = (console,) if state.is_dir() else (state, console)
    console.mkdir(parents=True, exist_ok=True)
    for directory in ours:
        directory.chmod(0o711)


def _sources(catalogue: Catalogue) -> dict[EnvironmentName, Source]:
    return {name: Source(entry.image, entry.sha256) for name, entry in catalogue.environments.items()}


def _room(room: Any) -> dict[str, int]:
    return {"cpus": room.cpus, "memory_mib": room.memory_mib, "disk_mib": room.disk_mib}


def _spare(spare: Spare) -> dict[str, Any]:
    return {
        "vm": spare.vm,
        "generation": spare.generation,
        "environment": spare.environment,
        "shape": _room(spare.shape),
        "phase": spare.phase,
        "purpose": spare.purpose,
        "way": spare.way,
        "since": spare.since,
        "text": spare.text,
    }


def _golden(golden: Golden) -> dict[str, Any]:
    return {
        "name": golden.name,
        "vm": golden.vm,
        "environment": golden.environment,
        "shape": _room(golden.shape),
        "mib": golden.mib,
        "made_at": golden.made_at,
    }


def _row(vm: Vm, keeper: Keeper) -> dict[str, Any]:
    seen, trouble = keeper.seen.get(vm.generation), keeper.trouble.get(vm.generation, "")
    return {
        "vm": vm.vm,
        "generation": vm.generation,
        "uuid": vm.uuid,
        "phase": vm.phase,
        "way": vm.way,
        "lease": vm.lease,
        "run": str(vm.bound or vm.asked.next()),
        "owner": vm.owner,
        "environment": vm.environment,
        "shape": _room(vm.shape),
        "since": vm.since,
        "domain": seen,
        "paused": yielding.row(vm, seen),
        "text": yielding.note(vm, seen, trouble) or vm.text,
    }
