"""What the LRMS and the job starters do next."""

from tests.model.rules import Moves, Rules, at_bait, current, domain_of, job, node_of, put, requeue, swap
from tests.model.state import Host, Job, Starter, World


def lrms_moves(world: World, rules: Rules) -> Moves:
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
        yield "L: notices that the VM's node is dead", node_down(requeue(world), now.where, now.slot)
        return
    silent = host.cut or (domain.paused and host.long)
    if silent and (domain.paused or ("R9" in rules.without and domain.launch < 0)):
        hit = requeue(world)._replace(starts=world.starts - int(domain.run == now.restart))
        yield "L: gives a silent node up", node_down(hit, now.where, now.slot)


def node_down(world: World, at: int, slot: int) -> World:
    host = world.hosts[at]
    node = node_of(host, slot)
    return world if node is None else put(world, at, nodes=swap(host.nodes, node, (node[0], node[1], False)))


def starter_moves(world: World, rules: Rules, at: int, host: Host) -> Moves:
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
        yield from starter_out_of_time(world, rules, at)


def starter_out_of_time(world: World, rules: Rules, at: int) -> Moves:
    gone = put(world, at, starter=None)
    if "R3" in rules.without:
        yield "starter: exits with a code of its own", job(gone, state="done", where=-1)
    else:
        yield "starter: runs out of time and hands back", requeue(gone)
