"""What is made in the background, and what experience says of it: demand, refill times, failures. Acts through `stock`.

Nothing here is on disk: demand is an estimate that is soon learnt again, and names follow from the configuration.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hostmaster.keeper import Keeper
from hostmaster.rules import pool
from hostmaster.rules.capacity import Host
from hostmaster.rules.golden import Golden, Kind
from hostmaster.rules.pool import Demand, Line, Make, View
from hostmaster.rules.spare import Purpose, Spare, SparePhase
from hostmaster.rules.vm import Way
from hostmaster.world import DomainRefused, HypervisorUnavailable, ImageRefused
from protocol.ids import EnvironmentName, Generation, Shape, VmName
from wnod.duties import Duties, Next, Now

LOOK_EVERY_S = 5.0
"""So often it is looked whether something is wanted in the background; and at once when something has changed."""
FIRST_REST_S = 30.0
LAST_REST_S = 600.0
"""A kind of which a spare failed is left alone for so long, doubled with each failure."""
MOST_KINDS = 200


class Shelves(Protocol):
    """What there is, and how it is changed: hostmaster.stock.Stock."""

    spares: dict[Generation, Spare]
    goldens: dict[str, Golden]
    litter: set[str]

    def make(self, wanted: Make) -> None:
        """Record a new spare; the rest follows."""

    def evict(self, generation: Generation, text: str) -> None:
        """The spare gives way."""

    def forget_golden(self, name: str) -> None:
        """No VM is restored from it any more, and its files are litter."""

    async def look_for_strays(self) -> None:
        """Take up spares that no journal knows, as ones that are to go."""

    async def sweep(self, name: str) -> None:
        """Remove the files of a golden state that has no record."""


@dataclass
class Background:
    """Decides and learns; one for a `Stock`."""

    clock: IReactorTime
    keeper: Keeper
    host: Callable[[], Host]
    name: Callable[[VmName, Kind, str], str]
    """What the golden state of a slot and kind is called under this identity of the hypervisor. May raise
    ImageRefused, DomainRefused or HypervisorUnavailable while nobody knows."""
    lines: Callable[[], Sequence[Line]] = tuple
    budget_mib: int = 0
    configured: bool = False
    """Something is to be made in advance. Otherwise only what is left from another configuration is removed."""
    made: Callable[[Way, str], None] = lambda way, outcome: None
    """A VM or spare that was made this way is "ready", or has "failed", or was made another way: "fell-back"."""
    shelves: Shelves = field(init=False)
    demand: dict[Kind, Demand] = field(default_factory=dict)
    refill_s: dict[Kind, float] = field(default_factory=dict)
    told: Callable[[], object] = lambda: None
    """What may change while the host serves, of all that names come from: they are made anew when it does.

    It looks at files, so it is asked once for each `beat` and not by each request: names are that much behind."""
    _told: object = None
    _ask_anew: bool = True
    _identity: str = ""
    """Of the hypervisor; empty: not known yet, so nothing is made and nothing taken for stale."""
    _names: dict[tuple[VmName, Kind], str] = field(default_factory=dict)
    _named: set[Kind] = field(default_factory=set)
    """Kinds that have a name for every slot."""
    _due: bool = False
    _rests: dict[Kind, tuple[int, float]] = field(default_factory=dict)
    """Failures in a row, and until when nothing is made of the kind."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster.background"))

    def __post_init__(self) -> None:
        self.duties = Duties(self.clock, self._look_around, "background")

    def kick(self) -> None:
        """Something may have changed that the background depends on."""
        there = self.shelves
        if self.configured or there.spares or there.goldens or there.litter:
            self.duties.kick("all")

    def beat(self) -> None:
        """Look at libvirt too; call this every LOOK_EVERY_S."""
        self._due = self._ask_anew = True
        self.kick()

    def settled(self, identity: str) -> None:
        """The hypervisor has this identity, and the images and the configuration are what they are now."""
        if self._identity not in ("", identity):
            self.log.info("the hypervisor has changed: golden states are made anew")
        self._identity = identity
        self._ask_anew = True
        self._names.clear()
        self._named.clear()
        self.kick()

    @property
    def is_settled(self) -> bool:
        """The hypervisor, the images and the configuration are known: something can be made."""
        return self._identity != ""

    # --- experience ----------------------------------------------------------------------------------------

    def asked(self, environment: EnvironmentName, shape: Shape) -> None:
        """A job has asked for a VM of this kind, whatever it was answered."""
        if not self.configured:
            return
        now, kind = self.clock.seconds(), Kind(environment, shape)
        if len(self.demand) >= MOST_KINDS:
            self.demand = {k: d for k, d in self.demand.items() if d.now(now) > pool.FORGOTTEN}
        self.demand[kind] = self.demand.get(kind, Demand()).asked(now)

    def judge(self, before: Spare, after: Spare) -> None:
        """Learn from what became of a spare by itself. What was evicted says nothing."""
        if before.phase is after.phase:
            return
        if after.phase is SparePhase.DESTROYING:
            self._failed(before, after.text)
        elif after.phase is SparePhase.PAUSED:
            self.succeeded(after)

    def succeeded(self, record: Spare) -> None:
        """It is at standby and paused, or it is saved."""
        kind = Kind(record.environment, record.shape)
        took_s = self.clock.seconds() - record.made_at
        self.made(record.way, "ready")
        self._rests.pop(kind, None)
        if record.purpose is Purpose.POOL:
            self.refill_s[kind] = (self.refill_s.get(kind, took_s) + took_s) / 2

    def _failed(self, record: Spare, text: str) -> None:
        kind = Kind(record.environment, record.shape)
        self.log.warn("{spare}: failed: {text}", spare=record.key, text=text)
        came_up = record.phase in (SparePhase.STANDBY, SparePhase.PAUSED, SparePhase.SAVING)
        if not came_up:
            self.made(record.way, "failed")
        failures, _ = self._rests.get(kind, (0, 0.0))
        rest_s = min(LAST_REST_S, FIRST_REST_S * 2.0 ** min(failures, 10))
        self._rests[kind] = (failures + 1, self.clock.seconds() + rest_s)
        blameless = self.keeper.deeds.hosts_trouble.get(record.generation, False)
        if record.way is Way.RESTORE and not came_up and not blameless:
            self.distrust(record.golden)

    def distrust(self, name: str) -> None:
        """VMs from this golden state do not come up: it is removed, and made anew later."""
        if name in self.shelves.goldens:
            self.log.warn("golden state {name} is given up: a VM did not come up from it", name=name)
            self.shelves.forget_golden(name)

    # --- what is done ----------------------------------------------------------------------------------------

    async def _look_around(self, _: str) -> Next:
        if self.keeper.away or not self._identity:
            return Now.REST
        if self._due:
            self._due = False
            try:
                await self.shelves.look_for_strays()
            except HypervisorUnavailable:
                return Now.REST
        if self.shelves.litter:
            await self._sweep()
        plan = pool.plan(self.view())
        for generation in plan.drop:
            self.shelves.evict(generation, "not wanted any more")
        for name in plan.remove:
            self.shelves.forget_golden(name)
        if plan.make is not None:
            self.shelves.make(plan.make)
        return Now.AGAIN if plan.remove else Now.REST

    async def _sweep(self) -> None:
        for name in sorted(self.shelves.litter - pool.shelf(self.view()).in_use):
            try:
                await self.shelves.sweep(name)
            except OSError as error:  # all else goes on
                self.shelves.litter.discard(name)
                self.log.error("golden state {name} is left for now: {error}", name=name, error=error)

    def fitting(self) -> tuple[Golden, ...]:
        """Golden states from which a VM can be restored today."""
        there = tuple(self.shelves.goldens.values())
        names, images = (self._names_now(), self.host().images) if there else ({}, {})
        return tuple(g for g in there if names.get((g.vm, g.kind)) == g.name and images.get(g.environment) == g.image)

    def view(self) -> View:
        """All that the next piece of work depends on."""
        now = self.clock.seconds()
        return View(
            now=now,
            host=self.host(),
            vms=tuple(self.keeper.vms.values()),
            spares=tuple(self.shelves.spares.values()),
            goldens=tuple(self.shelves.goldens.values()),
            lines=tuple(self.lines()),
            names=self._names_now(),
            demand=self.demand,
            refill_s=self.refill_s,
            budget_mib=self.budget_mib,
            resting=frozenset(kind for kind, (_, until) in self._rests.items() if now < until),
        )

    def _names_now(self) -> dict[tuple[VmName, Kind], str]:
        """What golden states would be called today; those that nobody can say just now are missing."""
        kinds = {line.kind for line in self.lines()} | {golden.kind for golden in self.shelves.goldens.values()}
        kinds |= {Kind(record.environment, record.shape) for record in self.shelves.spares.values()}
        kinds |= set(self.demand) if self.budget_mib else set()
        if self._ask_anew:
            self._ask_anew, before, self._told = False, self._told, self.told()
            if self._told != before:
                self._names.clear()
                self._named.clear()
        if self._identity and not kinds <= self._named:
            slots = self.host().slots
            for slot in slots:
                for kind in kinds - self._named:
                    if (slot, kind) not in self._names:
                        self._name(slot, kind)
            self._named = {kind for kind in kinds if all((slot, kind) in self._names for slot in slots)}
        return self._names

    def _name(self, slot: VmName, kind: Kind) -> None:
        try:
            self._names[slot, kind] = self.name(slot, kind, self._identity)
        except (DomainRefused, ImageRefused, HypervisorUnavailable):
            return
