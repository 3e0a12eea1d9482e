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


@dataclass(slots=True)
class Told:
    """What the hostmaster has said of one lease."""

    vm: VmView | None = None
    last: VmView | None = None
    """The VM when it was granted or in an inventory, also if it is gone: its node may still be there."""
    denied: Denial | None = None
    lost: str = ""
    """Why there is no VM any more; empty: nobody said so."""
    ended: tuple[Generation, Run] | None = None
    """The run of which the guest has said that it has ended. A host tells it before it tells of the VM."""
    asking: RequestId | None = None
    """The request of ours that is not answered yet."""
    released: bool = False
    """The host has confirmed that the VM, if there ever was one, is gone."""


_NOTHING = Told()


@dataclass
class HostView:
    """One hostmaster as its messages show it. `heard` keeps it current; everything else reads."""

    linked: bool = False
    complete: bool = False
    """True once a complete inventory has come: a lease of which no VM was told then has none."""
    capacity: Capacity | None = None
    _told: dict[LeaseId, Told] = field(default_factory=dict)

    def told(self, lease: LeaseId) -> Told:
        """All that was said of this lease; to read."""
        return self._told.get(lease, _NOTHING)

    def asks(self, lease: LeaseId, request: RequestId) -> None:
        """A request about this lease goes out."""
        self._of(lease).asking = request

    def connected(self, resumed: bool) -> None:
        """A conversation begins; unless it goes on where it was, nothing of the old one counts."""
        self.linked = True
        if not resumed:
            self.complete = False
            for told in self._told.values():
                told.asking = told.vm = None

    def disconnected(self) -> None:
        """What was known is now only what was last known."""
        self.linked = False

    def knows(self, lease: LeaseId) -> bool:
        """True if the host's word about this lease (also: no VM) is of this conversation."""
        told = self.told(lease)
        return self.linked and (self.complete or told.vm is not None or told.released)

    def forget(self, lease: LeaseId) -> None:
        """The lease is over."""
        self._told.pop(lease, None)

    def _of(self, lease: LeaseId) -> Told:
        return self._told.setdefault(lease, Told())

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
                    if (told := self._told.get(lease)) is not None and told.asking is None:
                        told.vm = None
                return frozenset(unknown)
            case Error():
                return self._failed(message)
            case Bound() | VmReady() | Started() if message.lease not in self._told:
                return frozenset({message.lease})  # of a VM that nobody has told of
            case Granted() | Denied() | Bound() | VmReady() | Started() | VmLost() | Released() | Finished():
                _take_in(self._of(message.lease), message, expected)
                return frozenset({message.lease})
        return frozenset()

    def _inventory(self, message: HostInventory) -> frozenset[LeaseId]:
        before = frozenset(lease for lease, told in self._told.items() if told.vm is not None)
        named = frozenset(vm.lease for vm in message.vms)
        for lease in before - named if message.complete else ():
            if self._told[lease].asking is None:
                self._told[lease].vm = None
        for vm in sorted(message.vms, key=lambda vm: vm.phase is not VmPhase.GONE):  # one that is there counts
            told, gone = self._of(vm.lease), vm.phase is VmPhase.GONE
            told.last = _view(vm)
            told.vm = None if gone else told.last
            if gone:
                told.lost = told.lost or "the VM is gone"
        self.complete = message.complete
        return before | named

    def _failed(self, message: Error) -> frozenset[LeaseId]:
        asked = ((lease, told.asking) for lease, told in self._told.items() if told.asking is not None)
        leases = frozenset(lease for lease, request in asked if request == message.id)
        for lease in leases:
            told = self._told[lease]
            told.asking = told.vm = None
            told.denied = Denial(message.code, message.text, permanent=False, retry_after_s=None)
        return leases


def _take_in(
    told: Told,
    message: Granted | Denied | Bound | VmReady | Started | VmLost | Released | Finished,
    expected: Run | None,
) -> None:
    if isinstance(message, Granted | Denied | Bound | Released) and told.asking == message.id:
        told.asking = None
    match message:
        case Granted():
            _granted(told, message, expected)
        case Denied():
            told.vm = None
            told.denied = Denial(message.code, message.text, message.permanent, message.retry_after_s)
        case Bound():
            if told.vm is not None and told.vm.generation == message.generation:
                _update(told, bound=True, run=message.run)
        case VmReady():
            _update(told, phase=VmPhase.READY, boot_id=message.boot_id)
        case Started():
            _update(told, phase=VmPhase.STARTED, boot_id=message.boot_id, bound=True, run=message.run)
        case Finished():
            told.ended = message.generation, message.run
        case VmLost():
            told.vm, told.lost = None, message.text or message.code
        case Released():
            told.vm, told.lost, told.released = None, "", True


def _granted(told: Told, message: Granted, expected: Run | None) -> None:
    if told.vm is not None or expected is None:
        return
    told.denied = None
    told.vm = told.last = VmView(
        generation=message.generation,
        vm=message.vm,
        phase=VmPhase.RESERVED,
        run=expected,
    )


def _update(told: Told, **changes: object) -> None:
    if told.vm is not None:
        told.vm = replace(told.vm, **changes)  # type: ignore[arg-type]


def _view(vm: VmStatus) -> VmView:
    return VmView(vm.generation, vm.vm, vm.phase, vm.run, vm.bound, vm.boot_id)
