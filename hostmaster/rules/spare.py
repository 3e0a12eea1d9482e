"""One spare's life, decided: a VM without a lease, made in advance, which waits at standby until a lease takes it.

A spare has its own generation, from the same counter as VMs, and the lease that takes it keeps that. It has never
run a job, holds no secret and is no node of the LRMS, so it may go at any time: it gives way to every request. What
holds for VMs holds here too (`lifecycle`): what nobody knows is left alone, the record is on disk before the deed,
and its room and its slot are free only when it was seen gone. Pure.
"""

import enum
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec.structs import replace

from hostmaster.rules.lifecycle import Times
from hostmaster.rules.vm import Vm, Way
from hostmaster.world import DomainState
from protocol.ids import BaitName, BootId, EnvironmentName, Generation, Shape, VmName
from protocol.messages import RequestVm, VmPhase


class Purpose(enum.StrEnum):
    """What a spare is made for."""

    POOL = "pool"
    """To be paused at standby and taken by a lease."""
    GOLDEN = "golden"
    """To be saved at standby as its slot's golden state."""


class SparePhase(enum.StrEnum):
    """Where a spare is. Once it is seen gone there is no record."""

    CREATING = "creating"
    BOOTING = "booting"
    STANDBY = "standby"
    PAUSED = "paused"
    SAVING = "saving"
    DESTROYING = "destroying"


GOING = frozenset({SparePhase.SAVING, SparePhase.DESTROYING})


class Spare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this host intends with one generation that no lease has. Times are seconds since 1970."""

    generation: Generation
    vm: VmName
    """The slot."""
    uuid: str
    environment: EnvironmentName
    image: str
    shape: Shape
    purpose: Purpose
    way: Way
    golden: str
    """The golden state it is restored from or becomes; also says what it was told: one of another name is stale."""
    phase: SparePhase = SparePhase.CREATING
    boot_id: BootId | None = None
    tries: Annotated[int, msgspec.Meta(ge=0)] = 0
    made_at: float
    since: float
    """When the present phase began."""
    text: str = ""
    """Why it is going, once it is going."""

    @property
    def key(self) -> str:
        """Names this generation's overlay, console log and guest channel, as of the VM that it may become."""
        return f"{self.vm}-g{self.generation}"

    @property
    def going(self) -> bool:
        """True if it ends by itself, soon: nobody needs to evict it, and nobody can take it."""
        return self.phase in GOING


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class Facts:
    """What is seen now. `domain` None: the hypervisor could not be asked."""

    now: float
    domain: DomainState | None
    remains: bool | None = None
    """There is an overlay of it, or half a golden state. None: not looked, or nobody knows."""
    standby: BootId | None = None
    """The boot id with which the guest has said `standby`."""
    failed: str = ""
    """What the guest said of a boot stage that failed."""
    refused: str = ""
    """Why the last deed was refused."""
    may_come: bool = False
    """A create whose answer nobody has heard may be carried out yet (unheard.py)."""
    able: bool = True
    """False: this life of the daemon does not know yet what VMs are made of."""


class Deed(enum.Enum):
    """What may be done to the world. Each is idempotent."""

    CREATE = "create"
    PAUSE = "pause"
    SAVE = "save"
    DESTROY = "destroy"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Step:
    """The record to journal (None: it is gone, forget it), the deed after that, and when to look again."""

    spare: Spare | None
    deed: Deed | None = None
    wake_at: float | None = None


def decide(spare: Spare, facts: Facts, times: Times) -> Step:
    """The next step of this spare."""
    if facts.domain is None:
        return Step(spare, wake_at=facts.now + times.retry_s)
    match spare.phase:
        case SparePhase.CREATING:
            return _creating(spare, facts, times)
        case SparePhase.BOOTING:
            return _booting(spare, facts, times)
        case SparePhase.STANDBY | SparePhase.PAUSED:
            return _waiting(spare, facts, times)
        case SparePhase.SAVING:
            return _saving(spare, facts, times)
        case SparePhase.DESTROYING:
            return _destroying(spare, facts, times)


def _creating(spare: Spare, facts: Facts, times: Times) -> Step:
    if facts.domain in (DomainState.RUNNING, DomainState.PAUSED):
        return Step(_enter(spare, SparePhase.BOOTING, facts.now))
    if facts.domain is DomainState.ABSENT and (facts.may_come or not facts.able):
        return Step(spare, wake_at=facts.now + times.retry_s)  # no other try's overlay under its memory (lifecycle)
    if facts.domain is DomainState.STOPPED or facts.refused or spare.tries >= times.creates:
        return Step(ending(spare, facts.refused or "the hypervisor did not make it", facts.now))
    return Step(replace(spare, tries=spare.tries + 1), Deed.CREATE)


def _booting(spare: Spare, facts: Facts, times: Times) -> Step:
    if facts.domain is not DomainState.RUNNING:
        return Step(ending(spare, facts.failed or f"{facts.domain} while it booted; see its console log", facts.now))
    if facts.standby is not None:
        return Step(_enter(replace(spare, boot_id=facts.standby), SparePhase.STANDBY, facts.now))
    limit_s = times.boot_limit_s if spare.way is Way.BOOT else min(times.wake_limit_s, times.boot_limit_s)
    late = spare.since + limit_s
    if facts.failed or facts.now >= late:
        why = facts.failed or f"the guest was not at standby after {limit_s:.0f} s; see its console log"
        return Step(ending(spare, why, facts.now))
    return Step(spare, wake_at=late)


def _waiting(spare: Spare, facts: Facts, times: Times) -> Step:
    if facts.domain in (DomainState.ABSENT, DomainState.STOPPED):
        return Step(ending(spare, "it died", facts.now))
    if spare.purpose is Purpose.GOLDEN:
        return Step(_enter(replace(spare, tries=0), SparePhase.SAVING, facts.now))
    if facts.domain is DomainState.RUNNING:
        # Found running after it was paused, too: somebody's `virsh resume` is no reason to give it up.
        return Step(spare, Deed.PAUSE, facts.now + times.retry_s)
    return Step(spare if spare.phase is SparePhase.PAUSED else _enter(spare, SparePhase.PAUSED, facts.now))


def _saving(spare: Spare, facts: Facts, times: Times) -> Step:
    """Save, and ask again if nobody knows: only an answer says that the file is whole, an absent domain does not."""
    if facts.refused or spare.tries >= times.creates:
        return Step(ending(spare, facts.refused or "the hypervisor did not save it", facts.now))
    return Step(replace(spare, tries=spare.tries + 1), Deed.SAVE)


def _destroying(spare: Spare, facts: Facts, times: Times) -> Step:
    if facts.domain is not DomainState.ABSENT:
        return Step(spare, Deed.DESTROY)
    if facts.remains is None or facts.may_come:
        return Step(spare, wake_at=facts.now + times.retry_s)
    return Step(spare, Deed.CLEAN) if facts.remains else Step(None)


def _enter(spare: Spare, phase: SparePhase, now: float) -> Spare:
    return replace(spare, phase=phase, since=now)


def ending(spare: Spare, text: str, now: float) -> Spare:
    """The spare is to go, for this reason. One that is already going keeps its first reason."""
    if spare.phase is SparePhase.DESTROYING:
        return spare
    return replace(_enter(spare, SparePhase.DESTROYING, now), text=text)


def evict(spare: Spare, text: str, now: float) -> Spare:
    """The spare gives way. One that is being saved is left to it: that ends the domain too, and no later."""
    return spare if spare.going else ending(spare, text, now)


_TAKEN = {
    SparePhase.CREATING: VmPhase.CREATING,
    SparePhase.BOOTING: VmPhase.BOOTING,
    SparePhase.STANDBY: VmPhase.BOOTING,
    SparePhase.PAUSED: VmPhase.BOOTING,
}
"""The phase in which a VM begins that was a spare in this phase."""


def taken(spare: Spare, ask: RequestVm, bait: BaitName, now: float) -> Vm:
    """The VM that this spare becomes for a lease: same generation, slot and UUID. Only for one that is not `going`.

    Its domain does not carry the lease yet (`labelled`), so nothing of the lease reaches the guest before it does.
    """
    return Vm(
        generation=spare.generation,
        vm=spare.vm,
        uuid=spare.uuid,
        lease=ask.lease,
        bait=bait,
        owner=ask.owner,
        environment=spare.environment,
        image=spare.image,
        shape=spare.shape,
        asked=ask.run,
        phase=_TAKEN[spare.phase],
        tries=spare.tries,
        granted_at=now,
        since=now,
        way=Way.UNPAUSE if spare.phase in (SparePhase.STANDBY, SparePhase.PAUSED) else spare.way,
        golden=spare.golden,
        labelled=False,
    )
