"""The hostmaster's side of the conversation with its baits: each request becomes a record, each change a message.

Nothing is remembered here that the journal does not know, except which requests still wait for an answer; a
bait that reconnects asks again or reads the inventory, so losing those is harmless.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hostmaster.edges.accounts import AccountUnknown, NoSuchAccount, account_of
from hostmaster.keeper import Keeper
from hostmaster.owners import Owners
from hostmaster.quarantine import why_not
from hostmaster.rules import capacity, lifecycle
from hostmaster.rules.capacity import Grant, Refusal
from hostmaster.rules.lifecycle import Vm, Way
from hostmaster.rules.vm import Keep
from hostmaster.stock import Stock
from protocol.ids import BaitName, Generation, LeaseId, RequestId, VmName
from protocol.messages import (
    BaitInventory,
    Bind,
    Bound,
    Capacity,
    Code,
    Denied,
    Disposition,
    Error,
    Finished,
    FromHost,
    Granted,
    HostInventory,
    Release,
    Released,
    Renew,
    Renewed,
    RequestVm,
    SrvMsg,
    Started,
    VmLost,
    VmPhase,
    VmReady,
)
from wnod.crashpoint import around

INVENTORY_EVERY_S = 30.0


class Link(Protocol):
    """What is needed of protocol.link.HostEnd."""

    def send(self, bait: str, message: FromHost) -> None:
        """Queue for the bait; delivered in order while both daemons live."""

    def connected_baits(self) -> frozenset[str]:
        """Baits with an open conversation."""


@dataclass
class BaitService:
    """Answers baits and tells them what becomes of their leases. A `protocol.link.Listener`."""

    clock: IReactorTime
    keeper: Keeper
    host: Callable[[], capacity.Host]
    ttl_s: float
    """How long a lease lives unless its bait renews it; what the bait is told with each grant."""
    new_uuid: Callable[[], str]
    """For a new domain; a restored one has its golden state's."""
    stock: Stock | None = None
    """Without it every VM boots."""
    account: Callable[[int], object] | None = None
    """NoSuchAccount if there is no such user, AccountUnknown while nobody has said. None: the host's, waited for."""
    link: Link = field(init=False)
    refused: Callable[[Code], None] = lambda code: None
    """A bait was told no."""
    _releasing: dict[LeaseId, list[tuple[str, RequestId]]] = field(default_factory=dict)
    _postponed: dict[LeaseId, tuple[str, Release]] = field(default_factory=dict)
    """Releases of leases that nobody here knows, until libvirt has been asked: it may yet show their VMs (R13)."""
    _capacity_told: Capacity | None = None
    _capacity_basis: object = None
    _changes: int = 0
    """How many records have changed in this life: nothing else takes room or gives it back."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster.serve_baits"))

    def __post_init__(self) -> None:
        self.owners = Owners(self.clock, self._request, self._nobody_says)

    # --- protocol.link.Listener --------------------------------------------------------------------

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """Tell the bait everything: it may have been away for long."""
        self.log.info("bait {peer} connected, epoch {epoch}", peer=peer, epoch=epoch, resumed=resumed)
        now = self.capacity()
        if now != self._capacity_told:  # this bait knows other than what all were told: what comes next is news to it
            self._capacity_told, self._capacity_basis = None, None
        self.link.send(peer, now)
        self._send_inventory(peer)

    def disconnected(self, peer: str) -> None:
        """Nothing follows from a lost connection: leases live on until their time to live ends."""
        self.log.info("bait {peer} disconnected", peer=peer)

    def received(self, peer: str, message: SrvMsg) -> None:
        """Do what the bait asks, as far as it concerns its own leases."""
        match message:
            case RequestVm():
                self._request(peer, message)
            case Bind():
                self._bind(peer, message)
            case Renew():
                self._renew(peer, message)
            case Release():
                self._release(peer, message)
            case BaitInventory():
                for lease in message.leases:
                    if self._own(peer, lease) is not None:
                        self.keeper.renew(lease)
                self._send_inventory(peer)
            case Error():
                self.log.warn("bait {peer} reports {code}: {text}", peer=peer, code=message.code, text=message.text)
            case _:
                self.log.warn(
                    "bait {peer} sent {kind}, which is not for a host", peer=peer, kind=type(message).__name__
                )

    # --- requests ----------------------------------------------------------------------------------

    def _own(self, peer: str, lease: LeaseId) -> Vm | None:
        vm = self.keeper.of_lease(lease)
        return vm if vm is not None and vm.bait == peer else None

    def _renew(self, peer: str, ask: Renew) -> None:
        unknown = tuple(x for x in ask.leases if self._own(peer, x) is None or not self.keeper.renew(x))
        for lease in ask.leases:  # in their order: a simulated day must be the same under every hash seed
            if lease not in unknown:
                self.keeper.vouched(lease)
        self.link.send(peer, Renewed(id=ask.id, unknown=unknown))

    def _request(self, peer: str, ask: RequestVm) -> None:
        vm = self.keeper.of_lease(ask.lease)
        if vm is not None and vm.bait != peer:
            # The same answer as for a lease nobody has: a stranger learns nothing by guessing.
            self._deny(peer, ask, Refusal(Code.NO_SUCH_LEASE, "no such lease", True))
        elif vm is not None:
            self._grant(peer, ask, vm)
            self._tell_state(vm)
        else:
            self._admit(peer, ask)

    def _admit(self, peer: str, ask: RequestVm) -> None:
        now = self.clock.seconds()
        for old in capacity.superseded(ask, self.keeper.vms.values()):
            text = f"superseded by {ask.run}"
            self.keeper.put(lifecycle.ending(old, Code.SUPERSEDED, text, now))
        try:
            (self.account or account_of)(ask.owner)
        except NoSuchAccount as error:
            self._deny(peer, ask, Refusal(Code.NOT_PERMITTED, str(error), True))
            return
        except AccountUnknown:
            self.owners.wait(peer, ask)
            return
        if self.keeper.away:
            self._deny(peer, ask, Refusal(Code.NOT_READY, "the hypervisor does not answer", False, 5.0))
            return
        match self._choose(ask):
            case Refusal() as refusal:
                self._deny(peer, ask, refusal)
            case Grant() as grant:
                self._grant(peer, ask, self._made(peer, ask, grant))

    def _nobody_says(self, peer: str, ask: RequestVm) -> None:
        text = "the host's name service does not answer"
        self._deny(peer, ask, Refusal(Code.NOT_READY, text, False, 5.0))

    def _choose(self, ask: RequestVm) -> Grant | Refusal:
        host, stock = self.host(), self.stock
        if stock is None:
            return capacity.admit(ask, host, self.keeper.vms.values())
        if ask.environment in host.offers:
            stock.background.asked(ask.environment, capacity.charged(host, ask.environment, ask.shape))
        fitting = stock.background.fitting()
        return capacity.admit(ask, host, self.keeper.vms.values(), stock.spares.values(), fitting)

    def _made(self, peer: str, ask: RequestVm, grant: Grant) -> Vm:
        """The record of the VM that the lease gets, on disk."""
        if self.stock is not None and grant.spare is not None:
            return self.stock.take(grant.spare, ask, BaitName(peer))
        for generation in grant.evict:
            assert self.stock is not None
            self.stock.evict(generation, f"gives way to {ask.run}")
        vm = self._new(peer, ask, grant.slot)
        if grant.golden is not None:
            vm = replace(vm, uuid=grant.golden.uuid, way=Way.RESTORE, golden=grant.golden.name)
        self.keeper.put(vm)
        return vm

    def _new(self, peer: str, ask: RequestVm, slot: VmName) -> Vm:
        now = self.clock.seconds()
        host = self.host()
        return Vm(
            generation=Generation(self.keeper.journal.next_number("generation")),
            vm=slot,
            uuid=self.new_uuid(),
            lease=ask.lease,
            bait=BaitName(peer),
            owner=ask.owner,
            environment=ask.environment,
            image=host.images[ask.environment],
            shape=capacity.charged(host, ask.environment, ask.shape),
            asked=ask.run,
            granted_at=now,
            since=now,
        )

    def _grant(self, peer: str, ask: RequestVm, vm: Vm) -> None:
        message = Granted(id=ask.id, lease=vm.lease, generation=vm.generation, vm=vm.vm, ttl_s=self.ttl_s)
        with around("host.say.granted"):
            self.link.send(peer, message)

    def _deny(self, peer: str, ask: RequestVm, why: Refusal) -> None:
        self.refused(why.code)
        self.log.info("denied {run}: {code}: {text}", run=str(ask.run), code=why.code, text=why.text)
        message = Denied(
            id=ask.id,
            lease=ask.lease,
            code=why.code,
            text=why.text[:1024],
            permanent=why.permanent,
            retry_after_s=why.retry_after_s,
        )
        self.link.send(peer, message)

    def _bind(self, peer: str, ask: Bind) -> None:
        vm = self._own(peer, ask.lease)
        bound = Code.NO_SUCH_LEASE if vm is None else lifecycle.bind(vm, ask.generation, ask.run, self.clock.seconds())
        if isinstance(bound, Code):
            self.refused(bound)
            self.link.send(peer, Error(id=ask.id, code=bound, text=f"cannot bind {ask.run}: {bound}"))
            return
        self.keeper.put(bound)
        with around("host.say.bound"):
            self.link.send(peer, Bound(id=ask.id, lease=bound.lease, generation=bound.generation, run=ask.run))

    def _release(self, peer: str, ask: Release) -> None:
        vm = self._own(peer, ask.lease)
        if vm is None:
            self.owners.forget(ask.lease)
        if vm is None and not self._knows_all():
            self._postponed[ask.lease] = (peer, ask)
        elif vm is None:
            self.link.send(peer, Released(id=ask.id, lease=ask.lease))
        elif ask.generation not in (None, vm.generation):
            self.link.send(peer, Error(id=ask.id, code=Code.STALE_GENERATION, text="the lease has another generation"))
        elif ask.disposition is Disposition.QUARANTINE and (why := why_not(self.keeper.quarantine)):
            self.link.send(peer, Error(id=ask.id, code=Code.NOT_PERMITTED, text=why))
        else:
            now = self.clock.seconds()
            self._releasing.setdefault(vm.lease, []).append((peer, ask.id))
            if ask.disposition is Disposition.QUARANTINE and vm.keep is None:
                vm = replace(vm, keep=Keep(peer, "the bait wants it kept", now))
            self.keeper.put(lifecycle.release(vm, now))
            self.keeper.duties.kick(str(vm.generation))

    # --- keeper.Observer -----------------------------------------------------------------------------

    def changed(self, before: Vm | None, vm: Vm) -> None:
        """Tell the bait what it needs to act on."""
        self._changes += 1
        if before is None or before.phase is not vm.phase:
            self._tell_state(vm)
            self.tell_capacity()

    def forgotten(self, vm: Vm) -> None:
        """Answer every Release that waited for this."""
        self._changes += 1
        for peer, request in self._releasing.pop(vm.lease, ()):
            with around("host.say.released"):
                self.link.send(peer, Released(id=request, lease=vm.lease))
        self.tell_capacity()

    def finished(self, vm: Vm, status: int | None) -> None:
        """The guest says the run has ended."""
        if vm.bound is not None:
            message = Finished(lease=vm.lease, generation=vm.generation, run=vm.bound, status=status)
            self.link.send(vm.bait, message)

    def _tell_state(self, vm: Vm) -> None:
        if vm.phase in (VmPhase.READY, VmPhase.BOUND) and vm.boot_id is not None:
            ready = VmReady(lease=vm.lease, generation=vm.generation, vm=vm.vm, boot_id=vm.boot_id)
            self.link.send(vm.bait, ready)
        elif vm.phase is VmPhase.STARTED and vm.bound is not None and vm.boot_id is not None:
            started = Started(lease=vm.lease, generation=vm.generation, run=vm.bound, boot_id=vm.boot_id)
            self.link.send(vm.bait, started)
        elif vm.phase is VmPhase.GONE and not vm.released:
            text = vm.text[:1024]
            lost = VmLost(lease=vm.lease, generation=vm.generation, code=vm.code or Code.VM_DIED, text=text)
            self.link.send(vm.bait, lost)

    def _send_inventory(self, peer: str) -> None:
        """The ends of runs first: a bait that was away judges a job by them as soon as it knows of its VM."""
        mine = tuple(vm for vm in self.keeper.vms.values() if vm.bait == peer)
        for vm in mine:
            if vm.end is not None:
                self.finished(vm, vm.end.status)
        self.link.send(peer, HostInventory(vms=tuple(vm.status() for vm in mine), complete=self._knows_all()))

    def _knows_all(self) -> bool:
        """False while there may be VMs that are not on record: a lost journal's, until they are adopted (R13)."""
        return self.keeper.compared and not self.keeper.away

    def send_inventories(self) -> None:
        """Everything to everybody; called every INVENTORY_EVERY_S."""
        for bait in self.link.connected_baits():
            self._send_inventory(bait)

    # --- capacity ------------------------------------------------------------------------------------

    def capacity(self) -> Capacity:
        """What the host has left now."""
        host = self.host()
        vms = tuple(self.keeper.vms.values())
        return Capacity(
            free=capacity.free(host, vms),
            total=host.total,
            free_slots=len(capacity.free_slots(host, vms)),
            slots=len(host.slots),
            serving=not self.keeper.away,
            text="the hypervisor does not answer" if self.keeper.away else "",
            offers=tuple(host.offers.values()),
        )

    def tell_capacity(self) -> None:
        """Tell every bait, if it is news."""
        if self._knows_all():
            postponed, self._postponed = self._postponed, {}
            for peer, ask in postponed.values():
                self._release(peer, ask)
        basis = (self.host(), self.keeper.away, self._changes)
        if basis == self._capacity_basis:
            return  # asked every second, and mostly nothing has happened
        self._capacity_basis = basis
        message = self.capacity()
        if message != self._capacity_told:
            self._capacity_told = message
            for bait in self.link.connected_baits():
                self.link.send(bait, message)
