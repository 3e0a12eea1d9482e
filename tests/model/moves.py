"""What can happen next: every move of LRMS, starters, baits, hostmasters and guests, and every fault.

A daemon that sees a fact records it at once (`settle`); what it then does to the world is a move, so everything may
come in between. A crash is a long pause: a fault, after which the daemon is away until it is back, at any later
time. Time passes only when nothing else can happen (timers are longer than any move), where somebody is away or cut
off, or as a fault. Assumed, and nowhere else proven: the LRMS kills an orphan on a node before it starts another job
there, and gives a silent node up later than `fence_pause_s` (ADR 0008).
"""

from tests.model import product
from tests.model.bait import asked, bait_moves, decide, hear, release
from tests.model.faults import fault_moves
from tests.model.host import guest_moves, host_moves, keep, strays
from tests.model.lrms import lrms_moves, starter_moves, starter_out_of_time
from tests.model.numbering import renumbered
from tests.model.rules import Moves, Rules, at_bait, bounded, current, job, put, requeue, swap
from tests.model.state import Host, World


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
        yield from fault_moves(world._replace(faults=world.faults + 1), rules)


def settle(world: World, rules: Rules) -> World:
    """Daemons that are there take in what they see and record it, until that changes nothing."""
    while True:
        before = world
        for at in range(len(world.hosts)):
            world = _record_vms(world, rules, at)
            world = _record_leases(world, rules, at)
        if world == before:
            return renumbered(world)


def _record_vms(world: World, rules: Rules, at: int) -> World:
    host = world.hosts[at]
    if host.host_down:
        return world
    lost = product.adopted_vms(host.domains, tuple(vm.generation for vm in host.vms))
    if lost and not host.away:
        world = put(world, at, vms=host.vms + lost)
    if not host.away:
        world = strays(world, at)
    for vm in world.hosts[at].vms:
        for _, after, deed in keep(world, rules, at, vm, expired=False, late=False):
            world = world if deed else after
    return world


def _record_leases(world: World, rules: Rules, at: int) -> World:
    host = world.hosts[at]
    if host.dead or host.bait_down:
        return world
    if host.linked and not host.host_down:
        world = hear(world, rules, at, host)
    for lease in world.hosts[at].leases:
        after, deed = asked(world, rules, at, lease, late=False)
        if deed == "tell":
            after, deed = after._replace(told=True), ""
        if after != lease and not deed:
            world = put(world, at, leases=swap(world.hosts[at].leases, lease, after))
    return world


def _prompt(world: World, rules: Rules) -> Moves:
    yield from lrms_moves(world, rules)
    for at, host in enumerate(world.hosts):
        yield from starter_moves(world, rules, at, host)
        if not host.dead and not host.bait_down:
            yield from bait_moves(world, rules, at, host)
        if not host.host_down:
            yield from host_moves(world, rules, at, host)
        yield from guest_moves(world, rules, at, host)
        yield from _outages(world, rules, at, host)
    yield from _rescue(world, rules)
    yield from _echo(world, rules)


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
        yield from starter_out_of_time(world, rules, at)
    if not host.dead and host.deed is None:
        for lease in host.leases:
            yield from decide(world, rules, at, lease, late=True)
    for vm in host.vms:
        kept = not host.dead and any(lease.id == vm.lease for lease in host.leases)
        yield from ((what, after) for what, after, _ in keep(world, rules, at, vm, expired=not kept, late=True))


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
        again = release(gone, rules, at, lease, generation)
        if again != gone:
            yield f"host{at}: hears the release of lease {lease} once more", again
    elif world.job.state != "done":
        yield "L: hears the requeue once more", requeue(gone, held=True)
