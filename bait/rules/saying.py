"""What is said to the hostmaster for a deed. Its answer comes as a message of its own."""

from bait.rules.lease import Deed, Lease, VmView
from protocol.ids import RequestId
from protocol.messages import Bind, FromBait, Release, RequestVm


def message(lease: Lease, deed: Deed, request: RequestId, vm: VmView | None) -> FromBait:
    """For ASK, BIND and RELEASE_VM. `vm`: the lease's, as the host has told of it; a VM that is bound is there."""
    match deed:
        case Deed.ASK:
            return RequestVm(
                id=request,
                lease=lease.lease,
                run=lease.run,
                owner=lease.owner,
                environment=lease.environment,
                shape=lease.shape,
            )
        case Deed.BIND:
            assert vm is not None  # or `bait.rules.job.decide` would not bind it
            return Bind(id=request, lease=lease.lease, generation=vm.generation, run=lease.target)
        case Deed.RELEASE_VM:
            return Release(id=request, lease=lease.lease, generation=lease.generation)
    raise AssertionError(f"{deed} is not said to the host")
