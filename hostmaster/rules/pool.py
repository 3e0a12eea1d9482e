"""How many spares of which kind wait, and what is made next in the background. Pure.

Little's law: while one spare is being made anew (`refill_s`), so many requests arrive as their rate times that time; so
many spares must wait that none of these comes in vain. The configuration bounds it from below and above, the room that
no job uses from above too; without demand and without `keep` it is nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, sqrt

from hostmaster.rules import golden
from hostmaster.rules.capacity import Host, in_the_way
from hostmaster.rules.golden import Golden, Kind, Shelf
from hostmaster.rules.spare import GOING, Purpose, Spare, SparePhase
from hostmaster.rules.vm import Vm, Way
from protocol.ids import Generation, Room, VmName
from protocol.messages import VmPhase

MEMORY_S = 300.0
"""Requests count for the rate with a weight that falls by the factor e in this time."""
RARE = 0.1
"""So few arrivals within one refill are not waited for."""
SLACK = 1.5
"""A spare is given up only if it would not be wanted at this many times the demand: no making and dropping in turn."""
FORGOTTEN = 0.05
"""A kind whose requests weigh no more is no longer worth a golden state, unless it is configured."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests for one kind: `weight` as of the time `at`."""

    weight: float = 0.0
    at: float = 0.0

    def now(self, now: float) -> float:
        """The weight of all requests so far; a clock that was set back counts as no time."""
        return self.weight * exp(-max(0.0, now - self.at) / MEMORY_S)

    def asked(self, now: float) -> "Demand":
        """One more request."""
        return Demand(self.now(now) + 1.0, now)

    def rate(self, now: float) -> float:
        """Requests per second."""
        return self.now(now) / MEMORY_S


@dataclass(frozen=True, slots=True)
class Line:
    """What the configuration says of one kind of spare."""

    kind: Kind
    keep: int
    at_most: int


def wanted(line: Line, rate: float, refill_s: float) -> int:
    """How many spares of this kind are to wait. Rate in requests per second."""
    during = max(0.0, rate) * max(0.0, refill_s)
    demand = 0 if during < RARE else ceil(during + sqrt(during))
    return max(line.keep, min(line.at_most, demand))


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class View:
    """All that the next piece of background work depends on."""

    now: float
    host: Host
    vms: Sequence[Vm]
    spares: Sequence[Spare]
    goldens: Sequence[Golden]
    lines: Sequence[Line]
    names: Mapping[tuple[VmName, Kind], str]
    demand: Mapping[Kind, Demand]
    refill_s: Mapping[Kind, float]
    budget_mib: int = 0
    resting: frozenset[Kind] = frozenset()
    """Kinds of which one failed lately: nothing is made of them for a while."""


@dataclass(frozen=True, slots=True)
class Make:
    """A spare to make. `golden` is its golden state's name; `uuid` that of the one it is restored from."""

    slot: VmName
    kind: Kind
    purpose: Purpose
    way: Way
    golden: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Spares to give up, golden states to remove, and at most one spare to make."""

    drop: tuple[Generation, ...] = ()
    remove: tuple[str, ...] = ()
    make: Make | None = None


def plan(view: View) -> Plan:
    """What to do in the background now."""
    drop = tuple(dict.fromkeys(surplus(view)))
    remove = golden.to_remove(shelf(view)) if view.goldens else ()
    if drop or remove:
        return Plan(drop, remove)  # first make room, then look again
    return _making(view)


# --- what is too much --------------------------------------------------------------------------------


def surplus(view: View) -> Iterable[Generation]:
    """Spares that nobody wants any more, or that were made for what has changed since."""
    for spare in view.spares:
        if not spare.going and _is_stale(spare, view):
            yield spare.generation
    if _blocked(view):
        yield from (spare.generation for spare in view.spares)
    lines = {line.kind: line for line in view.lines}
    for kind in {_kind(spare) for spare in view.spares}:
        line = lines.get(kind, Line(kind, 0, 0))
        most = wanted(line, SLACK * _rate(kind, view), _refill_s(kind, view))
        yield from (spare.generation for spare in _waiting(kind, view)[most:])


def _blocked(view: View) -> bool:
    """A VM waits for room and no spare is about to make some: more is in use than the configuration now allows."""
    waiting = [vm for vm in view.vms if vm.phase is VmPhase.RESERVED]
    going = any(spare.going for spare in view.spares)
    return not going and any(in_the_way(vm, view.host, view.vms, view.spares) for vm in waiting)


def _is_stale(spare: Spare, view: View) -> bool:
    if spare.vm not in view.host.slots or view.host.images.get(spare.environment) != spare.image:
        return True
    name = view.names.get((spare.vm, _kind(spare)))
    return name is not None and name != spare.golden


def _waiting(kind: Kind, view: View) -> list[Spare]:
    """The pool's spares of that kind, the most advanced and then the oldest first."""
    mine = [s for s in view.spares if s.purpose is Purpose.POOL and not s.going and not _is_stale(s, view)]
    order = (SparePhase.PAUSED, SparePhase.STANDBY, SparePhase.BOOTING, SparePhase.CREATING)
    return sorted((s for s in mine if _kind(s) == kind), key=lambda s: (order.index(s.phase), s.generation))


# --- what is missing ---------------------------------------------------------------------------------

ON_ITS_WAY = frozenset({VmPhase.RESERVED, VmPhase.CREATING, VmPhase.BOOTING})
"""A VM of a job is being made: the background waits."""
ABOUT_TO_START = frozenset({VmPhase.READY, VmPhase.BOUND})
"""Its job is about to start: nothing boots meanwhile, because that would slow it down."""
BEING_MADE = frozenset({SparePhase.CREATING, SparePhase.BOOTING, SparePhase.STANDBY, SparePhase.SAVING})

_SEEN_OF_VMS = (frozenset({VmPhase.RESERVED}), ON_ITS_WAY, ABOUT_TO_START, frozenset({VmPhase.GONE}))
_SEEN_OF_SPARES = (BEING_MADE, GOING)
"""All that a plan looks at in a phase."""


def is_news(before: Vm | Spare | None, after: Vm | Spare) -> bool:
    """True if a plan that had nothing to do before this change may have something to do after it."""
    seen = _SEEN_OF_VMS if isinstance(after, Vm) else _SEEN_OF_SPARES
    return before is None or any((before.phase in part) is not (after.phase in part) for part in seen)


def _making(view: View) -> Plan:
    if any(vm.phase in ON_ITS_WAY for vm in view.vms) or any(s.phase in BEING_MADE for s in view.spares):
        return Plan()
    may_boot = not any(vm.phase in ABOUT_TO_START for vm in view.vms)
    for line in view.lines:
        if len(_waiting(line.kind, view)) < wanted(line, _rate(line.kind, view), _refill_s(line.kind, view)):
            make = _spare(line.kind, view, may_boot) if _possible(line.kind, view) else None
            if make is not None:
                return Plan(make=make)
    return _golden(view) if may_boot else Plan()


def _spare(kind: Kind, view: View, may_boot: bool) -> Make | None:
    """A spare for the pool: restored if a free slot has its golden state, else by way of making one, else booted."""
    usable = usable_slots(view)
    for state in view.goldens:
        if state.vm in usable and state.kind == kind and view.names.get((state.vm, kind)) == state.name:
            return Make(state.vm, kind, Purpose.POOL, Way.RESTORE, state.name, state.uuid)
    if not may_boot or any(place.kind == kind for place in golden.to_make(shelf(view), usable)):
        return None  # `_golden` makes it
    slot = next((slot for slot in view.host.slots if slot in usable and (slot, kind) in view.names), None)
    return None if slot is None else Make(slot, kind, Purpose.POOL, Way.BOOT, view.names[slot, kind])


def _golden(view: View) -> Plan:
    if not view.budget_mib:
        return Plan()
    places = golden.to_make(shelf(view), usable_slots(view))
    place = next((place for place in places if _possible(place.kind, view)), None)
    if place is None:
        return Plan()
    if place.remove:
        return Plan(remove=place.remove)
    return Plan(make=Make(place.slot, place.kind, Purpose.GOLDEN, Way.BOOT, place.name))


def usable_slots(view: View) -> frozenset[VmName]:
    """Slots that neither a VM nor a spare has."""
    taken = {vm.vm for vm in view.vms} | {spare.vm for spare in view.spares}
    return frozenset(slot for slot in view.host.slots if slot not in taken)


def left(host: Host, vms: Iterable[Vm], spares: Iterable[Spare]) -> Room:
    """The room that nothing uses: beside every VM and every spare that has not been seen gone."""
    room = host.total
    for vm in vms:
        if vm.phase is not VmPhase.GONE:
            room = room.minus(vm.shape)
    for spare in spares:
        room = room.minus(spare.shape)
    return room


def _possible(kind: Kind, view: View) -> bool:
    fits = kind.shape.fits(left(view.host, view.vms, view.spares))
    return fits and kind not in view.resting and kind.environment not in view.host.refusals


# --- the view --------------------------------------------------------------------------------------


def shelf(view: View) -> Shelf:
    """The golden states' part of the view. Configured kinds are always worth one, others while they are asked for."""
    worth = {kind: weight for kind, d in view.demand.items() if (weight := d.now(view.now)) > FORGOTTEN}
    for line in view.lines:
        worth[line.kind] = worth.get(line.kind, 0.0) + max(1.0, line.keep)
    making = [vm.golden for vm in view.vms if vm.phase in ON_ITS_WAY]
    return Shelf(
        slots=view.host.slots,
        goldens=view.goldens,
        names=view.names,
        images=view.host.images,
        worth=worth if view.budget_mib else {},
        budget_mib=view.budget_mib,
        in_use=frozenset([*making, *(s.golden for s in view.spares if s.phase in BEING_MADE)]),
    )


def _kind(spare: Spare) -> Kind:
    return Kind(spare.environment, spare.shape)


def _rate(kind: Kind, view: View) -> float:
    return view.demand.get(kind, Demand()).rate(view.now)


def _refill_s(kind: Kind, view: View) -> float:
    return view.refill_s.get(kind, 5.0)
