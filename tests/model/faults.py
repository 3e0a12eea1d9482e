"""What can go wrong."""

from collections.abc import Iterator

from tests.model.bait import decide
from tests.model.host import keep
from tests.model.lrms import starter_out_of_time
from tests.model.rules import Moves, Rules, at_bait, job, put, swap
from tests.model.state import Host, World


def fault_moves(world: World, rules: Rules) -> Moves:
    for at, host in enumerate(world.hosts):
        for fault, what, after in _host_faults(world, rules, at, host):
            if fault in rules.faults:
                yield f"FAULT {at}: {what}", after
    if "user" in rules.faults and world.job.state == "pending":
        yield "FAULT: the user cancels", job(world, state="done", where=-1)._replace(cancelled=True)
    starting = any(domain.launch >= 0 for host in world.hosts for domain in host.domains)
    if "amnesia" in rules.faults and world.before is not None and world.before != world.job:
        yield (
            "FAULT: the LRMS forgets its last change",
            world._replace(
                job=world.before, before=world.before, forgot=True, starts=world.starts - int(world.ran or starting)
            ),
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
            for _, after in starter_out_of_time(world, rules, at):
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
            for what, after in decide(world, rules, at, lease, late=True):
                yield "slow", f"too slow: {what}", after
        for vm in host.vms:
            for what, after, _ in keep(world, rules, at, vm, expired=True, late=True):
                yield "slow", f"too slow: {what}", after


def _lost_journal(world: World, rules: Rules, at: int, host: Host) -> World:
    counted = max((d.generation for d in host.domains), default=0) if "R15" in rules.without else host.given
    return put(world, at, vms=(), given=counted)


def _host_dies(world: World, rules: Rules, at: int, host: Host) -> World:
    vms = host.vms
    if "R2" in rules.without:
        vms = tuple(vm._replace(phase="bound") if vm.phase == "started" else vm for vm in vms)
    return put(world, at, vms=vms, linked=False, heard=False, host_down=True)
