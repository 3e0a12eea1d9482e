"""Keeps every VM of this host moving: look, decide, journal, act, and look again.

The only place where a VM's record changes. Whoever wants something of a VM (a bait, a guest, the clock)
changes the record through a pure function of `lifecycle` and `put`s it; the deeds follow from the record.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hostmaster.contact import Contact
from hostmaster.deeds import Deeds
from hostmaster.quarantine import Quarantine, put_away
from hostmaster.rules import lifecycle, reconcile, story, yielding
from hostmaster.rules.lifecycle import Facts, Times, Vm
from hostmaster.rules.spare import Spare
from hostmaster.rules.specify import facts_of
from hostmaster.rules.unheard import Unheard
from hostmaster.waking import Waking
from hostmaster.world import Domain, DomainSpec, DomainState, Guests, Hypervisor, HypervisorUnavailable, Images
from protocol import guest
from protocol.ids import BootId, Generation, LeaseId
from protocol.messages import VmPhase
from wnod.crashpoint import around
from wnod.duties import Duties, Next, Now
from wnod.fresh import Fresh
from wnod.indexed import Indexed
from wnod.journal import Journal

AWAKE_EVERY_S = 1.0
SLEPT_S = 5.0
"""A daemon that did not run for longer has slept: it was stopped, or its machine was."""
AHEAD = 100_000
"""So many generations a host does not make before its clock has gone on by as many seconds."""
KIND = "vm"
SPARES = "spare"
LOOKED_FOR_BY: dict[str, Callable[[Vm], str]] = {name: attrgetter(name) for name in ("lease", "uuid", "key")}


class Observer(Protocol):
    """Whoever wants to know of changes: the conversation with the baits, and the metrics."""

    def changed(self, before: Vm | None, vm: Vm) -> None:
        """A record is on disk and differs from `before`."""

    def forgotten(self, vm: Vm) -> None:
        """The VM is gone, released and off the record; its slot is free."""


class Beside(Protocol):
    """The spares, whose generations are from the same counter: hostmaster.stock.Stock."""

    spares: dict[Generation, Spare]

    def load(self) -> None:
        """Read the journal."""

    async def recover(self, domains: Iterable[Domain]) -> None:
        """Compare records with what there is. Nothing is awaited before the domains were judged."""

    def with_uuid(self, uuid: str) -> Iterable[Generation]:
        """Generations of the spares whose domain has this UUID."""

    def in_the_way(self, vm: Vm) -> bool:
        """True while a VM that was granted waits for spares to be gone."""

    async def step(self, generation: Generation) -> Next:
        """See to this spare, if it is one."""

    def became(self, before: Vm | None, vm: Vm) -> None:
        """A VM's record has changed."""

    def noticed(self) -> None:
        """A VM is off the record."""


@dataclass
class Keeper:
    """All VMs of one host, by generation."""

    clock: IReactorTime
    host: str
    journal: Journal
    hypervisor: Hypervisor
    images: Images
    guests: Guests
    times: Times
    ttl_s: float
    specify: Callable[[Vm, str, str], "DomainSpec"]
    """Record, overlay path and channel path to domain; may raise ImageRefused or DomainRefused."""
    observer: Observer
    able: Callable[[], bool] = lambda: True
    """Whether this life has yet found what VMs are made of: verified images, an accelerator that works."""
    contact: Contact | None = None
    """Without it no VM is fenced."""
    beside: Beside | None = None
    """Without it every VM boots."""
    quarantine: Quarantine | None = None
    """Without it no VM is kept."""
    vms: Indexed[Generation, Vm] = field(default_factory=lambda: Indexed(**LOOKED_FOR_BY))
    ready: dict[Generation, BootId] = field(default_factory=dict)
    failed: dict[Generation, str] = field(default_factory=dict)
    seen: dict[Generation, DomainState | None] = field(default_factory=dict)
    """What each domain was when last looked at; for people."""
    trouble: dict[Generation, str] = field(default_factory=dict)
    """What libvirt said then is the matter with a domain that stands still, if it said so; for people."""
    away: bool = True
    """True while the hypervisor does not answer."""
    compared: bool = False
    """Journal and libvirt have been compared in this life: from then on what is not on record is not there."""
    unheard: Unheard = field(default_factory=Unheard)
    """VMs and spares that may come yet, though they are absent."""
    _late: set[Generation] = field(default_factory=set)
    """VMs that stood still, and whose guests have not yet been told the time."""
    _renewed: dict[LeaseId, float] = field(default_factory=dict)
    log: Logger = field(default_factory=lambda: Logger("hostmaster.keeper"))

    def __post_init__(self) -> None:
        self._awake_at = self.clock.seconds()
        self.duties = Duties(self.clock, self._step, "vm")
        self.look = Fresh(self.clock, self._domains)
        label = partial(facts_of, self.host)
        self.waking = Waking(self.hypervisor, label, self.vms.get, self.put, self.times.retry_s)
        self.deeds = Deeds(
            self.hypervisor, self.images, self.guests, self.specify, self.waking, self.unheard, self._put_away,
            self.times.retry_s,
        )  # fmt: skip
        if self.contact is not None:
            self.contact.noticed = self.kick_all

    def load(self) -> None:
        """Read the journal; every lease starts with a full time to live."""
        now = self.clock.seconds()
        for vm in self.journal.load(KIND, Vm).values():
            self.vms[vm.generation] = vm
            self._renewed[vm.lease] = now
            if vm.phase is not VmPhase.GONE:
                self.guests.open(vm.key)
            self.unheard.taken_up(vm)
        if self.beside is not None:
            self.beside.load()
        self.hypervisor.watch(self._hint)

    def records(self) -> list[Vm | Spare]:
        """All that this host has on record."""
        return [*self.vms.values(), *(self.beside.spares.values() if self.beside is not None else ())]

    def kick_all(self) -> None:
        """See to every VM and spare."""
        for record in self.records():
            self.duties.kick(str(record.generation))

    def _hint(self, uuid: str) -> None:
        """Of one domain. The hint that all may have changed is the core's: it ends in `recover`, which kicks all."""
        for vm in self.vms.where("uuid", uuid):
            self.duties.kick(str(vm.generation))
        for generation in self.beside.with_uuid(uuid) if self.beside is not None else ():
            self.duties.kick(str(generation))

    # --- records ---------------------------------------------------------------------------------

    def of_lease(self, lease: LeaseId) -> Vm | None:
        """The VM of a lease, if there is one."""
        return self.vms.one("lease", lease)

    def by_key(self, key: str) -> Vm | None:
        """The VM whose overlay and channel have this name, if there is one."""
        return self.vms.one("key", key)

    def put(self, vm: Vm, was_spare: bool = False, kick: bool = True) -> None:
        """Journal the record, then believe it, then tell of it, then see to what follows from it.

        `was_spare`: in the place of a spare's record, which is off the journal with the same commit. `kick` False: the
        caller sees to what follows.
        """
        before = self.vms.get(vm.generation)
        if before == vm:
            return
        with around("host.commit.taken" if was_spare else f"host.commit.{vm.phase}"), self.journal.transaction():
            if was_spare:
                self.journal.remove(SPARES, str(vm.generation))
            self.journal.put(KIND, str(vm.generation), vm)
            for text in story.told(before, vm):
                self.journal.history(KIND, vm.asked.job, text, self.clock.seconds())
        self.vms[vm.generation] = vm
        if was_spare and self.beside is not None:
            del self.beside.spares[vm.generation]
        if yielding.went_on(before, vm):
            self._late.add(vm.generation)
            self.tell_time(vm)
        self._renewed.setdefault(vm.lease, self.clock.seconds())
        self.observer.changed(before, vm)
        if self.beside is not None:
            self.beside.became(before, vm)
        if kick:
            self.duties.kick(str(vm.generation))

    def count_above(self, generation: Generation) -> None:
        """libvirt shows this generation. Our count begins at the clock's time: one above it is of a journal that is
        lost, and the clock went back. Others of that journal may have come and gone."""
        if generation > self.journal.raise_number("generation", 0):
            self.journal.raise_number("generation", generation + AHEAD)

    def tell_time(self, vm: Vm) -> None:
        """Step the clock of a guest that stood still. Call when it is heard: it may not have been connected."""
        if vm.generation in self._late and self.guests.send(vm.key, guest.clock(self.clock.seconds())):
            self._late.discard(vm.generation)

    def _forget(self, vm: Vm) -> None:
        # One that never was made has nothing else to be cleaned. Before all else: if it fails, all is tried again.
        self.guests.close(vm.key)
        with around("host.forget"):
            self.journal.remove(KIND, str(vm.generation))
        del self.vms[vm.generation]
        deeds = self.deeds
        memories = (deeds.refused, deeds.hosts_trouble, deeds.done)
        for memory in (self.ready, self.failed, self.seen, self.trouble, *memories):
            memory.pop(vm.generation, None)
        self._late.discard(vm.generation)
        self.waking.unanswered.discard(vm.generation)
        self._renewed.pop(vm.lease, None)
        if self.contact is not None:
            self.contact.forget(vm.lease)
        self.observer.forgotten(vm)
        if self.beside is not None:
            self.beside.noticed()

    def renew(self, lease: LeaseId) -> bool:
        """The bait still has this lease; False if no VM here is for it."""
        if lease not in self._renewed:
            return False
        self._renewed[lease] = self.clock.seconds()
        return True

    def awake(self) -> None:
        """Call every AWAKE_EVERY_S: time in which this daemon slept, and could hear nobody, ends no lease."""
        now, before = self.clock.seconds(), self._awake_at
        self._awake_at = now
        slept_s = now - before - AWAKE_EVERY_S
        if slept_s > SLEPT_S:
            self.log.warn("slept for {seconds:.0f} s: leases live that much longer", seconds=slept_s)
            self._renewed = {lease: at + slept_s for lease, at in self._renewed.items()}

    def vouched(self, lease: LeaseId) -> None:
        """The bait says: the LRMS was just seen to have this lease's run in its VM."""
        vm = self.of_lease(lease)
        if self.contact is not None and vm is not None:
            self.contact.said(lease)
            if vm.fenced is not None:
                self.duties.kick(str(vm.generation))

    def look_for_contact(self) -> None:
        """See whether this host is in contact with the LRMS; call every contact.LOOK_EVERY_S."""
        if self.contact is not None:
            self.contact.look([vm.lease for vm in self.vms.values() if vm.phase is VmPhase.STARTED])

    # --- the world -------------------------------------------------------------------------------

    async def _domains(self) -> dict[str, Domain]:
        try:
            domains = await self.hypervisor.domains()
        except HypervisorUnavailable:
            self.away = True
            self.unheard.silent()
            raise
        self.away = False
        self.unheard.answered(self.clock.seconds())
        return {domain.uuid: domain for domain in domains}

    async def _step(self, key: str) -> Next:
        generation = Generation(int(key))
        if generation not in self.vms:
            return Now.REST if self.beside is None else await self.beside.step(generation)
        facts = await self._facts(generation)
        vm = self.vms.get(generation)
        if vm is None:
            return Now.REST
        step = lifecycle.decide(vm, facts, self.times)
        self.put(step.vm, kick=False)
        if step.vm.phase is VmPhase.GONE and step.vm.released:
            self._forget(step.vm)
            return Now.REST
        if step.deed is not None:
            if (wait_s := self.deeds.too_soon_s(step.vm, step.deed, facts.now)) > 0:
                return wait_s
            with around(f"host.deed.{step.deed.value}"):
                return await self.deeds.perform(step.vm, step.deed, facts.now)
        if step.vm != vm:
            self.waking.answer_late(step.vm)
            begins_to_go = step.vm.phase is VmPhase.DESTROYING  # its overlay was not looked for
            vm, step = step.vm, lifecycle.decide(step.vm, facts, self.times)
            if begins_to_go or step.vm != vm or step.deed is not None:
                return Now.AGAIN  # what is done is done on facts that were looked for after the record was written
        return Now.REST if step.wake_at in (None, float("inf")) else max(0.0, step.wake_at - facts.now)

    async def _facts(self, generation: Generation) -> Facts:
        domain: DomainState | None
        shown: Domain | None = None
        overlay: bool | None = None
        labelled = False
        try:
            seen = await self.look.get()
            may_come = self.unheard.may_come(generation)  # as of this look: a later one may have found it
            vm = self.vms[generation]
            shown = seen.get(vm.uuid)
            domain = reconcile.state_of(shown, generation)
            labelled = shown is not None and shown.ours is not None and shown.ours.lease == vm.lease
            if vm.phase is VmPhase.DESTROYING and domain is DomainState.ABSENT:
                overlay = vm.key in await self.images.overlays()
        except (HypervisorUnavailable, KeyError):  # nobody knows; or the VM was forgotten while we looked
            domain, may_come = None, True
        now = renewed = self.clock.seconds()
        latest = self.vms.get(generation)
        if latest is not None:
            self._note_going_on(latest, domain)
            self.seen[generation] = domain
            self._note_trouble(latest, shown)
            renewed = self._renewed.get(latest.lease, now)
        contact, word = self._heard_of(generation)
        return Facts(
            now=now,
            domain=domain,
            overlay=overlay,
            ready=self.ready.get(generation),
            failed=self.failed.get(generation, ""),
            refused=self.deeds.refused.get(generation, ""),
            expires_at=renewed + self.ttl_s,
            contact=contact,
            word=word,
            way_free=self._way_is_free(generation),
            labelled=labelled,
            may_come=may_come,
            able=self.able(),
        )

    def _note_going_on(self, vm: Vm, domain: DomainState | None) -> None:
        """Also one that QEMU stopped at a full disk, or somebody with virsh: its guest's clock stood still, too."""
        if (
            vm.phase is VmPhase.STARTED
            and domain is DomainState.RUNNING
            and self.seen.get(vm.generation) is DomainState.PAUSED
        ):
            self._late.add(vm.generation)
            self.tell_time(vm)

    def _note_trouble(self, vm: Vm, shown: Domain | None) -> None:
        text = shown.reason if shown is not None and shown.state is DomainState.PAUSED else ""
        if text and text != self.trouble.get(vm.generation):
            self.log.error("{vm} stands still: {text}", vm=vm.key, lease=vm.lease, text=text)
        self.trouble[vm.generation] = text

    def _way_is_free(self, generation: Generation) -> bool:
        vm = self.vms.get(generation)
        if vm is None or vm.phase is not VmPhase.RESERVED or self.beside is None:
            return True  # who is not about to be created waits for nobody
        return not self.beside.in_the_way(vm)

    def _heard_of(self, generation: Generation) -> tuple[float, float]:
        """When this host was last in contact with the LRMS, and when the bait last vouched for the VM's run."""
        vm = self.vms.get(generation)
        if vm is None or self.contact is None:
            return float("inf"), float("-inf")
        contact = self.contact.last(vm.lease, vm.since) if vm.fenced is None else self.contact.heard(vm.lease)
        return contact, self.contact.word(vm.lease)

    async def _put_away(self, vm: Vm) -> None:
        kept, text = await put_away(self.quarantine, vm)
        self.journal.history(KIND, vm.asked.job, f"{vm.key} {text}", self.clock.seconds())
        if kept:
            self.guests.close(vm.key)
        else:
            self.put(replace(self.vms[vm.generation], keep=None))
