"""What a bait does next: `bait.rules.job.decide` over what it sees, and its deeds."""

from tests.model import product
from tests.model.lrms import node_down
from tests.model.rules import Moves, Rules, at_bait, job, node_of, put, requeue, swap
from tests.model.state import Deed, Domain, Host, Job, Lease, View, Vm, World


def bait_moves(world: World, rules: Rules, at: int, host: Host) -> Moves:
    yield from _intercept(world, rules, at, host)
    if host.deed is not None:
        yield from _perform(world, rules, at, host, host.deed)
        return
    for lease in host.leases:
        yield from decide(world, rules, at, lease, late=False)
        if not host.linked:
            yield from decide(world, rules, at, lease, late=True)


def _intercept(world: World, rules: Rules, at: int, host: Host) -> Moves:
    starter = host.starter
    if starter is None or starter.word or host.cut or not at_bait(world, at) or world.job.restart != starter.restart:
        return
    if any(x.restart == starter.restart and x.phase != "ended" for x in host.leases):
        return
    leases = tuple(product.superseded(at, lease, starter.restart) for lease in host.leases)
    if "R6" in rules.without and any(x.phase != "ended" for x in host.leases):
        return
    new = Lease(world.leases + 1, starter.restart, "requested")
    made = put(world, at, leases=(*leases, new))
    yield f"bait{at}: makes lease {new.id}", made._replace(leases=new.id)


def decide(world: World, rules: Rules, at: int, lease: Lease, late: bool) -> Moves:
    host = world.hosts[at]
    after, deed = asked(world, rules, at, lease, late)
    if after == lease and not deed:
        return
    what = f"bait{at}: lease {lease.id} {lease.phase}->{after.phase} {deed}"
    if after != lease:
        world = put(world, at, leases=swap(host.leases, lease, after))
    if not deed:
        yield what, world
        return
    decided = Deed(lease.id, deed, world.job.restart)
    if deed in ("send", "give-back", "say-park"):  # much can happen between these and their record
        yield what, put(world, at, deed=decided)
        return
    for how, done in _perform(world, rules, at, world.hosts[at], decided):
        if done != world:
            yield how, done


def asked(world: World, rules: Rules, at: int, lease: Lease, late: bool) -> tuple[Lease, str]:
    host, starter = world.hosts[at], world.hosts[at].starter
    seen: Job | None = None if host.cut else world.job
    if host.cut and "R13" in rules.without:
        seen = Job(state="done", restart=lease.restart)
    if seen is not None and "R6" in rules.without and seen.state != "done":
        seen = seen._replace(restart=lease.restart + int(not at_bait(world, at)))
    if seen is not None and seen.restart < lease.restart and "R15" in rules.without:
        seen = seen._replace(restart=lease.restart)
    view = next((view for view in host.views if view.lease == lease.id), None)
    if "R7" in rules.without and view is None and lease.generation:
        view = View(lease.id, "vm", lease.generation, lease.slot, "booting", bound=True)
    if "R7" in rules.without and view is not None and view.word == "lost":
        view = View(lease.id, "vm", lease.generation, lease.slot, "booting", bound=True)
    mine = starter is not None and (starter.restart == lease.restart or "R6" in rules.without)
    hook = mine and starter is not None and not starter.word
    node = node_of(host, lease.slot)
    busy = node is not None and world.job.state == "running" and (world.job.where, world.job.slot) == (at, node[0])
    known = 0 if node is None else 2 if node[2] and not busy else 1
    known = 0 if host.cut and "R13" in rules.without else known
    return product.lease_step(at, lease, seen, hook, host.linked, host.heard, view, known, late)


def hear(world: World, rules: Rules, at: int, host: Host) -> World:
    """The host's inventory, which is whole if libvirt answers, and what it says of leases that are over."""
    views = []
    for lease in host.leases:
        vm = next((vm for vm in host.vms if vm.lease == lease.id), None)
        old = next((view for view in host.views if view.lease == lease.id), None)
        if vm is not None and vm.phase != "gone":
            views.append(View(lease.id, "vm", vm.generation, vm.slot, vm.phase, vm.bound >= 0))
        elif vm is not None and not vm.released:
            views.append(View(lease.id, "lost", vm.generation, vm.slot))
        elif vm is None and old is not None and old.word != "vm":
            views.append(old)
    world = put(world, at, views=tuple(views), heard=not host.away or "R13" in rules.without)
    if host.cut or "R8" in rules.without:
        return world
    known = {lease.id for lease in host.leases}
    strange = [product.adopted_lease(at, vm, world.job) for vm in host.vms if vm.lease not in known]
    return put(world, at, leases=host.leases + tuple(strange)) if strange else world


def _perform(world: World, rules: Rules, at: int, host: Host, deed: Deed) -> Moves:
    what = f"bait{at}: does {deed.deed} of lease {deed.lease}"
    lease = next((lease for lease in host.leases if lease.id == deed.lease), None)
    idle = put(world, at, deed=None)
    if lease is None:
        yield f"{what}: too late", idle
        return
    if deed.deed in ("ask", "bind", "release-vm"):
        yield what, _say(idle, rules, at, lease, deed.deed)
    elif deed.deed == "forget":
        views = tuple(view for view in host.views if view.lease != lease.id)
        yield what, put(idle, at, leases=swap(host.leases, lease), views=views)
    elif deed.deed in ("say-park", "say-back"):
        yield what, _answer(idle, rules, at, lease, deed.deed.removeprefix("say-"))
    elif host.cut:
        yield f"{what}: no answer", idle
    else:
        yield from _act(idle, rules, at, lease, deed, what)


def _answer(world: World, rules: Rules, at: int, lease: Lease, word: str) -> World:
    starter = world.hosts[at].starter
    if starter is None or starter.word or (starter.restart != lease.restart and "R6" not in rules.without):
        return world
    if word == "park" and "R3: one exit" in rules.without:  # the bait requeues by itself, and the reply may be lost
        moved = put(requeue(world, held=True), at, starter=None)
        return moved._replace(echo=(at, 0, 0))
    wrong = "" if starter.restart == lease.restart else "a run is parked for the VM of an older one"
    return put(world, at, starter=starter._replace(word=word))._replace(wrong=wrong)


def _say(world: World, rules: Rules, at: int, lease: Lease, deed: str) -> World:
    """A message to the host, and its answer."""
    host = world.hosts[at]
    if not host.linked:
        return world
    if deed == "ask":
        return _request(world, rules, at, lease)
    if deed == "bind":
        vm = next((vm for vm in host.vms if vm.lease == lease.id), None)
        seen = next((view.generation for view in host.views if view.lease == lease.id), 0)
        tied = product.bound(vm, seen, lease.restart + 1) if vm is not None else None
        return world if vm is None or tied is None else put(world, at, vms=swap(host.vms, vm, tied))
    world = release(world, rules, at, lease.id, lease.generation)
    return world._replace(echo=(at, lease.id, lease.generation)) if rules.echo else world


def _request(world: World, rules: Rules, at: int, lease: Lease) -> World:
    host = world.hosts[at]
    if any(vm.lease == lease.id for vm in host.vms):
        return world
    if "R10" in rules.without:
        free = [slot for slot in range(rules.slots) if all(vm.slot != slot for vm in host.vms)]
        vms, slot = host.vms, free[0] if free else -1
    else:
        vms, slot = product.admitted(host.vms, lease.id, lease.restart, rules.slots)
    if slot < 0 or host.away:
        denied = (*(view for view in host.views if view.lease != lease.id), View(lease.id, "denied"))
        return put(world, at, vms=vms, views=denied)
    new = Vm(host.given + 1, slot, lease.id, lease.restart)
    wrong = "a generation is given twice" if new.generation <= host.most else ""
    most = max(host.most, new.generation)
    domains = host.domains
    if rules.spares and all(domain.slot != slot for domain in domains):
        new = new._replace(phase="booting", spare=True, labelled="label" in rules.without)
        domains = (*domains, Domain(new.generation, slot, -1, lease.restart, paused="label" not in rules.without))
    given = new.generation
    return put(world, at, vms=(*vms, new), domains=domains, given=given, most=most)._replace(wrong=wrong)


def release(world: World, rules: Rules, at: int, lease: int, generation: int) -> World:
    host = world.hosts[at]
    mine = next((vm for vm in host.vms if vm.lease == lease and generation in (0, vm.generation)), None)
    if mine is None and "R5" in rules.without:
        mine = next(iter(host.vms), None)
    if mine is not None:
        return put(world, at, vms=swap(host.vms, mine, product.released(mine)))
    if host.away:
        return world  # postponed until libvirt has shown whether there is such a VM
    others = tuple(view for view in host.views if view.lease != lease)
    known = any(x.id == lease for x in host.leases)
    return put(world, at, views=(*others, View(lease, "released"))) if known else world


def _act(world: World, rules: Rules, at: int, lease: Lease, deed: Deed, what: str) -> Moves:
    """A command of the LRMS: done, half done, or refused because the job is another run by now."""
    host, now = world.hosts[at], world.job
    same = now.restart == (lease.restart + 1 if deed.deed in ("send", "tell") else deed.restart)
    same = same or "R6" in rules.without
    pending = now.state == "pending"
    well = True
    if deed.deed == "send":
        well = same and pending and node_of(host, lease.slot) is not None
        if well and now.target != (at, lease.slot):
            target = job(world, target=(at, lease.slot), note=lease.id)
            yield f"{what}, first half", put(target, at, deed=deed._replace(half=True))
            return
        world = job(world, held=False) if well else world
    elif deed.deed == "give-back":
        well = same and pending
        if well:
            world = job(world, held=False, target=now.target if "R11" in rules.without else None, note=0)
    elif deed.deed == "make-requeueable":
        well = same
        world = job(world, note=lease.id) if well else world
    elif deed.deed == "fail-node":
        running = now.state == "running" and (now.where, now.slot) == (at, lease.slot)
        world = node_down(requeue(world) if running else world, at, lease.slot)
    elif deed.deed == "remove-node":
        busy = now.state == "running" and (now.where, now.slot) == (at, lease.slot)
        node = node_of(host, lease.slot)
        well = not busy
        world = put(world, at, nodes=swap(host.nodes, node)) if well and node is not None else world
    elif deed.deed == "refuse":
        world = world._replace(wrong="a job is refused that asked for nothing impossible")
    after = product.lease_done(at, lease, deed.deed, well)
    yield what if well else f"{what}: refused", put(world, at, leases=swap(world.hosts[at].leases, lease, after))
