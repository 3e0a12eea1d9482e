"""The record of one VM: what this host intends with one generation. `lifecycle` decides what follows from it. Pure."""

import enum
from typing import Annotated

import msgspec

from hostmaster.rules.standstill import Pause, Standstill
from protocol.ids import BaitName, BootId, EnvironmentName, Generation, LeaseId, Run, Shape, VmName
from protocol.messages import Code, VmPhase, VmStatus

LIVE = frozenset({VmPhase.BOOTING, VmPhase.READY, VmPhase.BOUND, VmPhase.STARTED})
"""Phases in which the domain is expected to exist."""


class Way(enum.StrEnum):
    """How a VM came to be; the faster first."""

    UNPAUSE = "unpause"
    RESTORE = "restore"
    BOOT = "boot"


class Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody's wish that a VM is put into quarantine when it ends (hostmaster.quarantine)."""

    by: str
    why: str
    at: float
    """Seconds since 1970."""


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the guest has said of the end of the run that started in it."""

    status: int | None


class Vm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this host intends with one generation. Times are seconds since 1970."""

    generation: Generation
    vm: VmName
    uuid: str
    lease: LeaseId
    bait: BaitName
    owner: int
    environment: EnvironmentName
    image: str
    shape: Shape
    asked: Run
    """The run the bait intercepted; the run that may start is `bound`, set by Bind."""
    bound: Run | None = None
    phase: VmPhase = VmPhase.RESERVED
    boot_id: BootId | None = None
    tries: Annotated[int, msgspec.Meta(ge=0)] = 0
    granted_at: float
    since: float
    """When the present phase began."""
    released: bool = False
    """The bait has no further use for the lease: once gone, forget it."""
    code: Code | None = None
    """Why the VM is going, once it is going."""
    text: str = ""
    fenced: float | None = None
    """The vCPUs are stopped for want of contact with the LRMS, which was last heard then; None: they may run (R9)."""
    way: Way = Way.BOOT
    golden: str = ""
    """Name of the golden state that its memory is from, or is to be; empty if it was not asked for one."""
    labelled: bool = True
    """False: a spare that was taken, and whose domain is not yet known to carry the lease. It is told nothing."""
    pause: Pause | None = None
    """The vCPUs are stopped because the administrator wished it (yielding.py). Never together with `fenced`."""
    stood: Standstill | None = None
    """When they last stood still for either reason."""
    keep: Keep | None = None
    """It is not destroyed when it goes, but kept for somebody to look at."""
    end: End | None = None
    """The bound run has ended, says the guest: kept for a bait that was away, and for one that comes after the VM."""

    @property
    def key(self) -> str:
        """Names this generation's overlay, console log and guest channel: never used for another."""
        return f"{self.vm}-g{self.generation}"

    def status(self) -> VmStatus:
        """This VM as the bait is told of it."""
        return VmStatus(
            lease=self.lease,
            generation=self.generation,
            vm=self.vm,
            phase=self.phase,
            owner=self.owner,
            environment=self.environment,
            shape=self.shape,
            run=self.bound or self.asked.next(),
            bound=self.bound is not None,
            boot_id=self.boot_id,
        )


def run_json(vm: Vm) -> str:
    """The run the lease was asked for, as the domain's metadata keeps it (reconcile reads it back)."""
    return msgspec.json.encode(vm.asked).decode()
