"""What a hostmaster and its guests do next: `hostmaster.rules.lifecycle.decide`, libvirt, and the gate."""

from collections.abc import Iterator

from tests.model import product
from tests.model.rules import Moves, Rules, current, domain_of, job, put, requeue, swap, vm_of
from tests.model.state import Domain, Host, Vm, World


def host_moves(world: World, rules: Rules, at: int, host: Host) -> Moves:
    away = not host.linked or host.dead or host.bait_down
    for vm in host.vms:
        for expired in (False, True) if away else (False,):
            yield from ((what, after) for what, after, _ in keep(world, rules, at, vm, expired, late=False))


def keep(world: World, rules: Rules, at: int, vm: Vm, expired: bool, late: bool) -> Iterator[tuple[str, World, str]]:
    """One step of a VM's record, and its deed."""
    host = world.hosts[at]
    domain = domain_of(host, vm.generation)
    silent = host.cut and "R9" not in rules.without
    there = host.linked and not (host.dead or host.bait_down)
    word = there and domain is not None and current(world, at, domain, vm.bound)
    unknown = host.away and "R13" not in rules.without
    seen = None if host.away else domain
    after, deed = product.vm_step(vm, seen, unknown, expired, late, silent, host.long or late, word)
    vms = swap(host.vms, vm, after) if after.phase != "gone" or not after.released else swap(host.vms, vm)
    moved = put(world, at, vms=vms)
    if deed and not host.away:
        moved = _libvirt(moved, at, after, domain, deed)
    if moved != world:
        yield f"host{at}: generation {vm.generation} {vm.phase}->{after.phase} {deed}", moved, deed


def _libvirt(world: World, at: int, vm: Vm, domain: Domain | None, deed: str) -> World:
    host = world.hosts[at]
    if deed == "create":
        taken = any(other.slot == vm.slot for other in host.domains)
        new = Domain(vm.generation, vm.slot, vm.lease, vm.asked)
        if vm.generation < host.given and any(d.generation == vm.generation for d in host.domains):
            return world
        return world if taken else put(world, at, domains=(*host.domains, new))
    if domain is None:
        return world
    if deed == "label":
        return put(world, at, domains=swap(host.domains, domain, domain._replace(lease=vm.lease)))
    if deed in ("pause", "unpause"):
        return put(world, at, domains=swap(host.domains, domain, domain._replace(paused=deed == "pause")))
    if deed == "destroy":
        if domain.run >= 0 and current(world, at, domain, domain.run) and not world.forgot:
            world = world._replace(wrong="a run is destroyed that the LRMS has in that VM")
        return put(world, at, domains=swap(host.domains, domain))
    return world


def strays(world: World, at: int) -> World:
    """`hostmaster.rules.reconcile.strays`: spares that the journal does not know are destroyed."""
    host = world.hosts[at]
    for domain in host.domains:
        if domain.lease < 0 and vm_of(host, domain.generation) is None:
            world = _libvirt(world, at, Vm(domain.generation, domain.slot, -1, domain.asked), domain, "destroy")
    return world


def guest_moves(world: World, rules: Rules, at: int, host: Host) -> Moves:
    for domain in host.domains:
        if domain.paused:
            continue
        who = f"guest{at}-g{domain.generation}"
        told = domain.lease >= 0 or "label" in rules.without
        if told and not (host.cut or domain.ready):
            nodes = (*(x for x in host.nodes if x[0] != domain.slot), (domain.slot, domain.generation, True))
            ready = swap(host.domains, domain, domain._replace(ready=True))
            yield f"{who}: is ready and a node", put(world, at, nodes=nodes, domains=ready)
        if domain.launch >= 0:
            yield from _gate(world, rules, at, host, domain, who)
        if domain.run >= 0:
            yield from _finish(world, at, host, domain, who)


def _gate(world: World, rules: Rules, at: int, host: Host, domain: Domain, who: str) -> Moves:
    quiet = domain._replace(launch=-1, told=False)
    dropped = put(world, at, domains=swap(host.domains, domain, quiet))
    if not current(world, at, domain, domain.launch) and not host.cut:
        yield f"{who}: drops a launch that is not current", dropped
        return
    if domain.told and domain.marker == domain.launch:
        yield f"{who}: its marker stops a second start", dropped if host.cut else requeue(dropped)
        return
    if domain.told:
        yield f"{who}: USER CODE STARTS", _start(world, at, host, domain)
        return
    vm = None if host.host_down else vm_of(host, domain.generation)
    after, allowed = product.may_start(vm, domain.launch) if vm is not None else (vm, False)
    told = put(world, at, domains=swap(host.domains, domain, domain._replace(told=True)))
    if "R4" in rules.without:
        wrong = "" if allowed else "a start in a VM that is not bound to that run"
        yield f"host{at}: says yes to all", told._replace(wrong=wrong)
    elif allowed and "R1" in rules.without:
        yield f"host{at}: says yes, journals later", told
    elif allowed:
        yield f"host{at}: journals the start, says yes", put(told, at, vms=swap(host.vms, vm, after))
    else:
        yield f"host{at}: says no, or nothing", dropped if host.cut else requeue(dropped)


def _start(world: World, at: int, host: Host, domain: Domain) -> World:
    started = domain._replace(launch=-1, told=False, run=domain.launch, marker=domain.launch)
    return put(world, at, domains=swap(host.domains, domain, started))._replace(starts=world.starts + 1, ran=True)


def _finish(world: World, at: int, host: Host, domain: Domain, who: str) -> Moves:
    ended = put(world, at, domains=swap(host.domains, domain, domain._replace(run=-1)))
    if not current(world, at, domain, domain.run):
        yield f"{who}: a run ends that nobody counts", ended
    elif not host.cut:
        yield f"{who}: the run ends well", job(ended, state="done", where=-1, slot=-1)
