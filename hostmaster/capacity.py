"""What this host has left, and whether a request gets a slot. Pure: in-doubt VMs count as taken (R14)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from hostmaster.lifecycle import Vm
from protocol.ids import EnvironmentName, Room, Shape, VmName
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
    """This slot, now charged with the request's shape."""

    slot: VmName


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


def admit(request: RequestVm, host: Host, vms: Iterable[Vm]) -> Grant | Refusal:
    """Give the request a slot, or say why not and whether it is worth asking again.

    A job that already has a VM here (an older run's) waits until that VM is confirmed gone (R10).
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
    return Grant(slots[0])


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
