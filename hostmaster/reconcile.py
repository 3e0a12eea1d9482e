"""Journal against libvirt: what to adopt and what is left over. Pure; used at start and at every full look."""

from collections.abc import Iterable, Mapping

import msgspec

from hostmaster.lifecycle import Vm
from hostmaster.world import Domain, DomainState, Ours
from protocol.ids import BaitName, Generation, Run
from protocol.messages import VmPhase


def adoptable(domains: Iterable[Domain], known: Mapping[Generation, Vm], host: str, now: float) -> tuple[Vm, ...]:
    """Records for domains that say they are ours but that the journal has lost (crash point 32).

    One that is paused counts as fenced by a silence that began nobody knows when: its record is younger than that.
    Such a VM may be running somebody's job, so it is recorded as STARTED: only the bait's Release, which rests
    on what the LRMS says, or the VM's own death ends it. One that has died already is taken up too, or nobody would
    remove it, and its slot's name would be taken for ever. Domains of other hosts or without our metadata are
    nobody's business here (I13).
    """
    adopted = []
    for domain in domains:
        ours = domain.ours
        if ours is None or ours.host != host or ours.generation in known:
            continue
        if domain.state is not DomainState.ABSENT:
            adopted.append(_record(domain, ours, now))
    return tuple(adopted)


def _record(domain: Domain, ours: Ours, now: float) -> Vm:
    run = msgspec.json.decode(ours.run, type=Run)
    return Vm(
        generation=ours.generation,
        vm=ours.slot,
        uuid=domain.uuid,
        lease=ours.lease,
        bait=BaitName(ours.bait),
        owner=ours.owner,
        environment=ours.environment,
        image=ours.image,
        shape=ours.shape,
        asked=run,
        bound=run.next(),
        phase=VmPhase.STARTED,
        granted_at=now,
        since=now,
        fenced=now - 1.0 if domain.state is DomainState.PAUSED else None,
        text="adopted from the hypervisor: the journal did not know it",
    )


def leftovers(overlays: Iterable[str], known: Iterable[Vm], domains: Iterable[Domain]) -> tuple[str, ...]:
    """Overlays that belong to no record and no domain: left by a crash between clean-up steps, safe to remove."""
    wanted = {vm.key for vm in known}
    wanted |= {f"{d.ours.slot}-g{d.ours.generation}" for d in domains if d.ours is not None}
    return tuple(name for name in overlays if name not in wanted)
