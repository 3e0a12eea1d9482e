"""One VM's life, decided: what is on record and what is seen give the next record and at most one deed.

Theory of operation. A `Vm` is our *intent*, in the journal; `Facts` are what libvirt, the guest and the clock
say now. `decide` compares the two. Its caller journals the new record, performs the deed, looks at the world
anew and asks again, until nothing is left to do. A crash at any point is therefore a pause: the same function
over the same journal and world goes on where it stopped (reliability.md R1, R2). Three rules keep it safe:

* `Facts.domain is None` means nobody knows: then nothing is created and nothing destroyed (R13).
* A generation is made once. Its domain has one UUID for ever, so a create whose answer was lost is found
  again by looking (crash point 6), and a destroy can only hit the generation that it names (R5).
* Only capacity that is *seen* to be free is free: a VM is gone when its domain and its overlay are both absent
  and no create of it is in doubt (R10, R14). Its slot's name is free only when the bait has said Release too,
  because until then the LRMS may still have a node of that name.

A VM gets ready in one of three ways (docs/decisions/0010): it is a spare that was taken over, it is restored
from its slot's golden state, or it boots. The first two are shortcuts into the same phases.
"""

import enum
from dataclasses import dataclass

from msgspec.structs import replace

from hostmaster.rules.standstill import Standstill, silent_since
from hostmaster.rules.vm import LIVE, End, Keep, Vm, Way
from hostmaster.world import DomainState
from protocol.guest import GuestFinished, MayStart
from protocol.ids import BootId, Generation, Run
from protocol.messages import Code, VmPhase

__all__ = [
    "LIVE", "Deed", "Facts", "Step", "Times", "Verdict", "Vm", "Way",
    "bind", "decide", "ended", "ending", "is_end_of", "may_start", "release",
]  # fmt: skip


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class Facts:
    """What is seen now. `domain` None: the hypervisor could not be asked."""

    now: float
    domain: DomainState | None
    overlay: bool | None
    ready: BootId | None = None
    """The boot id with which the guest has said `ready`."""
    failed: str = ""
    """What the guest said of a stage that failed, and has not been ready since."""
    refused: str = ""
    """Why libvirt or the disk refused the last create."""
    expires_at: float = float("inf")
    """When the lease's time to live ends unless the bait renews it."""
    contact: float = float("inf")
    """When this host was last seen to be in contact with the LRMS, or the LRMS not to run (ADR 0008)."""
    word: float = float("-inf")
    """When the bait last said that the LRMS has the bound run in this VM."""
    way_free: bool = True
    """False: a spare that gives way to this VM still has its slot, or its memory."""
    labelled: bool = True
    """The domain's metadata name this VM's lease."""
    may_come: bool = False
    """A create whose answer nobody has heard may be carried out yet (unheard.py)."""
    able: bool = True
    """False: this life of the daemon does not know yet what VMs are made of."""


@dataclass(frozen=True, slots=True)
class Times:
    """Limits; times in seconds."""

    boot_limit_s: float = 180.0
    creates: int = 2
    """How often libvirt is asked to make one VM before that counts as failed (a number, not seconds)."""
    retry_s: float = 1.0
    fence_pause_s: float = 90.0
    """A VM in which a run has started is paused after so long without contact with the LRMS. Infinite: never."""
    fence_resume_s: float = 150.0
    """Contact that comes back within so long lets it go on at once: the LRMS still waits for its node."""
    wake_limit_s: float = 60.0
    """A VM that was not booted for its lease is ready within this, or never."""
    gives_up_s: float = 300.0
    """The LRMS starts the jobs of a silent node elsewhere after so long (Slurm: SlurmdTimeout)."""


WORD_S = 2.0
"""How old the bait's word may be that lets a VM go on after a long silence."""
GAVE_UP_S = 30.0
"""How much later than `gives_up_s` the LRMS has surely acted, if it ran all the time."""


class Deed(enum.Enum):
    """What may be done to the world. Each is idempotent."""

    CREATE = "create"
    LABEL = "label"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    DESTROY = "destroy"
    KEEP = "keep"
    CLEAN = "clean"


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class Step:
    """The record to journal, the deed to do after that, and when to look again without being asked."""

    vm: Vm
    deed: Deed | None = None
    wake_at: float | None = None


def decide(vm: Vm, facts: Facts, times: Times) -> Step:
    """The next step of this VM."""
    match vm.phase:
        case VmPhase.RESERVED:
            return _reserved(vm, facts, times)
        case VmPhase.CREATING:
            return _creating(vm, facts, times)
        case VmPhase.BOOTING:
            return _booting(vm, facts, times)
        case VmPhase.READY | VmPhase.BOUND | VmPhase.STARTED:
            return _serving(vm, facts, times)
        case VmPhase.DESTROYING:
            return _destroying(vm, facts, times)
        case VmPhase.GONE:
            expired = facts.now >= facts.expires_at
            return Step(replace(vm, released=True) if expired else vm, wake_at=facts.expires_at)


def _reserved(vm: Vm, facts: Facts, times: Times) -> Step:
    if facts.way_free:
        creating = _enter(vm, VmPhase.CREATING, facts.now)
        step = _creating(creating, facts, times)
        return step if step.deed is Deed.CREATE else Step(creating)  # the first look is as good as a second one
    if facts.now >= facts.expires_at:
        return Step(_expired(vm, facts.now))
    return Step(vm, wake_at=facts.now + times.retry_s)


def _creating(vm: Vm, facts: Facts, times: Times) -> Step:
    match facts.domain:
        case None:
            return Step(vm, wake_at=facts.now + times.retry_s)
        case DomainState.RUNNING | DomainState.PAUSED:
            return Step(_enter(vm, VmPhase.BOOTING, facts.now))
        case DomainState.STOPPED:
            return Step(ending(vm, Code.BOOT_FAILED, "the VM stopped while it was made", facts.now))
    if facts.now >= facts.expires_at:
        return Step(_expired(vm, facts.now))
    if facts.may_come:
        # Each try has an overlay of its own under one name. A restore that came late would put its memory on another.
        return Step(vm, wake_at=facts.now + times.retry_s)
    if not facts.able:  # that counts as no try, and says nothing of a golden state
        if facts.now < vm.since + times.boot_limit_s:
            return Step(vm, wake_at=facts.now + times.retry_s)
        why = f"this host did not get ready to make VMs in {times.boot_limit_s:.0f} s; see wnod env list"
        return Step(ending(vm, Code.BOOT_FAILED, why, facts.now))
    if vm.way is not Way.BOOT and (facts.refused or vm.tries >= times.creates):
        return Step(replace(vm, way=Way.BOOT, tries=0))  # its golden state is of no use: a fresh overlay, and boot
    if vm.tries >= times.creates:
        why = facts.refused or "the hypervisor did not make the VM"
        return Step(ending(vm, Code.BOOT_FAILED, why, facts.now))
    return Step(replace(vm, tries=vm.tries + 1), Deed.CREATE)


def _booting(vm: Vm, facts: Facts, times: Times) -> Step:
    if facts.domain in (DomainState.ABSENT, DomainState.STOPPED):
        why = facts.failed or "the VM went away while it booted; see its console log"
        return Step(ending(vm, Code.BOOT_FAILED, why, facts.now))
    if facts.ready is not None:
        phase = VmPhase.READY if vm.bound is None else VmPhase.BOUND
        return Step(_enter(replace(vm, boot_id=facts.ready), phase, facts.now))
    if facts.now >= facts.expires_at:
        return Step(_expired(vm, facts.now))
    limit_s = times.boot_limit_s if vm.way is Way.BOOT else min(times.wake_limit_s, times.boot_limit_s)
    late = vm.since + limit_s
    if facts.now >= late:
        why = facts.failed or f"the guest was not ready after {limit_s:.0f} s; see its console log"
        return Step(ending(vm, Code.BOOT_FAILED, why, facts.now))
    return _waking(vm, facts, times) or Step(vm, wake_at=min(late, facts.expires_at))


def _waking(vm: Vm, facts: Facts, times: Times) -> Step | None:
    """What a VM needs that was not created for its lease: to carry the lease, then to run.

    In that order: a domain without a lease never ran a job, and is destroyed by whoever does not know it.
    """
    if vm.labelled and vm.way is Way.BOOT:
        return None
    if facts.domain is None:
        return Step(vm, wake_at=facts.now + times.retry_s)
    wakes = vm.way is not Way.BOOT and facts.domain is DomainState.PAUSED
    if not vm.labelled and not facts.labelled:
        return Step(vm, Deed.LABEL)
    if not vm.labelled or wakes:
        return Step(replace(vm, labelled=True), Deed.UNPAUSE if wakes else None)
    return None


def _serving(vm: Vm, facts: Facts, times: Times) -> Step:
    if facts.domain in (DomainState.ABSENT, DomainState.STOPPED):
        return Step(ending(vm, Code.VM_DIED, "the VM died", facts.now))
    if vm.phase is VmPhase.STARTED:
        # A run has started here: only its end in the LRMS, told by Release, or the VM's own death ends this VM.
        return _started(vm, facts, times)
    if facts.failed:
        # A guest is a node before its file systems are mounted. Nothing has started in it, and nothing will.
        return Step(ending(vm, Code.BOOT_FAILED, facts.failed, facts.now))
    if facts.now >= facts.expires_at:
        return Step(_expired(vm, facts.now))
    return Step(vm, wake_at=facts.expires_at)


def _started(vm: Vm, facts: Facts, times: Times) -> Step:
    """Fence the run off before the LRMS may start it elsewhere; let it go on when that is safe (R9, ADR 0008).

    Nothing is destroyed for want of contact: a run whose vCPUs stand still runs nowhere, and goes on if the
    LRMS turns out to have waited. The record comes before the pause, so that a crash cannot leave a VM paused
    that nobody will let go on.
    """
    if vm.fenced is None:
        lost_at = facts.contact + times.fence_pause_s
        if facts.now < lost_at:
            return _yielding(vm, facts, times, lost_at)  # for ever, where nothing is fenced
        if facts.domain is DomainState.RUNNING or (vm.pause is not None and facts.domain is DomainState.PAUSED):
            stood = vm.stood if vm.pause is None else Standstill(vm.pause.at, facts.now)
            return Step(replace(vm, fenced=facts.contact, pause=None, stood=stood))
        return Step(vm, wake_at=facts.now + times.retry_s)
    if not _may_go_on(vm, vm.fenced, facts, times):
        deed = Deed.PAUSE if facts.domain is DomainState.RUNNING else None
        return Step(vm, deed, facts.now + times.retry_s)
    if facts.domain is DomainState.PAUSED:
        return Step(vm, Deed.UNPAUSE)
    if facts.domain is DomainState.RUNNING:
        silent = silent_since(vm.stood, vm.fenced, times.gives_up_s)
        vm = replace(vm, fenced=None, stood=Standstill(silent, facts.now))
    return Step(vm, wake_at=facts.now + times.retry_s)


def _yielding(vm: Vm, facts: Facts, times: Times, lost_at: float) -> Step:
    """In contact: the VM stands still while the administrator's pause holds. Others' pauses are left to them."""
    pause = vm.pause
    if pause is None:
        return Step(vm, wake_at=lost_at)
    holds, later = pause.holds(facts.now), facts.now + times.retry_s
    match facts.domain:
        case DomainState.RUNNING if holds:
            return Step(vm, Deed.PAUSE, later)
        case DomainState.RUNNING:
            return Step(replace(vm, pause=None, stood=Standstill(pause.at, facts.now)), wake_at=later)
        case DomainState.PAUSED if holds:
            return Step(vm, wake_at=min(lost_at, pause.until))
        case DomainState.PAUSED:
            return Step(vm, Deed.UNPAUSE)
    return Step(vm, wake_at=later)


def _may_go_on(vm: Vm, fenced: float, facts: Facts, times: Times) -> bool:
    """True if the LRMS cannot be about to start the run elsewhere.

    Soon after the contact was lost it still waits; of a VM that was found paused nobody knows when that was. Long
    after, it would have given the VM up if it had run all the time: if the bait says that it has not, it was away
    itself and waits anew. In between nobody can tell.
    """
    if facts.contact <= fenced or facts.now >= facts.contact + times.fence_pause_s:
        return False
    silent = silent_since(vm.stood, fenced, times.gives_up_s)
    if facts.now < silent + times.fence_resume_s and vm.since <= fenced:
        return True
    return facts.now >= fenced + times.gives_up_s + GAVE_UP_S and facts.now <= facts.word + WORD_S


def _destroying(vm: Vm, facts: Facts, times: Times) -> Step:
    if facts.domain is None:
        return Step(vm, wake_at=facts.now + times.retry_s)
    if facts.domain is not DomainState.ABSENT:
        # One that has stopped has no memory left to be kept.
        return Step(vm, Deed.DESTROY if vm.keep is None or facts.domain is DomainState.STOPPED else Deed.KEEP)
    if facts.overlay is None or facts.may_come:
        return Step(vm, wake_at=facts.now + times.retry_s)
    if facts.overlay:
        return Step(vm, Deed.CLEAN if vm.keep is None else Deed.KEEP)
    return Step(_enter(vm, VmPhase.GONE, facts.now))


def _enter(vm: Vm, phase: VmPhase, now: float) -> Vm:
    return replace(vm, phase=phase, since=now)


def ending(vm: Vm, code: Code | None, text: str, now: float) -> Vm:
    """The VM is to go, for this reason. One that is already going keeps its first reason."""
    if vm.phase in (VmPhase.DESTROYING, VmPhase.GONE):
        return vm
    return replace(vm, phase=VmPhase.DESTROYING, since=now, code=code, text=text)


def release(vm: Vm, now: float) -> Vm:
    """The bait has no further use for this VM."""
    return ending(replace(vm, released=True), None, "released by the bait", now)


def _expired(vm: Vm, now: float) -> Vm:
    return ending(vm, Code.LEASE_EXPIRED, "the bait has not renewed the lease", now)


def bind(vm: Vm, generation: Generation, run: Run, now: float) -> Vm | Code:
    """Tie the VM to the one run that may start in it, or say why not.

    The run must be of the lease's job and not older than what was asked for; once bound, only the same run
    is accepted again (a repeated Bind), so a late or replayed frame cannot move a VM to another run (R15).
    """
    if generation != vm.generation:
        return Code.STALE_GENERATION
    if vm.phase in (VmPhase.DESTROYING, VmPhase.GONE):
        return Code.NO_SUCH_LEASE
    if not run.same_job(vm.asked) or run.restart < vm.asked.restart:
        return Code.NOT_PERMITTED
    if vm.bound is not None:
        return vm if vm.bound == run else Code.NOT_PERMITTED
    if vm.phase is VmPhase.READY:
        return replace(vm, bound=run, phase=VmPhase.BOUND, since=now)
    return replace(vm, bound=run)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer: `vm` is to be journalled before the guest hears it."""

    vm: Vm
    allowed: bool
    reason: str = ""


def may_start(vm: Vm, ask: MayStart, now: float) -> Verdict:
    """The gate (R4): may this run start user code in this VM? Anything but an exact match is a no.

    A repeated question of the boot that was already allowed is allowed again: the answer may have been lost,
    and the guest's own marker stops a second launch (crash point 20).
    """
    bound = vm.bound
    if not vm.labelled:
        return Verdict(vm, False, "this VM does not carry its lease yet")
    if bound is None:
        return Verdict(vm, False, "no run is bound to this VM")
    if (ask.job, ask.task, ask.restart) != (bound.job, bound.task, bound.restart):
        return Verdict(vm, False, "another run is bound to this VM")
    if ask.uid != vm.owner:
        return Verdict(vm, False, "this VM belongs to another user")
    if vm.phase is VmPhase.STARTED:
        if ask.boot_id == vm.boot_id:
            return Verdict(vm, True)
        if vm.boot_id is not None and vm.keep is None:  # None: adopted, so nobody knows which boot that was
            breach = Keep("wnod", "its run was about to start a second time, in another boot", now)
            vm = replace(vm, keep=breach)
        return Verdict(vm, False, "the run has started in an earlier boot")
    if vm.phase not in (VmPhase.BOOTING, VmPhase.READY, VmPhase.BOUND):
        return Verdict(vm, False, f"this VM is {vm.phase}")
    started = replace(vm, phase=VmPhase.STARTED, since=now, boot_id=ask.boot_id)
    return Verdict(started, True)


def is_end_of(vm: Vm, said: GuestFinished) -> bool:
    """True if the guest's `finished` is about the run that started in this boot of this VM."""
    bound = vm.bound
    return (
        vm.phase is VmPhase.STARTED
        and bound is not None
        and said.boot_id == vm.boot_id
        and (said.job, said.task, said.restart) == (bound.job, bound.task, bound.restart)
    )


def ended(vm: Vm, said: GuestFinished) -> Vm:
    """The run that started here has ended. What is said again, or otherwise, changes nothing: guests repeat it."""
    return vm if vm.end is not None else replace(vm, end=End(said.status))
