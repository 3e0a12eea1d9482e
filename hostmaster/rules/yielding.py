"""What an administrator wishes of a VM (`wnod vm pause`, `resume`, `keep`): may it be, and what is recorded.

Pure. What is asked becomes a field of the VM's record, from which `lifecycle.decide` does the deeds; so a hostmaster
that dies in between lets the VM go on in time in its next life. Nobody can pause a VM for so long that the LRMS
takes it for dead (`standstill`), and nobody can let one go on that is fenced (ADR 0008).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from hostmaster.rules.lifecycle import Times, Vm
from hostmaster.rules.standstill import Pause, rest_s
from hostmaster.rules.vm import LIVE, Keep
from hostmaster.world import DomainState
from protocol.messages import VmPhase


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, and what to do instead, for the person who asked."""

    text: str
    unknown: bool = False
    """There is no such VM."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pause must keep to."""

    longest_s: float
    times: Times


def find(name: str, vms: Iterable[Vm]) -> Vm | Refusal:
    """The VM of that name, or the one of that job (12, or 12_3 for an array task)."""
    there = [vm for vm in vms if vm.phase is not VmPhase.GONE]
    found = [vm for vm in there if name in (vm.vm, vm.key)] or [vm for vm in there if name == _job(vm)]
    if not found:
        names = ", ".join(sorted(vm.vm for vm in there)[:20]) or "none"
        text = (
            f"{name!r} is no VM of this host and no job in one; VMs here: {names} (wnod vms shows them with their jobs)"
        )
        return Refusal(text, unknown=True)
    return max(found, key=lambda vm: vm.generation)


def _job(vm: Vm) -> str:
    run = vm.bound or vm.asked
    return run.job if run.task is None else f"{run.job}_{run.task}"


def pause(vm: Vm, seconds: float | None, by: str, seen: DomainState | None, now: float, limits: Limits) -> Vm | Refusal:
    """The record of a VM that is to stand still for so long (None: as long as may be)."""
    length = limits.longest_s if seconds is None else seconds
    if not 0 < length <= limits.longest_s:
        return Refusal(
            f"a pause of {length:g} s: expected more than 0 and at most {limits.longest_s:g} s (times.pause_limit_s); "
            f"the LRMS gives a node up that is silent for {limits.times.gives_up_s:g} s (times.lrms_gives_up_s)"
        )
    if (not_now := _cannot_pause(vm, seen, now, limits)) is not None:
        return not_now
    return replace(vm, pause=Pause(now, now + length, by))


def _cannot_pause(vm: Vm, seen: DomainState | None, now: float, limits: Limits) -> Refusal | None:
    if vm.phase is not VmPhase.STARTED:
        return Refusal(
            f"{vm.vm} is {vm.phase}: only a VM in which a job runs (started) can be paused; wait until wnod vms shows "
            "that, or hold the job in the LRMS"
        )
    if vm.fenced is not None:
        return Refusal(f"{vm.vm} is paused already, by wnod itself: {FENCED}")
    if vm.pause is not None:
        left = max(0.0, vm.pause.until - now)
        return Refusal(
            f"{vm.vm} is paused already, by {vm.pause.by} for {left:.0f} s more; wnod vm resume {vm.vm} ends it"
        )
    if seen is DomainState.PAUSED:
        return Refusal(f"{vm.vm} is paused already, and not by wnod: {BY_HAND}")
    if vm.stood is not None and now < (again := vm.stood.until + rest_s(limits.times.gives_up_s)):
        return Refusal(
            f"{vm.vm} was paused until {now - vm.stood.until:.0f} s ago: the LRMS must hear of it first; "
            f"try again in {again - now:.0f} s"
        )
    return None


FENCED = "no contact with the LRMS; it goes on by itself when that is safe (docs/troubleshoot.md)"
BY_HAND = "who did can undo it, as with virsh resume"


def resume(vm: Vm, by: str, seen: DomainState | None, now: float) -> Vm | Refusal:
    """The record of a paused VM that is to go on now."""
    if vm.fenced is not None:
        return Refusal(f"{vm.vm} cannot be let go on by hand: {FENCED}")
    if vm.pause is None:
        why = f"was not paused by wnod: {BY_HAND}" if seen is DomainState.PAUSED else f"is not paused: it is {vm.phase}"
        return Refusal(f"{vm.vm} {why}")
    if not vm.pause.holds(now):
        return vm
    return replace(vm, pause=Pause(vm.pause.at, now, vm.pause.by, by))


def keep(vm: Vm, wish: Keep, obstacle: str) -> Vm | Refusal:
    """The record of a VM that is to be put into quarantine when it ends, unless there is an obstacle."""
    if obstacle:
        return Refusal(obstacle)
    if vm.phase not in LIVE:
        return Refusal(f"{vm.vm} is {vm.phase}: only a VM that is there can be kept")
    return replace(vm, keep=vm.keep or wish)


def told(before: Vm | None, vm: Vm) -> str:
    """What a change of the record means for `wnod explain`; empty if nothing of this."""
    old = before.pause if before is not None else None
    if vm.pause is not None and old is None:
        return f"paused by {vm.pause.by} for at most {vm.pause.until - vm.pause.at:g} s"
    if old is None or vm.pause is not None or vm.fenced is not None or vm.phase is not VmPhase.STARTED:
        return ""
    stood = vm.stood.until - vm.stood.at if vm.stood is not None else 0.0
    return f"goes on after {stood:.1f} s: {f'resumed by {old.ended_by}' if old.ended_by else 'its time was up'}"


def went_on(before: Vm | None, vm: Vm) -> bool:
    """True if the VM has just been seen to run after it stood still: its clock is late."""
    if before is None or vm.phase is not VmPhase.STARTED:
        return False
    stood = before.fenced is not None or before.pause is not None
    return stood and vm.fenced is None and vm.pause is None


def note(vm: Vm, seen: DomainState | None, trouble: str = "") -> str:
    """Why a VM stands still, in one line for `wnod vms`; empty if it does not. `trouble`: as the hypervisor says."""
    if vm.phase is not VmPhase.STARTED:
        return ""
    if vm.fenced is not None:
        return "paused: no contact with the LRMS"
    if vm.pause is not None:
        return f"paused by {vm.pause.by}" if seen is DomainState.PAUSED else f"to be paused by {vm.pause.by}"
    if seen is not DomainState.PAUSED:
        return ""
    return f"stopped: {trouble}" if trouble else "paused by somebody else: wnod leaves it alone"


def row(vm: Vm, seen: DomainState | None) -> dict[str, Any] | None:
    """The administrator's pause for programs: since, until (seconds since 1970), by, seen to stand still."""
    pause = vm.pause
    if pause is None or vm.phase is not VmPhase.STARTED:
        return None
    return {"since": pause.at, "until": pause.until, "by": pause.by, "seen": seen is DomainState.PAUSED}
