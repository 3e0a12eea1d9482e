"""What the hostmaster has said of each lease in this conversation. Memory only: it is told anew at each connect."""

from dataclasses import dataclass, field, replace

from bait.rules.lease import Denial, VmView
from protocol.ids import Generation, LeaseId, RequestId, Run
from protocol.messages import (
    Bound,
    Capacity,
    Denied,
    Error,
    Finished,
    Granted,
    HostInventory,
    Released,
    Renewed,
    SrvMsg,
    Started,
    VmLost,
    VmPhase,
    VmReady,
    VmStatus,
)


@dataclass
class HostView:
    """One hostmaster as its messages show it. `heard` keeps it current; everything else reads."""

    linked: bool = False
    complete: bool = False
    """True once a complete inventory has come: a lease that is not in `vms` then has no VM."""
    capacity: Capacity | None = None
    vms: dict[LeaseId, VmView] = field(default_factory=dict)
    last: dict[LeaseId, VmView] = field(default_factory=dict)
    """The VM of each lease when it was granted or in an inventory, also if it is gone: its node may still be there."""
    denied: dict[LeaseId, Denial] = field(default_factory=dict)
    lost: dict[LeaseId, str] = field(default_factory=dict)
    ended: dict[LeaseId, tuple[Generation, Run]] = field(default_factory=dict)
    """The run of which the lease's guest has said that it has ended. A host tells it before it tells of the VM."""
    asking: dict[LeaseId, RequestId] = field(default_factory=dict)
    released: set[LeaseId] = field(default_factory=set)
    """Leases whose VM, if they ever had one, the host has confirmed gone."""

    def connected(self, resumed: bool) -> None:
        """A conversation begins; unless it goes on where it was, nothing of the old one counts."""
        self.linked = True
        if not resumed:
            self.complete = False
            self.asking.clear()
            self.vms.clear()

    def disconnected(self) -> None:
        """What was known is now only what was last known."""
        self.linked = False

    def knows(self, lease: LeaseId) -> bool:
        """True if the host's word about this lease (also: no VM) is of this conversation."""
        return self.linked and (self.complete or lease in self.vms or lease in self.released)

    def forget(self, lease: LeaseId) -> None:
        """The lease is over."""
        for memory in (self.vms, self.last, self.denied, self.lost, self.ended, self.asking):
            memory.pop(lease, None)
        self.released.discard(lease)

    def heard(self, message: SrvMsg, expected: Run | None) -> frozenset[LeaseId]:
        """Take in one message; the leases it is about. `expected`: the run a new VM is for, known to the caller."""
        match message:
            case Capacity():
                self.capacity = message
                return frozenset()
            case HostInventory():
                return self._inventory(message)
            case Renewed(unknown=unknown):
                for lease in unknown:
                    if lease not in self.asking:
                        self.vms.pop(lease, None)
                return frozenset(unknown)
            case Error():
                return self._failed(message)
            case Granted() | Denied() | Bound() | VmReady() | Started() | VmLost() | Released() | Finished():
                self._of_lease(message, expected)
                return frozenset({message.lease})
        return frozenset()

    def _inventory(self, message: HostInventory) -> frozenset[LeaseId]:
        before = frozenset(self.vms)
        told = {vm.lease: _view(vm) for vm in message.vms if vm.phase is not VmPhase.GONE}
        gone = {vm.lease: "the VM is gone" for vm in message.vms if vm.phase is VmPhase.GONE}
        kept = {lease: vm for lease, vm in self.vms.items() if not message.complete or lease in self.asking}
        self.vms = {lease: vm for lease, vm in kept.items() if lease not in gone} | told
        self.last.update((vm.lease, _view(vm)) for vm in message.vms)
        for lease, text in gone.items():
            self.lost.setdefault(lease, text)
        self.complete = message.complete
        return before | frozenset(told) | frozenset(gone)

    def _failed(self, message: Error) -> frozenset[LeaseId]:
        leases = frozenset(lease for lease, asked in self.asking.items() if asked == message.id)
        for lease in leases:
            self.asking.pop(lease)
            self.vms.pop(lease, None)
            self.denied[lease] = Denial(message.code, message.text, permanent=False, retry_after_s=None)
        return leases

    def _of_lease(
        self,
        message: Granted | Denied | Bound | VmReady | Started | VmLost | Released | Finished,
        expected: Run | None,
    ) -> None:
        lease = message.lease
        match message:
            case Granted():
                self._answered(message.id, lease)
                self._granted(message, expected)
            case Denied():
                self._answered(message.id, lease)
                self.vms.pop(lease, None)
                text, after = message.text, message.retry_after_s
                self.denied[lease] = Denial(message.code, text, message.permanent, after)
            case Bound():
                self._answered(message.id, lease)
                if lease in self.vms and self.vms[lease].generation == message.generation:
                    self._update(lease, bound=True, run=message.run)
            case VmReady():
                self._update(lease, phase=VmPhase.READY, boot_id=message.boot_id)
            case Started():
                self._update(lease, phase=VmPhase.STARTED, boot_id=message.boot_id, bound=True, run=message.run)
            case Finished():
                self.ended[lease] = message.generation, message.run
            case VmLost():
                self.vms.pop(lease, None)
                self.lost[lease] = message.text or message.code
            case Released():
                self._answered(message.id, lease)
                self.vms.pop(lease, None)
                self.lost.pop(lease, None)
                self.released.add(lease)

    def _granted(self, message: Granted, expected: Run | None) -> None:
        if message.lease in self.vms or expected is None:
            return
        self.denied.pop(message.lease, None)
        self.vms[message.lease] = self.last[message.lease] = VmView(
            generation=message.generation,
            vm=message.vm,
            phase=VmPhase.RESERVED,
            run=expected,
        )

    def _update(self, lease: LeaseId, **changes: object) -> None:
        if lease in self.vms:
            self.vms[lease] = replace(self.vms[lease], **changes)  # type: ignore[arg-type]

    def _answered(self, request: RequestId, lease: LeaseId) -> None:
        if self.asking.get(lease) == request:
            del self.asking[lease]


def _view(vm: VmStatus) -> VmView:
    return VmView(vm.generation, vm.vm, vm.phase, vm.run, vm.bound, vm.boot_id)
