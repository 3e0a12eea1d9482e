"""What is tried, how far the model goes, and the small words that its moves are made of."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.model.state import Domain, Host, Vm, World

Moves = Iterator[tuple[str, World]]
MOST_RESTARTS = 4
MOST_LEASES = 3
EVERY_FAULT = frozenset(
    {
        "bait journal",
        "bait",
        "bait node",
        "starter",
        "host journal",
        "host",
        "libvirt",
        "link",
        "vm",
        "cut",
        "slow",
        "user",
    }
)


@dataclass(frozen=True)
class Rules:
    """What is tried: `without` names the rules that are broken, `faults` what may happen, how often in all."""

    without: frozenset[str] = frozenset()
    faults: frozenset[str] = EVERY_FAULT
    most: int = 0
    slots: int = 1
    echo: bool = False
    """Every Release may arrive once more, at any time: no fault."""
    spares: bool = False
    """Whoever asks for a VM is given one that waits, paused and without a lease."""


def bounded(world: World) -> bool:
    """The world is as far as the model goes."""
    return world.job.restart >= MOST_RESTARTS or world.leases >= MOST_LEASES


def put(world: World, at: int, **changes: object) -> World:
    hosts = list(world.hosts)
    hosts[at] = hosts[at]._replace(**changes)
    return world._replace(hosts=tuple(hosts))


def job(world: World, **changes: object) -> World:
    before = None if world.before is None else world.job
    return world._replace(job=world.job._replace(**changes), before=before)


def requeue(world: World, held: bool = False) -> World:
    """The LRMS makes the next run of it."""
    return job(world, state="pending", restart=world.job.restart + 1, where=-1, slot=-1, held=held)


def swap(items: tuple, old: object, *new: object) -> tuple:
    found = items.index(old)
    return items[:found] + new + items[found + 1 :]


def at_bait(world: World, at: int) -> bool:
    return world.job.state == "running" and world.job.where == at and world.job.slot < 0


def current(world: World, at: int, domain: Domain, restart: int) -> bool:
    """The LRMS has that run in that VM."""
    there = world.job.state == "running" and (world.job.where, world.job.slot) == (at, domain.slot)
    return there and world.job.restart == restart


def node_of(host: Host, slot: int) -> tuple[int, int, bool] | None:
    return next((node for node in host.nodes if node[0] == slot), None)


def domain_of(host: Host, generation: int) -> Domain | None:
    return next((domain for domain in host.domains if domain.generation == generation), None)


def vm_of(host: Host, generation: int) -> Vm | None:
    return next((vm for vm in host.vms if vm.generation == generation), None)
