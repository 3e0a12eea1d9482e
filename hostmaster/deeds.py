"""Does to the world what was decided of a VM: each deed once, idempotent, judged afterwards by looking.

What was refused is remembered for the next decision; what nobody has answered is told to `unheard`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from twisted.logger import Logger

from hostmaster import ways
from hostmaster.rules.lifecycle import Deed, Vm, Way
from hostmaster.rules.unheard import Unheard
from hostmaster.waking import Waking
from hostmaster.world import DomainRefused, DomainSpec, Guests, Hypervisor, HypervisorUnavailable, ImageRefused, Images
from protocol.ids import Generation
from protocol.messages import VmPhase
from wnod.duties import Next, Now


@dataclass
class Deeds:
    """For one keeper."""

    hypervisor: Hypervisor
    images: Images
    guests: Guests
    specify: Callable[[Vm, str, str], DomainSpec]
    waking: Waking
    unheard: Unheard
    put_away: Callable[[Vm], Awaitable[None]]
    """Put the VM into quarantine, or record that it cannot be."""
    retry_s: float
    refused: dict[Generation, str] = field(default_factory=dict)
    """Why libvirt or the disk refused to make a VM, when last asked."""
    hosts_trouble: dict[Generation, bool] = field(default_factory=dict)
    """Of VMs and spares that were refused: whether that says nothing of what they were to be made from."""
    done: dict[Generation, tuple[Vm, Deed, float]] = field(default_factory=dict)
    """The last deed for each VM, with the record it followed from, and when."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster.deeds"))

    def too_soon_s(self, vm: Vm, deed: Deed, now: float) -> float:
        """How long this deed must wait yet, because it has just been done for the same record, and in vain.

        A VM that a full disk stops whenever it is let go on would keep libvirt, and this daemon, at nothing else.
        """
        before, last, at = self.done.get(vm.generation, (None, None, 0.0))
        again = (before, last) == (vm, deed) and 0.0 <= now - at < self.retry_s
        return at + self.retry_s - now if again else 0.0

    async def perform(self, vm: Vm, deed: Deed, now: float) -> Next:
        """Do it, and say when to look what came of it."""
        self.done[vm.generation] = (vm, deed, now)
        try:
            match deed:
                case Deed.CREATE:
                    await self._create(vm)
                case Deed.LABEL:
                    return await self.waking.label(vm)
                case Deed.UNPAUSE if vm.phase is VmPhase.BOOTING:
                    return await self.waking.wake(vm)
                case Deed.PAUSE | Deed.UNPAUSE:
                    await self._hold(vm, deed)
                case Deed.KEEP:
                    await self.put_away(vm)
                case Deed.DESTROY:
                    await self.hypervisor.destroy(vm.uuid)
                case Deed.CLEAN:
                    self.guests.close(vm.key)
                    await self.images.remove_overlay(vm.key)
        except HypervisorUnavailable as error:
            if deed is Deed.CREATE:
                self.unheard.asked(vm.generation)
            self.log.warn("{vm}: {deed}: no answer, will look again: {error}", vm=vm.key, deed=deed.value, error=error)
            return self.retry_s
        return Now.AGAIN

    async def _create(self, vm: Vm) -> None:
        try:
            await ways.make(vm, self.specify, self.hypervisor, self.images, self.guests)
            if vm.way is not Way.BOOT:
                self.waking.greet(vm.key)
        except (DomainRefused, ImageRefused, OSError) as error:
            self.refused[vm.generation] = str(error)
            self.hosts_trouble[vm.generation] = ways.is_hosts_trouble(error)
            self.log.warn("{vm}: not made: {error}", vm=vm.key, error=error)

    async def _hold(self, vm: Vm, deed: Deed) -> None:
        try:
            why = "contact with the LRMS" if vm.pause is None else f"the wish of {vm.pause.by}"
            self.log.warn("{vm}: {deed}, for {why}", vm=vm.key, lease=vm.lease, deed=deed.value, why=why)
            await (self.hypervisor.pause if deed is Deed.PAUSE else self.hypervisor.unpause)(vm.uuid)
        except DomainRefused as error:
            self.log.warn("{vm}: {deed}: {error}", vm=vm.key, deed=deed.value, error=error)  # it is gone: look again
