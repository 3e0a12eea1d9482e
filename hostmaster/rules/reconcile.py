"""Journal against libvirt: what to adopt and what is left over. Pure; used at start and at every full look."""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from hostmaster.rules.spare import Purpose, Spare, SparePhase
from hostmaster.rules.vm import Vm, Way
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
        if ours is None or ours.is_spare or ours.host != host or ours.generation in known:
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


def strays(
    domains: Iterable[Domain], vms: Collection[Generation], spares: Collection[Generation], host: str, now: float
) -> tuple[Spare, ...]:
    """Records, on their way out, for spares of this host that no journal knows: nothing of a job was ever in them."""
    return tuple(
        _stray(domain.uuid, ours, now)
        for domain in domains
        if (ours := domain.ours) is not None
        and ours.is_spare
        and ours.host == host
        and ours.generation not in vms
        and ours.generation not in spares
        and domain.state is not DomainState.ABSENT
    )


def _stray(uuid: str, ours: Ours, now: float) -> Spare:
    return Spare(
        generation=ours.generation,
        vm=ours.slot,
        uuid=uuid,
        environment=ours.environment,
        image=ours.image,
        shape=ours.shape,
        purpose=Purpose.POOL,
        way=Way.BOOT,
        golden="",
        phase=SparePhase.DESTROYING,
        made_at=now,
        since=now,
        text="the journal did not know it",
    )


def state_of(domain: Domain | None, generation: Generation) -> DomainState:
    """What a generation's domain is, when libvirt shows this one under its UUID.

    All that are restored from one golden state have the same UUID, one after the other: a domain that says it is
    another generation is not this one, and this one is gone.
    """
    if domain is None or (domain.ours is not None and domain.ours.generation != generation):
        return DomainState.ABSENT
    return domain.state


def leftovers(overlays: Iterable[str], known: Iterable[Vm | Spare], domains: Iterable[Domain]) -> tuple[str, ...]:
    """Overlays that belong to no record and no domain, safe to remove: left by a crash between clean-up steps, or of a
    create that a life without this journal asked for, and that comes to nothing without it."""
    wanted = {vm.key for vm in known}
    domains = tuple(domains)
    wanted |= {f"{d.ours.slot}-g{d.ours.generation}" for d in domains if d.ours is not None}
    # A domain whose metadata nobody understands is left alone with its disk. It has its slot's name.
    unnamed = tuple(f"{d.name}-g" for d in domains if d.ours is None)
    return tuple(name for name in overlays if name not in wanted and not name.startswith(unnamed))
