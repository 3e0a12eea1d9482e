"""Daemons with one rule taken out, to see that the simulation notices: patches of the real code, made by a test."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from bait.lrms.base import Home
from bait.rescue import Rescue
from bait.rules import job as jobs
from bait.rules import record
from bait.rules.lease import Deed, Lease, Step
from hostmaster.keeper import Keeper
from hostmaster.rules import capacity, lifecycle
from hostmaster.rules.lifecycle import Verdict, Vm
from hostmaster.world import DomainState
from protocol.messages import VmPhase
from tests.simulation.faults import FAULTS
from tests.simulation.lrms import Controller
from tests.simulation.play import Result, play
from wnod.journal import Journal
from wnod.journalmark import Reached


def _patch(stack: contextlib.ExitStack, target: object, name: str, new: object) -> None:
    stack.enter_context(mock.patch.object(target, name, new))


def gate_says_yes(stack: contextlib.ExitStack) -> None:
    """R4: every run may start in every VM."""

    def may_start(vm: Vm, ask: Any, now: float) -> Verdict:
        return Verdict(vm, True)

    _patch(stack, lifecycle, "may_start", may_start)


def start_not_journalled(stack: contextlib.ExitStack) -> None:
    """R1: the guest hears Allow, and the record does not say so."""
    real = lifecycle.may_start

    def may_start(vm: Vm, ask: Any, now: float) -> Verdict:
        return replace(real(vm, ask, now), vm=vm)

    _patch(stack, lifecycle, "may_start", may_start)


def unknown_is_absent(stack: contextlib.ExitStack) -> None:
    """R13: a hypervisor that does not answer has no domains."""
    real = lifecycle.decide

    def decide(vm: Vm, facts: Any, times: Any) -> Any:
        gone = replace(facts, domain=DomainState.ABSENT, overlay=False) if facts.domain is None else facts
        return real(vm, gone, times)

    _patch(stack, lifecycle, "decide", decide)


def nobody_fences(stack: contextlib.ExitStack) -> None:
    """R9: a host that is cut off lets its VMs run."""
    _patch(stack, Keeper, "look_for_contact", lambda self: None)


def nobody_rescues(stack: contextlib.ExitStack) -> None:
    """R12: what a bait has forgotten stays where it is."""
    _patch(stack, Rescue, "look", lambda self: None)


def target_stays(stack: contextlib.ExitStack) -> None:
    """R11: a job that comes back keeps the node it was sent to: a lease in RETURNING just ends."""
    real = jobs.decide

    def decide(lease: Any, facts: Any, times: Any) -> Any:
        step = real(lease, facts, times)
        if step.deed is Deed.GIVE_BACK:
            return Step(record.done(lease, Deed.GIVE_BACK, facts.now))
        return step

    _patch(stack, jobs, "decide", decide)
    nobody_rescues(stack)  # it would undo the harm a quarter of an hour later


def own_nodes_are_lost(stack: contextlib.ExitStack) -> None:
    """R11: a job that comes back from its VM requires no node, whatever its user asked for."""
    _patch(stack, Lease, "home", property(lambda lease: Home(lease.partition, lease.requeue, (), lease.vm or "")))


def doubt_costs_nothing(stack: contextlib.ExitStack) -> None:
    """R14: only VMs that are known to run are charged."""
    real = capacity.free
    sure = frozenset({VmPhase.BOOTING, VmPhase.READY, VmPhase.BOUND, VmPhase.STARTED})

    def free(host: Any, vms: Any) -> Any:
        return real(host, [vm for vm in vms if vm.phase in sure])

    _patch(stack, capacity, "free", free)


def generations_begin_anew(stack: contextlib.ExitStack) -> None:
    """R15: a journal that begins counts its generations from 1."""
    _patch(stack, Journal, "raise_number", lambda self, name, at_least: 1)


def copies_are_believed(stack: contextlib.ExitStack) -> None:
    """R15: a daemon believes whatever journal it finds."""
    real = Journal._compare

    def compare(self: Journal, last: Reached) -> None:
        real(self, Reached())

    _patch(stack, Journal, "_compare", compare)


def node_goes_first(stack: contextlib.ExitStack) -> None:
    """R11: a VM's node is removed while a job still waits for it."""
    _patch(stack, Controller, "_is_waited_for", lambda self, node: False)


@dataclass(frozen=True)
class Mutant:
    """What takes the rule out, and the faults under which that shows."""

    mutate: Callable[[contextlib.ExitStack], None]
    kinds: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """In words."""
        return (self.mutate.__doc__ or "").partition(": ")[2]


MUTANTS: dict[str, tuple[Mutant, ...]] = {
    "R1": (Mutant(start_not_journalled),),
    "R4": (Mutant(gate_says_yes),),
    "R9": (Mutant(nobody_fences, ("host-cut-off", "clock-jump")),),
    "R11": (
        Mutant(target_stays, ("vm-death",)),
        Mutant(own_nodes_are_lost, ("user-requeues",)),
        Mutant(node_goes_first, tuple(FAULTS)),
    ),
    "R12": (Mutant(nobody_rescues, ("amnesia",)),),
    "R13": (Mutant(unknown_is_absent, ("libvirt-away",)),),
    "R14": (Mutant(doubt_costs_nothing),),
    "R15": (
        Mutant(generations_begin_anew, ("journal-host",)),
        Mutant(copies_are_believed, ("journal-old-host", "journal-old-bait")),
    ),
}
SEEDS = range(1, 13)


def found_out(mutant: Mutant) -> Result | None:
    """The first day on which anybody notices, if there is one."""
    with contextlib.ExitStack() as stack:
        mutant.mutate(stack)
        days = (play(seed, 8, 60, mutant.kinds) for seed in SEEDS)
        return next((day for day in days if day.breaches), None)
