"""What this host has left, whether a request gets a slot, and by which way its VM gets ready. Pure.

In-doubt VMs count as taken (R14). Spares and golden states never keep a request out: what spares take counts as free,
and whoever is granted it waits until the spares that give way are seen gone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from hostmaster.rules.golden import Golden, Kind
from hostmaster.rules.spare import Spare, SparePhase
from hostmaster.rules.vm import Vm, Way
from protocol.ids import EnvironmentName, Generation, Room, Shape, VmName
from protocol.messages import Code, Offer, RequestVm, VmPhase


@dataclass(frozen=True, slots=True)
class Host:
    """What the configuration gives to VMs, and the environments as their images were found."""

    total: Room
    slots: tuple[VmName, ...]
    offers: Mapping[EnvironmentName, Offer]
    refusals: Mapping[EnvironmentName, str]
    """Environments whose image is not fit for use, and why."""
    images: Mapping[EnvironmentName, str]
    """Image ids of the environments in the catalogue."""
    overheads: Mapping[EnvironmentName, int]
    """Memory (MiB) a VM of the environment needs beside what its job asked for."""


@dataclass(frozen=True, slots=True)
class Grant:
    """This slot, now charged with the request's shape; and the fastest way there."""

    slot: VmName
    spare: Generation | None = None
    """The spare in it that becomes the lease's VM."""
    golden: Golden | None = None
    """Else the slot's golden state to restore; None: boot."""
    evict: tuple[Generation, ...] = ()
    """Spares that give way."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """No VM. `permanent`: asking this host again changes nothing."""

    code: Code
    text: str
    permanent: bool
    retry_after_s: float | None = None


def free(host: Host, vms: Iterable[Vm]) -> Room:
    """The room beside every VM on record that has not been seen gone."""
    room = host.total
    for vm in vms:
        if vm.phase is not VmPhase.GONE:
            room = room.minus(vm.shape)
    return room


def free_slots(host: Host, vms: Iterable[Vm]) -> tuple[VmName, ...]:
    """Slots no record has, in configuration order: one whose VM is gone is free when its lease is released."""
    taken = {vm.vm for vm in vms}
    return tuple(slot for slot in host.slots if slot not in taken)


def charged(host: Host, environment: EnvironmentName, wanted: Shape) -> Shape:
    """The shape of the VM whose job sees `wanted`: the environment's own memory comes on top."""
    overhead = host.overheads.get(environment, 0)
    return replace(wanted, memory_mib=wanted.memory_mib + overhead)


def largest(host: Host, offer: Offer) -> Shape | None:
    """The largest job this host could ever take in an environment; None if not even one cpu fits."""
    cpus = min(offer.largest.cpus, host.total.cpus)
    memory = min(offer.largest.memory_mib, host.total.memory_mib - host.overheads.get(offer.environment, 0))
    disk = min(offer.largest.disk_mib, host.total.disk_mib)
    if cpus < 1 or memory < 64 or disk < 16:
        return None
    return Shape(cpus=cpus, memory_mib=memory, disk_mib=disk)


def admit(
    request: RequestVm, host: Host, vms: Iterable[Vm], spares: Iterable[Spare] = (), goldens: Iterable[Golden] = ()
) -> Grant | Refusal:
    """Give the request a slot, or say why not and whether it is worth asking again.

    `goldens`: those that fit today. A job that already has a VM here (an older run's) waits until that VM is
    confirmed gone (R10).
    """
    vms = tuple(vms)
    impossible = _impossible(request, host)
    if impossible is not None:
        return impossible
    if any(vm.asked.same_job(request.run) for vm in vms):
        return Refusal(Code.SUPERSEDED, "an older run of this job still has a VM here", False, 1.0)
    slots = free_slots(host, vms)
    if not slots:
        return Refusal(Code.NO_ROOM, f"all {len(host.slots)} slots are taken", False, 5.0)
    room = free(host, vms)
    shape = charged(host, request.environment, request.shape)
    if not shape.fits(room):
        return Refusal(Code.NO_ROOM, f"wanted {_words(shape)}, free {_words(room)}", False, 5.0)
    kind = Kind(request.environment, shape)
    return fastest(host, vms, tuple(spares), {g.vm: g for g in goldens if g.kind == kind}, kind)


ADVANCED = (SparePhase.PAUSED, SparePhase.STANDBY, SparePhase.BOOTING, SparePhase.CREATING)
"""Phases in which a spare can be taken, the best first."""


def fastest(
    host: Host, vms: Sequence[Vm], spares: Sequence[Spare], goldens: Mapping[VmName, Golden], kind: Kind
) -> Grant:
    """The fastest way to a VM of this kind, for which there is a slot and room beside the VMs.

    A spare that needs only to run, or is being restored; else one slot's golden state; else a spare that boots, else
    a boot. A slot that can be used at once before one that a spare has to leave, and that before one that nobody can
    hurry.
    """
    usable = free_slots(host, vms)
    goldens = {slot: golden for slot, golden in goldens.items() if slot in usable}
    fit = [s for s in spares if s.phase in ADVANCED and _serves(s, kind, host) and (_is_fast(s) or not goldens)]
    if fit:
        best = min(fit, key=lambda s: (not _is_fast(s), ADVANCED.index(s.phase), s.generation))
        return Grant(best.vm, spare=best.generation)
    inside = {spare.vm: spare for spare in spares}

    def cost(slot: VmName) -> tuple[bool, bool, bool, int]:
        spare = inside.get(slot)
        nearly = spare is not None and spare.going
        return (nearly, slot not in goldens, spare is not None, host.slots.index(slot))

    slot = min(usable, key=cost)
    return Grant(slot, None, goldens.get(slot), _to_evict(slot, host, vms, spares, kind.shape))


def _is_fast(spare: Spare) -> bool:
    return spare.phase in (SparePhase.PAUSED, SparePhase.STANDBY) or spare.way is Way.RESTORE


def _serves(spare: Spare, kind: Kind, host: Host) -> bool:
    return (spare.environment, spare.image, spare.shape) == (
        kind.environment,
        host.images[kind.environment],
        kind.shape,
    )


def _to_evict(
    slot: VmName, host: Host, vms: Sequence[Vm], spares: Sequence[Spare], shape: Shape
) -> tuple[Generation, ...]:
    """The spare in the slot, and as many others as it takes to make room: the least advanced first."""
    leaving = [s for s in spares if s.vm == slot]
    staying = [s for s in spares if s.vm != slot and not s.going]
    staying.sort(key=lambda s: (ADVANCED.index(s.phase), s.generation))
    while staying and not shape.fits(_beside(host, vms, staying)):
        leaving.append(staying.pop())
    return tuple(s.generation for s in leaving if not s.going)


def _beside(host: Host, vms: Sequence[Vm], spares: Sequence[Spare]) -> Room:
    room = free(host, vms)
    for spare in spares:
        room = room.minus(spare.shape)
    return room


def in_the_way(vm: Vm, host: Host, vms: Iterable[Vm], spares: Sequence[Spare]) -> bool:
    """True while a reserved VM has to wait for spares: one has its slot, or what all use is more than there is."""
    if not spares:
        return False
    return any(spare.vm == vm.vm for spare in spares) or not _fit(host, vms, spares)


def _fit(host: Host, vms: Iterable[Vm], spares: Iterable[Spare]) -> bool:
    shapes = [vm.shape for vm in vms if vm.phase is not VmPhase.GONE] + [spare.shape for spare in spares]
    most = host.total
    return (
        sum(shape.cpus for shape in shapes) <= most.cpus
        and sum(shape.memory_mib for shape in shapes) <= most.memory_mib
        and sum(shape.disk_mib for shape in shapes) <= most.disk_mib
    )


def _impossible(request: RequestVm, host: Host) -> Refusal | None:
    name = request.environment
    offer = host.offers.get(name)
    if offer is None:
        known = ", ".join(sorted(host.offers)) or "none"
        text = f"environment {name!r} is not known here; known: {known}"
        return Refusal(Code.NO_SUCH_ENVIRONMENT, text, True)
    if name in host.refusals:
        return Refusal(Code.ENVIRONMENT_REFUSED, host.refusals[name], False, 60.0)
    limit = largest(host, offer)
    if limit is None or not request.shape.fits(_room(limit)):
        most = "nothing" if limit is None else _words(limit)
        text = f"environment {name!r}: wanted {_words(request.shape)}, this host can give at most {most}"
        return Refusal(Code.TOO_BIG, text, True)
    return None


def superseded(request: RequestVm, vms: Iterable[Vm]) -> tuple[Vm, ...]:
    """VMs of older runs of the same job whose run never started: the newer run makes them pointless (R6).

    A started one is not among them: whether its run has ended is for the LRMS to say.
    """
    return tuple(
        vm
        for vm in vms
        if vm.lease != request.lease
        and vm.asked.same_job(request.run)
        and vm.asked.restart < request.run.restart
        and vm.phase is not VmPhase.STARTED
    )


def _room(shape: Shape) -> Room:
    return Room(cpus=shape.cpus, memory_mib=shape.memory_mib, disk_mib=shape.disk_mib)


def _words(what: Shape | Room) -> str:
    return f"{what.cpus} cpus, {what.memory_mib} MiB memory, {what.disk_mib} MiB disk"
