"""Compares journal and libvirt: what the journal has lost is adopted, what belongs to nobody is removed."""

from dataclasses import dataclass, field

from twisted.logger import Logger

from hostmaster.keeper import Keeper
from hostmaster.rules import reconcile
from hostmaster.world import Domain


@dataclass
class Recovery:
    """For one keeper. At each start, and whenever libvirt has come back or all is looked at anew."""

    keeper: Keeper
    log: Logger = field(default_factory=lambda: Logger("hostmaster.recovery"))

    async def recover(self) -> None:
        """Adopt what the journal lost, remove leftovers, resume the rest.

        After it no VM exists, or is still on its way from an earlier life, that is not on record: what is on its way
        finds no overlay any more, and libvirt shows a domain before that opens one. Raises HypervisorUnavailable while
        libvirt is away: call again.
        """
        while await self._remove_leftovers(await self._adopt()):
            pass  # look again: one may have come as its overlay was removed
        self.keeper.compared = True

    async def _adopt(self) -> tuple[Domain, ...]:
        keeper = self.keeper
        domains = tuple((await keeper.look.get()).values())
        for vm in reconcile.adoptable(domains, keeper.vms, keeper.host, keeper.clock.seconds()):
            self.log.warn("adopted {vm} of lease {lease}: not in the journal", vm=vm.key, lease=vm.lease)
            keeper.count_above(vm.generation)
            if keeper.contact is not None:
                keeper.contact.assume()
            keeper.guests.open(vm.key)
            keeper.put(vm)
        keeper.kick_all()  # before files are looked at: a VM does not wait for a directory that cannot be read
        if keeper.beside is not None:
            await keeper.beside.recover(domains)
        return domains

    async def _remove_leftovers(self, domains: tuple[Domain, ...]) -> bool:
        images = self.keeper.images
        names = reconcile.leftovers(await images.overlays(), self.keeper.records(), domains)
        for name in names:
            self.log.warn("removing overlay {name}: it belongs to no VM", name=name)
            await images.remove_overlay(name)
        return bool(names)
