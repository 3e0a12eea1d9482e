"""Golden states: a slot's saved memory and overlay at standby. Which still fit, which to make next, which to remove.

A golden state serves its own slot only, because it has that slot's name, MAC and address in its memory. Its name holds
a digest of all that it depends on; one whose name is not what it would be called today is stale. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from protocol.ids import EnvironmentName, Shape, VmName


class Kind(msgspec.Struct, frozen=True):
    """What VMs must have in common for one to serve in the place of another, beside the environment's image."""

    environment: EnvironmentName
    shape: Shape
    """As charged: with the environment's own memory."""

    @property
    def order(self) -> tuple[str, int, int, int]:
        """For sorting: one order, always the same."""
        return (self.environment, self.shape.cpus, self.shape.memory_mib, self.shape.disk_mib)


class Golden(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One golden state that is whole. Times are seconds since 1970."""

    name: str
    vm: VmName
    """The slot."""
    uuid: str
    """The saved domain's, and so of every VM that is restored from it."""
    environment: EnvironmentName
    image: str
    shape: Shape
    mib: int
    """What it takes on disk."""
    made_at: float

    @property
    def kind(self) -> Kind:
        """What it can serve."""
        return Kind(self.environment, self.shape)


def name_of(slot: VmName, *depends_on: str) -> str:
    """The golden state's name, which is a new one whenever something it depends on has changed."""
    return f"{slot}-{sha256(msgspec.json.encode(depends_on)).hexdigest()[:12]}"


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class Shelf:
    """What is there, what is wanted, and how much room there is for it."""

    slots: Sequence[VmName]
    goldens: Iterable[Golden]
    names: Mapping[tuple[VmName, Kind], str]
    """What a golden state of that slot and kind would be called today; missing: nobody knows just now."""
    images: Mapping[EnvironmentName, str]
    worth: Mapping[Kind, float]
    """How much a golden state of this kind is worth; a kind that is not there is not made."""
    budget_mib: int
    in_use: frozenset[str] = frozenset()
    """Names of those that a VM or a spare is just being restored from: not removed."""


CLEAR = 2.0
"""How much more a golden state must be worth than one that it pushes out: so that two never push each other."""


def is_stale(golden: Golden, shelf: Shelf) -> bool:
    """True if it is known to fit no more. What nobody knows just now is no reason."""
    if golden.vm not in shelf.slots or shelf.images.get(golden.environment) != golden.image:
        return True
    name = shelf.names.get((golden.vm, golden.kind))
    return name is not None and name != golden.name


def worth(golden: Golden, shelf: Shelf) -> float:
    """What it is worth to keep it."""
    return shelf.worth.get(golden.kind, 0.0)


def to_remove(shelf: Shelf) -> tuple[str, ...]:
    """Names of golden states to remove: stale ones, and the least worth if together they exceed the budget."""
    stale: list[Golden] = []
    kept: list[Golden] = []
    for golden in shelf.goldens:
        (stale if is_stale(golden, shelf) else kept).append(golden)
    used = sum(golden.mib for golden in kept)
    if used > shelf.budget_mib:
        kept.sort(key=lambda g: (worth(g, shelf), g.made_at, g.name))
    while kept and used > shelf.budget_mib:
        used -= kept[0].mib
        stale.append(kept.pop(0))
    return tuple(golden.name for golden in stale if golden.name not in shelf.in_use)


@dataclass(frozen=True, slots=True)
class Place:
    """A golden state to make, after removing these to have disk for it."""

    slot: VmName
    kind: Kind
    name: str
    remove: tuple[str, ...] = ()


def to_make(shelf: Shelf, usable: Iterable[VmName]) -> tuple[Place, ...]:
    """What could be made next in a slot that can be used now, the most worthy first."""
    usable = set(usable)
    there = {(golden.vm, golden.kind) for golden in shelf.goldens if not is_stale(golden, shelf)}
    kinds = sorted(shelf.worth, key=lambda kind: (-shelf.worth[kind], kind.order))
    wanted = [(slot, kind) for kind in kinds for slot in shelf.slots if slot in usable and (slot, kind) not in there]
    places = (_place(slot, kind, shelf) for slot, kind in wanted if (slot, kind) in shelf.names)
    return tuple(place for place in places if place is not None)


def _place(slot: VmName, kind: Kind, shelf: Shelf) -> Place | None:
    """With what has to go for it; None if what would have to go is worth too much."""
    left = shelf.budget_mib - sum(golden.mib for golden in shelf.goldens) - expected_mib(kind, shelf)
    remove = []
    for golden in sorted(shelf.goldens, key=lambda g: (worth(g, shelf), g.made_at, g.name)):
        if left >= 0:
            break
        mine = worth(golden, shelf)
        if mine < shelf.worth[kind] and mine * CLEAR <= shelf.worth[kind] and golden.name not in shelf.in_use:
            remove.append(golden.name)
            left += golden.mib
    return Place(slot, kind, shelf.names[slot, kind], tuple(remove)) if left >= 0 else None


def expected_mib(kind: Kind, shelf: Shelf) -> int:
    """What one more of this kind will take on disk: the most that one took, else all of its memory."""
    return max((golden.mib for golden in shelf.goldens if golden.kind == kind), default=kind.shape.memory_mib)
