"""How a spare that a lease took becomes that lease's VM: its domain carries the lease, then runs, then is told all.

In this order: a domain without a lease never ran a job, so that whoever finds one that no journal knows may destroy it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace
from twisted.logger import Logger

from hostmaster.rules.vm import Vm, Way
from hostmaster.world import DomainRefused, Hypervisor, Ours
from protocol.ids import Generation
from protocol.messages import VmPhase
from wnod.duties import Next, Now


@dataclass
class Waking:
    """For one keeper, whose records it finds and puts. What it awaits may raise HypervisorUnavailable."""

    hypervisor: Hypervisor
    facts_of: Callable[[Vm], Ours]
    """What its domain's metadata are to say."""
    find: Callable[[Generation], Vm | None]
    put: Callable[[Vm], None]
    retry_s: float
    greet: Callable[[str], None] = lambda key: None
    """Tell the guest on this channel what it waits for, if it is there and may be told."""
    unanswered: set[Generation] = field(default_factory=set)
    """Guests that spoke before their domain carried the lease."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster.waking"))

    async def label(self, vm: Vm) -> Next:
        """Let the domain carry the lease; one that stands still goes on at once."""
        try:
            await self.hypervisor.relabel(vm.uuid, self.facts_of(vm))
        except DomainRefused as error:
            self.log.warn("{vm}: label: {error}", vm=vm.key, error=error)
            return self.retry_s
        labelled = self.find(vm.generation)  # by now it may be bound, or given up
        if labelled is None or labelled.phase is not VmPhase.BOOTING:
            return Now.AGAIN
        labelled = replace(labelled, labelled=True)
        self.put(labelled)
        if vm.way is Way.UNPAUSE:
            return await self.wake(labelled)
        self.answer_late(labelled)
        return Now.AGAIN

    async def wake(self, vm: Vm) -> Next:
        """Let it run, and tell its guest all that it needs."""
        try:
            await self.hypervisor.unpause(vm.uuid)
        except DomainRefused as error:
            self.log.warn("{vm}: unpause: {error}", vm=vm.key, error=error)
            return self.retry_s
        self.unanswered.discard(vm.generation)
        self.greet(vm.key)
        return Now.AGAIN

    def answer_late(self, vm: Vm) -> None:
        """Tell a guest that spoke too early."""
        if vm.labelled and vm.generation in self.unanswered:
            self.unanswered.discard(vm.generation)
            self.greet(vm.key)
