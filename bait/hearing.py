"""What the bait does with one message of its hostmaster: take it in, and see to whatever it may have changed."""

from bait.adoption import adopt
from bait.follower import Follower
from bait.opening import Opening
from protocol.ids import LeaseId
from protocol.messages import Capacity, HostInventory, SrvMsg


def hear(message: SrvMsg, follower: Follower, opening: Opening) -> None:
    """Nothing is decided here: leases and the gate are kicked, and leases that only the host knows are adopted."""
    lease = follower.leases.get(getattr(message, "lease", LeaseId("")))
    # Sorted: a simulated day must be the same under every hash seed.
    for touched in sorted(follower.view.heard(message, lease.target if lease is not None else None)):
        follower.kick(touched)
    if isinstance(message, HostInventory):
        for vm in message.vms:
            if vm.lease not in follower.leases:
                adopt(follower, vm)
    if isinstance(message, Capacity):
        opening.kick()
