"""What can happen next: every move of LRMS, starters, baits, hostmasters and guests, and every fault.

A daemon that sees a fact records it at once (`settle`); what it then does to the world is a move, so everything may
come in between. A crash is a long pause: a fault, after which the daemon is away until it is back, at any later
time. Time passes only when nothing else can happen (timers are longer than any move), where somebody is away or cut
off, or as a fault. Assumed, and nowhere else proven: the LRMS kills an orphan on a node before it starts another job
there, and gives a silent node up later than `fence_pause_s` (ADR 0008).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.model import product
from tests.model.state import Deed, Domain, Host, Job, Lease, Starter, View, Vm, World

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


def bounded(world: World) -> bool:
    """The world is as far as the model goes."""
    return world.job.restart >= MOST_RESTARTS or world.leases >= MOST_LEASES


def moves(world: World, rules: Rules) -> Moves:
    """Every next world."""
    if bounded(world) or world.wrong:
        return
    for what, after in _all(world, rules):
        yield what, settle(after, rules)


def _all(world: World, rules: Rules) -> Moves:
    prompt = list(_prompt(world, rules))
    yield from prompt
    if not prompt:
        for at, host in enumerate(world.hosts):
            yield from _timers(world, rules, at, host)
    if world.faults < rules.most:
        yield from _faults(world._replace(faults=world.faults + 1), rules)


def settle(world: World, rules: Rules) -> World:
    """Daemons that are there take in what they see and record it, until that changes nothing."""
    while True:
        before = world
        for at in range(len(world.hosts)):
            world = _record_vms(world, rules, at)
            world = _record_leases(world, rules, at)
        if world == before:
            return _renumbered(world)


def _renumbered(world: World) -> World:
    """The same world with the smallest numbers: restarts, leases and generations are only ever compared."""
    leases = [x for host in world.hosts for x in host.leases]
    vms = [x for host in world.hosts for x in host.vms]
    domains = [x for host in world.hosts for x in host.domains]
    nodes = [x for host in world.hosts for x in host.nodes]
    runs = [world.job.restart, *(x.restart for x in leases), *(x.asked for x in vms), *(x.asked for x in domains)]
    runs += [x for domain in domains for x in (domain.launch, domain.run) if x >= 0]
    runs += [host.starter.restart for host in world.hosts if host.starter is not None]
    runs += [host.deed.restart for host in world.hosts if host.deed is not None]
    runs += [world.before.restart] if world.before is not None else []
    names = [x.id for x in leases] + [x.lease for x in vms] + [x.lease for x in domains]
    names += [world.job.note] if world.job.note else []
    names += [world.before.note] if world.before is not None and world.before.note else []
    names += [world.echo[1]] if world.echo is not None and world.echo[1] else []
    made = [x.generation for x in vms] + [x.generation for x in domains] + [node[1] for node in nodes]
    made += [x.generation for x in leases if x.generation]
    made += [world.echo[2]] if world.echo is not None and world.echo[2] else []
    if any(host.given != host.most for host in world.hosts):
        made = [1]
    less = _Less(min(runs), min(names, default=world.leases + 1) - 1, min(made, default=_most(world) + 1) - 1)
    return world if less == _Less(0, 0, 0) else less.world(world)


def _most(world: World) -> int:
    return max(host.given for host in world.hosts)


@dataclass(frozen=True)
class _Less:
    """What to take away from every restart, lease and generation."""

    run: int
    lease: int
    made: int

    def world(self, world: World) -> World:
        echo = world.echo
        if echo is not None and echo[1]:
            echo = (echo[0], echo[1] - self.lease, echo[2] - self.made if echo[2] else 0)
        return world._replace(
            job=self._job(world.job), hosts=tuple(self._host(host) for host in world.hosts),
            leases=world.leases - self.lease, before=self._job(world.before) if world.before is not None else None,
            echo=echo,
        )  # fmt: skip

    def _job(self, now: Job) -> Job:
        return now._replace(restart=now.restart - self.run, note=now.note - self.lease if now.note else 0)

    def _host(self, host: Host) -> Host:
        starter, deed = host.starter, host.deed
        return host._replace(
            starter=starter and starter._replace(restart=starter.restart - self.run),
            leases=tuple(map(self._lease, host.leases)), views=tuple(map(self._view, host.views)),
            deed=deed and deed._replace(lease=deed.lease - self.lease, restart=deed.restart - self.run),
            vms=tuple(map(self._vm, host.vms)), domains=tuple(map(self._domain, host.domains)),
            nodes=tuple((slot, made - self.made, up) for slot, made, up in host.nodes),
            given=max(0, host.given - self.made), most=max(0, host.most - self.made),
        )  # fmt: skip

    def _lease(self, lease: Lease) -> Lease:
        made = lease.generation - self.made if lease.generation else 0
        return lease._replace(id=lease.id - self.lease, restart=lease.restart - self.run, generation=made)

    def _view(self, view: View) -> View:
        made = view.generation - self.made if view.generation else 0
        return view._replace(lease=view.lease - self.lease, generation=made)

    def _vm(self, vm: Vm) -> Vm:
        return vm._replace(
            generation=vm.generation - self.made, lease=vm.lease - self.lease, asked=vm.asked - self.run,
            bound=vm.bound - self.run if vm.bound >= 0 else -1,
        )  # fmt: skip

    def _domain(self, domain: Domain) -> Domain:
        return domain._replace(
            generation=domain.generation - self.made, lease=domain.lease - self.lease, asked=domain.asked - self.run,
            launch=domain.launch - self.run if domain.launch >= 0 else -1,
            run=domain.run - self.run if domain.run >= 0 else -1,
        )  # fmt: skip


def _record_vms(world: World, rules: Rules, at: int) -> World:
    host = world.hosts[at]
    if host.host_down:
        return world
    lost = product.adopted_vms(host.domains, tuple(vm.generation for vm in host.vms))
    if lost and not host.away:
        world = put(world, at, vms=host.vms + lost)
    for vm in world.hosts[at].vms:
        for _, after, deed in _keep(world, rules, at, vm, expired=False, late=False):
            world = world if deed else after
    return world


def _record_leases(world: World, rules: Rules, at: int) -> World:
    host = world.hosts[at]
    if host.dead or host.bait_down:
        return world
    if host.linked and not host.host_down:
        world = _hear(world, rules, at, host)
    for lease in world.hosts[at].leases:
        after, deed = _asked(world, rules, at, lease, late=False)
        if deed == "tell":
            after, deed = after._replace(told=True), ""
        if after != lease and not deed:
            world = put(world, at, leases=swap(world.hosts[at].leases, lease, after))
    return world


def _prompt(world: World, rules: Rules) -> Moves:
    yield from _lrms(world, rules)
    for at, host in enumerate(world.hosts):
        yield from _starter(world, rules, at, host)
        if not host.dead and not host.bait_down:
            yield from _bait(world, rules, at, host)
        if not host.host_down:
            yield from _hostmaster(world, rules, at, host)
        yield from _guests(world, rules, at, host)
        yield from _outages(world, rules, at, host)
    yield from _rescue(world, rules)
    yield from _echo(world, rules)


# --- small words -------------------------------------------------------------------------------------------


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


# --- the LRMS ----------------------------------------------------------------------------------------------


def _lrms(world: World, rules: Rules) -> Moves:
    now = world.job
    if now.state == "pending" and not now.held:
        yield from _dispatch(world, now)
    if now.state == "running":
        host = world.hosts[now.where]
        if now.slot < 0 and host.starter is None:
            yield "L: the starter's job is gone from the bait", requeue(world)
        if now.slot >= 0:
            yield from _vm_node(world, rules, now, host)
    for at, host in enumerate(world.hosts):
        for domain in host.domains:
            orphan = domain.run >= 0 and not current(world, at, domain, domain.run)
            if orphan and not host.cut and not domain.paused:
                yield "L: kills an orphan", put(world, at, domains=swap(host.domains, domain, domain._replace(run=-1)))


def _dispatch(world: World, now: Job) -> Moves:
    if now.target is None:
        for at, host in enumerate(world.hosts):
            if host.starter is None and not (host.cut or host.dead or host.bait_down) and host.linked:
                started = job(world, state="running", where=at, slot=-1)
                yield f"L: starts the job at bait{at}", put(started, at, starter=Starter(now.restart))
        return
    at, slot = now.target
    host = world.hosts[at]
    node = node_of(host, slot)
    if node is None or not node[2] or host.cut:
        return
    domain = domain_of(host, node[1])
    started = job(world, state="running", where=at, slot=slot)
    if domain is None:
        yield "L: starts the job on a node that is dead", started
    elif domain.run < 0 and not domain.paused:
        asking = domain._replace(launch=now.restart, told=False)
        yield "L: starts the job in the VM", put(started, at, domains=swap(host.domains, domain, asking))


def _vm_node(world: World, rules: Rules, now: Job, host: Host) -> Moves:
    node = node_of(host, now.slot)
    domain = domain_of(host, node[1]) if node is not None else None
    launched = domain is not None and now.restart in (domain.launch, domain.run)
    if domain is None or not launched:
        # Also a run that was denied in a host that is cut off: the LRMS hears of it late, or gives the node up.
        yield "L: notices that the VM's node is dead", _node_down(requeue(world), now.where, now.slot)
        return
    silent = host.cut or (domain.paused and host.long)
    if silent and (domain.paused or ("R9" in rules.without and domain.launch < 0)):
        hit = requeue(world)._replace(starts=world.starts - int(domain.run == now.restart))
        yield "L: gives a silent node up", _node_down(hit, now.where, now.slot)


def _node_down(world: World, at: int, slot: int) -> World:
    host = world.hosts[at]
    node = node_of(host, slot)
    return world if node is None else put(world, at, nodes=swap(host.nodes, node, (node[0], node[1], False)))


# --- the starter -------------------------------------------------------------------------------------------


def _starter(world: World, rules: Rules, at: int, host: Host) -> Moves:
    starter = host.starter
    if starter is None:
        return
    gone = put(world, at, starter=None)
    if not (at_bait(world, at) and world.job.restart == starter.restart):
        if not host.cut:
            yield "L: kills a starter that is not current", gone
    elif starter.word and not host.cut:
        yield f"starter: exits, told to {starter.word}", requeue(gone, held=starter.word == "park")
    elif (host.dead or host.bait_down) and not host.cut:
        yield from _starter_out_of_time(world, rules, at)


def _starter_out_of_time(world: World, rules: Rules, at: int) -> Moves:
    gone = put(world, at, starter=None)
    if "R3" in rules.without:
        yield "starter: exits with a code of its own", job(gone, state="done", where=-1)
    else:
        yield "starter: runs out of time and hands back", requeue(gone)


# --- the bait ----------------------------------------------------------------------------------------------


def _bait(world: World, rules: Rules, at: int, host: Host) -> Moves:
    yield from _intercept(world, rules, at, host)
    if host.deed is not None:
        yield from _perform(world, rules, at, host, host.deed)
        return
    for lease in host.leases:
        yield from _decide(world, rules, at, lease, late=False)
        if not host.linked:
            yield from _decide(world, rules, at, lease, late=True)


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


def _decide(world: World, rules: Rules, at: int, lease: Lease, late: bool) -> Moves:
    host = world.hosts[at]
    after, deed = _asked(world, rules, at, lease, late)
    if after == lease and not deed:
        return
    what = f"bait{at}: lease {lease.id} {lease.phase}->{after.phase} {deed}"
    if after != lease:
        world = put(world, at, leases=swap(host.leases, lease, after))
    if not deed:
        yield what, world
        return
    decided = Deed(lease.id, deed, world.job.restart)
    if deed in ("send", "give-back"):
        yield what, put(world, at, deed=decided)
        return
    for how, done in _perform(world, rules, at, world.hosts[at], decided):
        if done != world:
            yield how, done


def _asked(world: World, rules: Rules, at: int, lease: Lease, late: bool) -> tuple[Lease, str]:
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


def _hear(world: World, rules: Rules, at: int, host: Host) -> World:
    """The host's whole inventory, and what it says of leases that are over."""
    views = []
    for lease in host.leases:
        vm = next((vm for vm in host.vms if vm.lease == lease.id), None)
        old = next((view for view in host.views if view.lease == lease.id), None)
        if vm is not None and vm.phase != "gone":
            views.append(View(lease.id, "vm", vm.generation, vm.slot, vm.phase, vm.bound >= 0))
        elif vm is not None and not vm.released:
            views.append(View(lease.id, "lost"))
        elif vm is None and old is not None and old.word != "vm":
            views.append(old)
    world = put(world, at, views=tuple(views), heard=True)
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
        tied = product.bound(vm, lease.generation, lease.restart + 1) if vm is not None else None
        return world if vm is None or tied is None else put(world, at, vms=swap(host.vms, vm, tied))
    world = _release(world, rules, at, lease.id, lease.generation)
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
    if slot < 0:
        denied = (*(view for view in host.views if view.lease != lease.id), View(lease.id, "denied"))
        return put(world, at, vms=vms, views=denied)
    new = Vm(host.given + 1, slot, lease.id, lease.restart)
    wrong = "a generation is given twice" if new.generation <= host.most else ""
    most = max(host.most, new.generation)
    return put(world, at, vms=(*vms, new), given=new.generation, most=most)._replace(wrong=wrong)


def _release(world: World, rules: Rules, at: int, lease: int, generation: int) -> World:
    host = world.hosts[at]
    mine = next((vm for vm in host.vms if vm.lease == lease and generation in (0, vm.generation)), None)
    if mine is None and "R5" in rules.without:
        mine = next(iter(host.vms), None)
    if mine is not None:
        return put(world, at, vms=swap(host.vms, mine, product.released(mine)))
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
        world = _node_down(requeue(world) if running else world, at, lease.slot)
    elif deed.deed == "remove-node":
        busy = now.state == "running" and (now.where, now.slot) == (at, lease.slot)
        node = node_of(host, lease.slot)
        well = not busy
        world = put(world, at, nodes=swap(host.nodes, node)) if well and node is not None else world
    elif deed.deed == "refuse":
        world = world._replace(wrong="a job is refused that asked for nothing impossible")
    after = product.lease_done(at, lease, deed.deed, well)
    yield what if well else f"{what}: refused", put(world, at, leases=swap(world.hosts[at].leases, lease, after))


# --- the hostmaster ------------------------------------------------------------------------------------------


def _hostmaster(world: World, rules: Rules, at: int, host: Host) -> Moves:
    away = not host.linked or host.dead or host.bait_down
    for vm in host.vms:
        for expired in (False, True) if away else (False,):
            yield from ((what, after) for what, after, _ in _keep(world, rules, at, vm, expired, late=False))


def _keep(world: World, rules: Rules, at: int, vm: Vm, expired: bool, late: bool) -> Iterator[tuple[str, World, str]]:
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
    if deed in ("pause", "unpause"):
        return put(world, at, domains=swap(host.domains, domain, domain._replace(paused=deed == "pause")))
    if deed == "destroy":
        if domain.run >= 0 and current(world, at, domain, domain.run) and not world.forgot:
            world = world._replace(wrong="a run is destroyed that the LRMS has in that VM")
        return put(world, at, domains=swap(host.domains, domain))
    return world


# --- the guests ----------------------------------------------------------------------------------------------


def _guests(world: World, rules: Rules, at: int, host: Host) -> Moves:
    for domain in host.domains:
        if domain.paused:
            continue
        who = f"guest{at}-g{domain.generation}"
        if not (host.cut or domain.ready):
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
    """User code; the guest's marker lets each run start once in a boot."""
    started = domain._replace(launch=-1, told=False, run=domain.launch)
    again = domain.run == domain.launch
    starts = world.starts + int(not again)
    return put(world, at, domains=swap(host.domains, domain, started))._replace(starts=starts, ran=True)


def _finish(world: World, at: int, host: Host, domain: Domain, who: str) -> Moves:
    ended = put(world, at, domains=swap(host.domains, domain, domain._replace(run=-1)))
    if not current(world, at, domain, domain.run):
        yield f"{who}: a run ends that nobody counts", ended
    elif not host.cut:
        yield f"{who}: the run ends well", job(ended, state="done", where=-1, slot=-1)


# --- repairs, time, rescue -----------------------------------------------------------------------------------


def _outages(world: World, rules: Rules, at: int, host: Host) -> Moves:
    if host.bait_down and not host.dead:
        yield f"bait{at}: is back", put(world, at, bait_down=False)
    if host.away:
        yield f"libvirt{at}: answers again", put(world, at, away=False)
    if host.host_down:
        yield f"host{at}: is back", put(world, at, host_down=False)
    elif not host.linked:
        yield f"link{at}: is back", put(world, at, linked=True, heard=False)
    if host.cut:
        gave_up = any(domain.paused and not current(world, at, domain, domain.run) for domain in host.domains)
        if not gave_up:
            yield f"host{at}: in contact again soon", put(world, at, cut=False, long=False)
        yield f"host{at}: in contact again after long", put(world, at, cut=False, long=True)


def _timers(world: World, rules: Rules, at: int, host: Host) -> Moves:
    """Nothing else can happen: time passes, and timers run out."""
    starter = host.starter
    if starter is not None and not starter.word and at_bait(world, at) and not host.cut:
        yield from _starter_out_of_time(world, rules, at)
    if not host.dead and host.deed is None:
        for lease in host.leases:
            yield from _decide(world, rules, at, lease, late=True)
    for vm in host.vms:
        kept = not host.dead and any(lease.id == vm.lease for lease in host.leases)
        yield from ((what, after) for what, after, _ in _keep(world, rules, at, vm, expired=not kept, late=True))


def _rescue(world: World, rules: Rules) -> Moves:
    """A bait that lives gives back what a dead one left; the deadline on the job's note has passed (R12)."""
    now = world.job
    if "R12" in rules.without or not product.left_alone(now):
        return
    if not any(not host.dead and not host.cut for host in world.hosts):
        return
    known = any(lease.id == now.note for host in world.hosts if not host.dead for lease in host.leases)
    if not known:
        yield "rescue: gives the job back", job(world, held=False, target=None, note=0)


def _echo(world: World, rules: Rules) -> Moves:
    if world.echo is None:
        return
    at, lease, generation = world.echo
    gone = world._replace(echo=None)
    if lease:
        again = _release(gone, rules, at, lease, generation)
        if again != gone:
            yield f"host{at}: hears the release of lease {lease} once more", again
    elif world.job.state != "done":
        yield "L: hears the requeue once more", requeue(gone, held=True)


# --- faults --------------------------------------------------------------------------------------------------


def _faults(world: World, rules: Rules) -> Moves:
    for at, host in enumerate(world.hosts):
        for fault, what, after in _host_faults(world, rules, at, host):
            if fault in rules.faults:
                yield f"FAULT {at}: {what}", after
    if "user" in rules.faults and world.job.state == "pending":
        yield "FAULT: the user cancels", job(world, state="done", where=-1)._replace(cancelled=True)
    if "amnesia" in rules.faults and world.before is not None and world.before != world.job:
        yield (
            "FAULT: the LRMS forgets its last change",
            world._replace(job=world.before, before=world.before, forgot=True, starts=world.starts - int(world.ran)),
        )


def _host_faults(world: World, rules: Rules, at: int, host: Host) -> Iterator[tuple[str, str, World]]:
    memory = {"views": (), "heard": False, "deed": None, "bait_down": True}
    if not host.dead:
        if not host.bait_down and (host.leases or host.starter):
            yield "bait", "the bait daemon dies", put(world, at, **memory)
        if host.leases:
            yield "bait journal", "the bait loses its journal", put(world, at, leases=(), **memory)
        yield "bait dead", "the bait never comes back", put(world, at, dead=True, leases=(), **memory)
    if host.starter is not None:
        rebooted = put(world, at, starter=None, **memory)
        yield "bait node", "the bait's node reboots", rebooted
        if not host.starter.word and at_bait(world, at) and not host.cut:
            for _, after in _starter_out_of_time(world, rules, at):
                yield "starter", "the starter runs out of time", after
    if host.vms:
        yield "host journal", "the hostmaster loses its journal", _lost_journal(world, rules, at, host)
        if not host.away:
            yield "libvirt", "libvirt does not answer", put(world, at, away=True)
        yield "host", "the hostmaster dies", _host_dies(world, rules, at, host)
    if host.linked and not host.dead and host.leases:
        yield "link", "the link is cut", put(world, at, linked=False, heard=False)
    for domain in host.domains:
        hit = world._replace(starts=world.starts - int(domain.run >= 0))
        yield "vm", f"generation {domain.generation} dies", put(hit, at, domains=swap(host.domains, domain))
    if not host.cut:
        yield "cut", "the host is cut off", put(world, at, cut=True)
    if "slow" in rules.faults and not host.dead:
        for lease in host.leases if host.deed is None else ():
            for what, after in _decide(world, rules, at, lease, late=True):
                yield "slow", f"too slow: {what}", after
        for vm in host.vms:
            for what, after, _ in _keep(world, rules, at, vm, expired=True, late=True):
                yield "slow", f"too slow: {what}", after


def _lost_journal(world: World, rules: Rules, at: int, host: Host) -> World:
    counted = max((d.generation for d in host.domains), default=0) if "R15" in rules.without else host.given
    return put(world, at, vms=(), given=counted)


def _host_dies(world: World, rules: Rules, at: int, host: Host) -> World:
    vms = host.vms
    if "R2" in rules.without:
        vms = tuple(vm._replace(phase="bound") if vm.phase == "started" else vm for vm in vms)
    return put(world, at, vms=vms, linked=False, heard=False, host_down=True)
