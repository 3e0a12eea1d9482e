"""Makes the domain of a VM or a spare, by the way that its record says: restored from a golden state, or booted."""

import errno
from collections.abc import Callable
from typing import TypeVar

from hostmaster.rules.spare import Spare
from hostmaster.rules.vm import Vm, Way
from hostmaster.world import DomainSpec, Guests, Hypervisor, Images

R = TypeVar("R", Vm, Spare)

_OF_THE_HOST = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


async def make(
    record: R, specify: Callable[[R, str, str], DomainSpec], hypervisor: Hypervisor, images: Images, guests: Guests
) -> None:
    """Give it a fresh overlay and start it. Idempotent as long as nothing runs on the overlay.

    DomainRefused, ImageRefused or OSError: it was not made. HypervisorUnavailable: nobody knows.
    """
    channel = guests.open(record.key)
    if record.way is Way.RESTORE:
        overlay = await images.thaw(record.golden, record.key)
        spec = specify(record, overlay, channel)
        await hypervisor.restore(await images.golden_path(record.golden), spec)
    else:
        overlay = await images.make_overlay(record.key, record.shape.disk_mib)
        await hypervisor.create(specify(record, overlay, channel))


def is_hosts_trouble(error: Exception) -> bool:
    """True if this keeps anything from being made here, and says nothing of what it was to be made from."""
    of_libvirt = "No space left on device" in str(error)  # it may have been told so, too, and has no number for it
    return of_libvirt or (isinstance(error, OSError) and error.errno in _OF_THE_HOST)
