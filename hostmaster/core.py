"""The hostmaster without its surroundings: the parts that serve baits and guests, put together once.

`hostmaster.daemon` puts it on libvirt, files, sockets and TLS; the tests put the same parts on theirs, so that what
they see is how the daemon is wired. Whoever owns a core builds the link, opens the hypervisor and ends the process.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostmaster.background import LOOK_EVERY_S as BACKGROUND_EVERY_S
from hostmaster.background import Background
from hostmaster.contact import LOOK_EVERY_S, Contact
from hostmaster.edges.accounts import account_of
from hostmaster.environments import Environments
from hostmaster.keeper import AWAKE_EVERY_S, Keeper, Observer
from hostmaster.recovery import Recovery
from hostmaster.rules import capacity, guestconf, specify
from hostmaster.rules.capacity import Host
from hostmaster.rules.golden import Kind, name_of
from hostmaster.rules.lifecycle import Times, Vm, Way
from hostmaster.rules.pool import Line
from hostmaster.rules.spare import Purpose, Spare
from hostmaster.serve_baits import INVENTORY_EVERY_S, BaitService, Link
from hostmaster.serve_guests import GuestService
from hostmaster.stock import Stock
from hostmaster.world import (
    Accelerator,
    Artifacts,
    DomainRefused,
    DomainSpec,
    Guests,
    Hypervisor,
    HypervisorUnavailable,
    ImageRefused,
    Images,
)
from protocol.guest import FromGuest
from protocol.ids import Generation, Shape, VmName
from protocol.messages import Code, VmPhase
from wnod.config import Catalogue, HostmasterConfig
from wnod.config.ready import Ready
from wnod.duties import Duties, Next, Now
from wnod.journal import Journal
from wnod.loops import Loops

TELL_EVERY_S = 1.0
VERIFY_EVERY_S = 600.0
RESETTLE_S = 2.0
UNSURE_S = 30.0
"""An image that could not be read is looked at again so soon: its file system may be back."""


@dataclass
class HostCore:
    """One life of a hostmaster. In this order: build it, `join` a link, `load`, connect the world, `start`."""

    clock: IReactorTime
    config: HostmasterConfig
    catalogue: Catalogue
    journal: Journal
    hypervisor: Hypervisor
    images: Images
    guests: Guests
    """What guests say must reach `heard`."""
    answers: Callable[[], Awaitable[bool]]
    """Whether the controller's machine answers now (hostmaster.contact)."""
    prove: Callable[[Artifacts], Awaitable[Accelerator]]
    """The accelerator to use, shown to work with these files. DomainRefused if there is none to be used."""
    guest_files: Callable[[], Mapping[str, bytes]]
    """The secrets every guest is given, by name. OSError if they cannot be read."""
    new_uuid: Callable[[], str]
    observer: Observer
    """Hears of each change before any bait does."""
    broken: Callable[[Failure], None]
    """A loop has failed, and has ended."""
    lrms_files: Callable[[], Mapping[str, bytes]] = dict
    """What the LRMS's daemon finds in a guest at standby. ImageRefused if it cannot be said now."""
    account: Callable[[int], guestconf.Account] = account_of
    """Who a numeric user id is. NoSuchAccount if nobody, AccountUnknown while nobody has said."""
    refused: Callable[[Code], None] = lambda code: None
    """A bait was told no."""
    made: Callable[[Way, str], None] = lambda way, outcome: None
    """What became of a VM that was made in one of the ways (hostmaster.background)."""
    fresh: Callable[[], bytes] = lambda: os.urandom(48)
    """Random bytes for a guest that was at standby."""
    generations_above: int = 0
    """A journal that begins may follow a lost one, none of whose generations may come again: it counts from here."""
    accelerator: Accelerator | None = None
    """None: nothing has been proven yet, and no VM is made."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster"))

    def __post_init__(self) -> None:
        self._loops = Loops(self.clock, self.broken)
        self._settling = Duties(self.clock, self._settle, "getting ready")
        self._lines_made: tuple[Host, Ready, tuple[Line, ...]] | None = None
        self._stopped = False
        self._warned: set[str] = set()
        slots = tuple(slot.name for slot in self.config.slots)
        now = self.clock.seconds
        self.environments = Environments(self.catalogue, self.images, self.config.capacity, slots, now=now)
        self.keeper = self._make_keeper()
        self.recovery = Recovery(self.keeper)
        self.background = self._make_background()
        self.stock = Stock(self.clock, self.keeper, self.background, self._specify, self.new_uuid)
        self.baits = BaitService(
            clock=self.clock,
            keeper=self.keeper,
            host=self.environments.host,
            ttl_s=self.config.times.lease_ttl_s,
            new_uuid=self.new_uuid,
            refused=self.refused,
            stock=self.stock,
            account=self.account,
        )
        self.guest_service = GuestService(
            self.clock, self.keeper, self._configure, self.baits.finished, self.stock, self._stand
        )

    def _make_keeper(self) -> Keeper:
        config = self.config
        return Keeper(
            clock=self.clock,
            host=config.host,
            journal=self.journal,
            hypervisor=self.hypervisor,
            images=self.images,
            guests=self.guests,
            times=_times(config),
            ttl_s=config.times.lease_ttl_s,
            specify=self._specify,
            observer=self,
            able=lambda: self.accelerator is not None,
            contact=Contact(self.clock, self.journal, config.lrms.controller, self.answers),
        )

    def _make_background(self) -> Background:
        ready = self.config.ready
        return Background(
            clock=self.clock,
            keeper=self.keeper,
            host=self.environments.host,
            name=self._name_golden,
            lines=self._lines,
            budget_mib=ready.golden_disk_mib,
            configured=bool(ready.golden_disk_mib or ready.spares),
            made=self.made,
            told=self._lrms_files_now,
        )

    def join(self, link: Link) -> None:
        """Baits are spoken to over this; what they say must reach `baits`, a protocol.link.Listener."""
        self.baits.link = link

    def heard(self, key: str, said: FromGuest | None) -> None:
        """A guest spoke. A hostmaster.world.GuestListener."""
        self.guest_service.heard(key, said)

    def load(self) -> None:
        """Read the journal, and listen for what the hypervisor hints. Before it is connected, and the link is open."""
        # R15. Not "in its first life": that one may have died before it got here.
        if self.generations_above and self.journal.raise_number("generation", 0) == 0:
            self.journal.raise_number("generation", max(self.generations_above, self.journal.below))
        self.keeper.load()
        self.hypervisor.watch(self._hint)

    def start(self) -> None:
        """Begin all that is done from time to time. The hypervisor's hint that it is there makes the host ready."""
        self.every(AWAKE_EVERY_S, self.keeper.awake)
        self.every(INVENTORY_EVERY_S, self.baits.send_inventories)
        self.every(INVENTORY_EVERY_S, self._look_anew)
        self.keeper.look_for_contact()  # at once: a host that has lost its journal fences nothing before an answer
        self.every(LOOK_EVERY_S, self.keeper.look_for_contact)
        self.every(BACKGROUND_EVERY_S, self.background.beat)
        self.every(TELL_EVERY_S, self.baits.tell_capacity)
        self.every(VERIFY_EVERY_S, self.resettle)

    def halt(self) -> None:
        """Nothing is begun any more. Idempotent."""
        self._stopped = True
        self._loops.halt()

    async def stop(self) -> None:
        """As `halt`; comes back when no VM is being seen to. VMs run on: the next life finds them."""
        self.halt()
        await self._settling.stop()
        await self.background.duties.stop()
        await self.keeper.duties.stop()

    def every(self, seconds: float, call: Callable[[], Any]) -> None:
        """Do it again and again, until `halt`; if it fails, `broken` hears of it."""
        self._loops.every(seconds, call)

    # --- becoming ready ------------------------------------------------------------------------------

    def _hint(self, uuid: str) -> None:
        if uuid == "":
            self.resettle()

    def _look_anew(self) -> None:
        """A hint may be lost; and a host without VMs has no other reason to ask a hypervisor that was once too late."""
        self.keeper.kick_all()
        if self.keeper.away:
            self.resettle()

    def resettle(self) -> None:
        """Do whatever a start, a libvirt that came back or a new catalogue makes necessary. Idempotent.

        One at a time: two would destroy each other's probe guests, and believe that no accelerator works.
        """
        if not self._stopped:
            self._settling.kick("host")

    async def _settle(self, _: str) -> Next:
        wanted: Next = Now.REST
        if self._stopped:
            return wanted
        try:
            await self.recovery.recover()
            await self.environments.verify()
            await self._choose_accelerator()
            self._look_at_lines()
            self.background.settled(await self.hypervisor.identity())
            if self.environments.unsure:
                wanted = UNSURE_S
        except HypervisorUnavailable as error:
            self.log.warn("libvirt does not answer, waiting: {error}", error=error)
            wanted = RESETTLE_S
        self.baits.tell_capacity()
        return wanted

    async def _choose_accelerator(self) -> None:
        artifacts = self.environments.some_artifacts()
        if artifacts is None:
            self.environments.obstacle = "no environment has a usable image"
            return
        try:
            self.accelerator = await self.prove(artifacts)
        except DomainRefused as error:
            self.environments.obstacle = str(error)
            self.log.error("no VM can be made: {error}", error=error)
            return
        self.environments.obstacle = ""

    # --- parts' questions ------------------------------------------------------------------------------

    def _specify(self, vm: Vm | Spare, overlay: str, channel: str) -> DomainSpec:
        if self.accelerator is None:
            raise HypervisorUnavailable("no accelerator has been proven yet")
        site = specify.Site(self.config, self.accelerator)
        return specify.specify(site, vm, self.environments.usable(vm.environment), overlay, channel)

    def _site(self) -> guestconf.Site:
        config = self.config
        return guestconf.Site(
            lrms=config.lrms.kind,
            controller=config.lrms.controller,
            features=config.lrms.features,
            hosts=config.network.hosts,
            mounts=tuple(guestconf.Mount(m.type, m.source, m.target, m.options) for m in config.mounts),
            gateway=config.network.gateway,
            dns=config.network.dns,
        )

    def _configure(self, vm: Vm) -> bytes:
        overhead, tags = self._of_environment(vm)
        account, files, now = self.account(vm.owner), self.guest_files(), self.clock.seconds()
        address = specify.slot_of(self.config, vm).address
        seed = self.fresh() if vm.golden else b""  # a guest that booted for its lease has a generator of its own
        return guestconf.lines(vm, self._site(), address, account, files, now, overhead, tags, seed=seed)

    def _stand(self, spare: Spare) -> bytes:
        return self._standing(spare, self.clock.seconds())

    def _standing(self, spare: Spare, now: float) -> bytes:
        overhead, tags = self._of_environment(spare)
        address = specify.slot_of(self.config, spare).address
        site = replace(self._site(), files=self.lrms_files())
        return guestconf.standby_lines(spare, site, address, now, overhead, tags)

    def _lrms_files_now(self) -> Mapping[str, bytes] | None:
        try:
            return self.lrms_files()
        except ImageRefused as error:
            if (text := str(error)) not in self._warned:
                self._warned.add(text)
                self.log.error("no VM can be made in advance: {text}", text=text)
            return None

    def _of_environment(self, vm: Vm | Spare) -> tuple[int, tuple[str, ...]]:
        """The environment's own memory and its tags. ImageRefused if it is not in the catalogue any more."""
        entry = self.environments.catalogue.environments.get(vm.environment)
        if entry is None:
            raise ImageRefused(f"environment {vm.environment!r} is not in the catalogue")
        return entry.overhead_mib, entry.tags

    def _name_golden(self, slot: VmName, kind: Kind, identity: str) -> str:
        """From all that a VM of this kind in this slot is made of and told before it has an owner."""
        image = self.environments.usable(kind.environment).image
        spare = Spare(
            generation=Generation(1),
            vm=slot,
            uuid="",
            environment=kind.environment,
            image=image,
            shape=kind.shape,
            purpose=Purpose.GOLDEN,
            way=Way.BOOT,
            golden="",
            made_at=0.0,
            since=0.0,
        )
        made_of = repr(self._specify(spare, "", ""))
        return name_of(slot, identity, made_of, self._standing(spare, 0.0).decode())

    def _look_at_lines(self) -> None:
        """Say once which configured spares can never be made: nobody else would notice."""
        host = self.environments.host()
        unknown = {x.environment for x in self.config.ready.spares if x.environment not in host.offers}
        large = {line.kind.environment for line in self._lines() if not line.kind.shape.fits(host.total)}
        for name in sorted((unknown | large) - self._warned):
            why = "is not in the catalogue" if name in unknown else "with this shape is larger than capacity"
            self.log.warn("ready.spares: environment {name!r} {why}: no spare is made", name=name, why=why)
        self._warned = unknown | large

    def _lines(self) -> tuple[Line, ...]:
        """Asked several times at each look around: made anew only when the offers or the configuration have changed."""
        host, ready = self.environments.host(), self.config.ready
        if self._lines_made is None or self._lines_made[0] is not host or self._lines_made[1] is not ready:
            self._lines_made = (host, ready, self._make_lines(host))
        return self._lines_made[2]

    def _make_lines(self, host: Host) -> tuple[Line, ...]:
        return tuple(
            Line(Kind(x.environment, capacity.charged(host, x.environment, shape)), x.keep, x.at_most or x.keep)
            for x in self.config.ready.spares
            for shape in (Shape(cpus=x.cpus, memory_mib=x.memory_mib, disk_mib=x.disk_mib),)
            if x.environment in host.offers
        )

    # --- keeper.Observer -------------------------------------------------------------------------------

    def changed(self, before: Vm | None, vm: Vm) -> None:
        """A record changed: learn of the environment, then tell whoever counts, then the bait."""
        if before is not None:
            self._judge_environment(before, vm)
        self.observer.changed(before, vm)
        self.baits.changed(before, vm)

    def _judge_environment(self, before: Vm, vm: Vm) -> None:
        if before.phase is VmPhase.BOOTING and vm.phase in (VmPhase.READY, VmPhase.BOUND):
            self.environments.came_up(vm.environment)
        if vm.phase is VmPhase.DESTROYING and vm.code is Code.BOOT_FAILED and before.code is None:
            self.environments.failed(vm.environment, vm.text)

    def forgotten(self, vm: Vm) -> None:
        """A slot is free again."""
        self.observer.forgotten(vm)
        self.baits.forgotten(vm)


def _times(config: HostmasterConfig) -> Times:
    return Times(
        boot_limit_s=config.times.boot_limit_s,
        creates=1 + config.times.retries,
        fence_pause_s=config.times.fence_pause_s,
        fence_resume_s=config.times.fence_resume_s,
        gives_up_s=config.times.lrms_gives_up_s,
    )
