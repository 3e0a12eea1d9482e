"""Keeps the spares and the golden states: what pool.py and spare.py decide is journalled and done here.

Beside `keeper`, and by its duties: a generation is a spare's or a VM's, and one deed at a time is done for it, also in
the moment in which a lease takes the spare over. Nothing here is needed for a job to run: whatever fails is left for
a while, and jobs boot meanwhile.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hostmaster import ways
from hostmaster.background import Background
from hostmaster.keeper import SPARES, Keeper
from hostmaster.rules import capacity, pool, reconcile, spare
from hostmaster.rules.golden import Golden
from hostmaster.rules.pool import Make
from hostmaster.rules.spare import Deed, Facts, Purpose, Spare, SparePhase
from hostmaster.rules.vm import Vm, Way
from hostmaster.world import Domain, DomainRefused, DomainSpec, DomainState, HypervisorUnavailable, ImageRefused
from protocol.ids import BaitName, BootId, Generation
from protocol.messages import Code, RequestVm, VmPhase
from wnod.crashpoint import around
from wnod.duties import Next, Now

GOLDENS = "golden"
MIB = 1 << 20


@dataclass
class Stock:
    """All spares of one host by generation, its golden states by name: `background.Shelves` and `keeper.Beside`."""

    clock: IReactorTime
    keeper: Keeper
    background: Background
    specify: Callable[[Spare, str, str], DomainSpec]
    new_uuid: Callable[[], str]
    spares: dict[Generation, Spare] = field(default_factory=dict)
    goldens: dict[str, Golden] = field(default_factory=dict)
    standby: dict[Generation, BootId] = field(default_factory=dict)
    """What guests have said in this life of the daemon."""
    litter: set[str] = field(default_factory=set)
    """Golden states without a record: their files are to be removed."""
    _refused: dict[Generation, str] = field(default_factory=dict)
    log: Logger = field(default_factory=lambda: Logger("hostmaster.stock"))

    def __post_init__(self) -> None:
        self.background.shelves = self
        self.keeper.beside = self

    # --- hostmaster.keeper.Beside --------------------------------------------------------------------

    def load(self) -> None:
        """Read the journal."""
        for record in self.keeper.journal.load(SPARES, Spare).values():
            self.spares[record.generation] = record
            self.keeper.guests.open(record.key)
            self.keeper.unheard.taken_up(record)
        self.goldens = self.keeper.journal.load(GOLDENS, Golden)

    async def recover(self, domains: Iterable[Domain]) -> None:
        """Compare records with what there is: spares nobody knows go, and so do golden states without a record."""
        records = set(self.goldens)
        self._take_up(tuple(domains))
        try:
            there = await self.keeper.images.goldens()
        except OSError as error:  # no job needs them: whatever cannot be restored boots
            self.log.error("golden states cannot be listed, they are left as they are: {error}", error=error)
            return
        for name in sorted(records.intersection(self.goldens) - set(there)):
            self.log.warn("golden state {name} is gone", name=name)
            self.forget_golden(name)
        known = {*self.goldens, *(s.golden for s in self.spares.values() if s.purpose is Purpose.GOLDEN)}
        self.litter |= set(there) - known
        self.background.kick()

    async def look_for_strays(self) -> None:
        """As `recover` does: one may come late, from a call that libvirt had not answered in time."""
        self._take_up(tuple((await self.keeper.look.get()).values()))

    def _take_up(self, domains: tuple[Domain, ...]) -> None:
        for stray in reconcile.strays(domains, self.keeper.vms, self.spares, self.keeper.host, self.clock.seconds()):
            self.log.warn("{spare}: a spare that is not in the journal: it goes", spare=stray.key)
            self.keeper.count_above(stray.generation)
            self.put(stray)

    def with_uuid(self, uuid: str) -> tuple[Generation, ...]:
        """Of the spares whose domain has this UUID."""
        return tuple(record.generation for record in self.spares.values() if record.uuid == uuid)

    def in_the_way(self, vm: Vm) -> bool:
        """True while a VM that was granted waits for spares to be gone."""
        vms = self.keeper.vms.values()
        return bool(self.spares) and capacity.in_the_way(vm, self.background.host(), vms, tuple(self.spares.values()))

    def noticed(self) -> None:
        """A VM is off the record: its slot can be used."""
        self.background.kick()

    # --- what the conversation with baits and guests needs -----------------------------------------------

    def by_key(self, key: str) -> Spare | None:
        """The spare whose overlay and channel have this name."""
        return next((record for record in self.spares.values() if record.key == key), None)

    def take(self, generation: Generation, ask: RequestVm, bait: BaitName) -> Vm:
        """The spare becomes the lease's VM: one record in the place of the other, in one transaction."""
        record = self.spares[generation]
        vm = spare.taken(record, ask, bait, self.clock.seconds())
        self.keeper.put(vm, was_spare=True)
        if generation in self.standby:
            self.keeper.waking.unanswered.add(generation)
        self._forget_memory(generation)
        self.background.kick()
        return vm

    def evict(self, generation: Generation, text: str) -> None:
        """The spare gives way."""
        if generation in self.spares:
            self.put(spare.evict(self.spares[generation], text, self.clock.seconds()))

    def became(self, before: Vm | None, vm: Vm) -> None:
        """A VM's record changed: learn from it. Of one that did not come up, its golden state may be the reason."""
        if before is not None and before.way is not vm.way:
            self.background.made(before.way, "fell-back")
            if not self.keeper.deeds.hosts_trouble.get(vm.generation):
                self.background.distrust(before.golden)
        if before is not None and before.phase is VmPhase.BOOTING and before.phase is not vm.phase:
            if vm.phase in (VmPhase.READY, VmPhase.BOUND, VmPhase.STARTED):
                self.background.made(vm.way, "ready")
            elif vm.code is Code.BOOT_FAILED:
                self.background.made(vm.way, "failed")
                if vm.way is not Way.BOOT:  # a spare that booted has the name of what it would become
                    self.background.distrust(vm.golden)
        if pool.is_news(before, vm):
            self.background.kick()

    # --- records -----------------------------------------------------------------------------------------

    def put(self, record: Spare) -> None:
        """Journal the record, then believe it, then see to what follows from it."""
        before = self.spares.get(record.generation)
        if before == record:
            return
        with around(f"host.commit.spare-{record.phase}"):
            self.keeper.journal.put(SPARES, str(record.generation), record)
        self.spares[record.generation] = record
        self.log.debug("{spare}: {phase} {text}", spare=record.key, phase=str(record.phase), text=record.text)
        self.keeper.duties.kick(str(record.generation))
        if pool.is_news(before, record):
            self.background.kick()

    def _forget(self, record: Spare) -> None:
        self.keeper.guests.close(record.key)  # if it fails, all of this is tried again
        with around("host.forget-spare"):
            self.keeper.journal.remove(SPARES, str(record.generation))
        del self.spares[record.generation]
        self._forget_memory(record.generation)
        self.keeper.kick_all()  # somebody may have waited for its room
        self.background.kick()

    def _forget_memory(self, generation: Generation) -> None:
        self.standby.pop(generation, None)
        self._refused.pop(generation, None)
        if generation not in self.keeper.vms:  # or it is what the guest of a lease's VM has said
            self.keeper.failed.pop(generation, None)
            self.keeper.deeds.hosts_trouble.pop(generation, None)

    def forget_golden(self, name: str) -> None:
        """No VM is restored from it any more, and its files are litter."""
        with around("host.forget-golden"):
            self.keeper.journal.remove(GOLDENS, name)
        del self.goldens[name]
        self.litter.add(name)
        self.background.kick()

    async def sweep(self, name: str) -> None:
        """Remove the files of a golden state that has no record."""
        with around("host.sweep"):
            await self.keeper.images.remove_golden(name)
        self.litter.discard(name)

    # --- one spare ---------------------------------------------------------------------------------------

    async def step(self, generation: Generation) -> Next:
        """See to this spare: look, decide, journal, act."""
        facts = await self._facts(generation)
        record = self.spares.get(generation)
        if record is None:
            return Now.REST
        step = spare.decide(record, facts, self.keeper.times)
        if step.spare is None:
            self._forget(record)
            return Now.REST
        self.background.judge(record, step.spare)
        self.put(step.spare)
        if step.deed is not None:
            with around(f"host.deed.spare-{step.deed.value}"):
                return await self._perform(step.spare, step.deed)
        if step.spare != record:
            return Now.AGAIN
        return Now.REST if step.wake_at is None else max(0.0, step.wake_at - facts.now)

    async def _facts(self, generation: Generation) -> Facts:
        domain, remains, may_come = None, None, True
        try:
            seen = await self.keeper.look.get()
            may_come = self.keeper.unheard.may_come(generation)  # as of this look: a later one may have found it
            record = self.spares[generation]
            domain = reconcile.state_of(seen.get(record.uuid), generation)
            if record.phase is SparePhase.DESTROYING and domain is DomainState.ABSENT:
                remains = record.key in await self.keeper.images.overlays() or await self._half_saved(record)
        except (HypervisorUnavailable, KeyError):
            domain = None
        return Facts(
            now=self.clock.seconds(),
            domain=domain,
            remains=remains,
            standby=self.standby.get(generation),
            failed=self.keeper.failed.get(generation, ""),
            refused=self._refused.get(generation, ""),
            may_come=may_come,
            able=self.keeper.able(),
        )

    async def _half_saved(self, record: Spare) -> bool:
        if record.purpose is not Purpose.GOLDEN or record.golden in self.goldens:
            return False
        return record.golden in await self.keeper.images.goldens()

    async def _perform(self, record: Spare, deed: Deed) -> Next:
        keeper = self.keeper
        try:
            match deed:
                case Deed.CREATE:
                    await ways.make(record, self.specify, keeper.hypervisor, keeper.images, keeper.guests)
                    keeper.waking.greet(record.key)
                case Deed.PAUSE:
                    await keeper.hypervisor.pause(record.uuid)
                case Deed.SAVE:
                    await self._save(record)
                case Deed.DESTROY:
                    await keeper.hypervisor.destroy(record.uuid)
                case Deed.CLEAN:
                    await self._clean(record)
        except HypervisorUnavailable as error:
            if deed is Deed.CREATE:
                keeper.unheard.asked(record.generation)
            self.log.warn("{spare}: {deed}: no answer: {error}", spare=record.key, deed=deed.value, error=error)
            return keeper.times.retry_s
        except (DomainRefused, ImageRefused, OSError) as error:
            if deed in (Deed.CREATE, Deed.SAVE) and record.generation in self.spares:  # or a lease has taken it
                self._refused[record.generation] = str(error)
                keeper.deeds.hosts_trouble[record.generation] = ways.is_hosts_trouble(error)
            self.log.warn("{spare}: {deed}: refused: {error}", spare=record.key, deed=deed.value, error=error)
            return keeper.times.retry_s
        return Now.AGAIN

    async def _save(self, record: Spare) -> None:
        images = self.keeper.images
        await self.keeper.hypervisor.save(record.uuid, await images.golden_path(record.golden))
        await images.freeze(record.golden, record.key)
        size = (await images.goldens()).get(record.golden, 0)
        golden = Golden(
            name=record.golden,
            vm=record.vm,
            uuid=record.uuid,
            environment=record.environment,
            image=record.image,
            shape=record.shape,
            mib=-(-size // MIB),
            made_at=self.clock.seconds(),
        )
        self.keeper.guests.close(record.key)
        journal = self.keeper.journal
        with around("host.commit.golden"), journal.transaction():
            journal.put(GOLDENS, golden.name, golden)
            journal.remove(SPARES, str(record.generation))
        self.goldens[golden.name] = golden
        self.litter.discard(golden.name)
        del self.spares[record.generation]
        self._forget_memory(record.generation)
        self.background.succeeded(record)
        self.keeper.kick_all()
        self.background.kick()

    async def _clean(self, record: Spare) -> None:
        self.keeper.guests.close(record.key)
        await self.keeper.images.remove_overlay(record.key)
        if await self._half_saved(record):
            await self.keeper.images.remove_golden(record.golden)

    def make(self, wanted: Make) -> None:
        """Record a new spare; the rest follows."""
        now = self.clock.seconds()
        record = Spare(
            generation=Generation(self.keeper.journal.next_number("generation")),
            vm=wanted.slot,
            uuid=wanted.uuid or self.new_uuid(),
            environment=wanted.kind.environment,
            image=self.background.host().images[wanted.kind.environment],
            shape=wanted.kind.shape,
            purpose=wanted.purpose,
            way=wanted.way,
            golden=wanted.golden,
            made_at=now,
            since=now,
        )
        self.put(record)
