"""Every SrvMsg, as a type. The two unions at the end are the protocol: who may say what.

Rules that all messages keep: unknown fields, unknown tags and out-of-range numbers are refused; each
request carries an `id` chosen and journalled before it is sent and is idempotent; each reply leaves only
after the commit it speaks of. docs/protocol.md tells the same story for another language.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.ids import (
    BaitNameField,
    BootIdField,
    EnvironmentField,
    Epoch,
    GenerationField,
    HostNameField,
    LeaseIdField,
    RequestIdField,
    Room,
    Run,
    SessionIdField,
    Shape,
    Uid,
    VmNameField,
    WordField,
)

VERSIONS = (1,)
"""Wire versions this code speaks, newest first."""

Text = Annotated[str, Meta(max_length=1024, description="for people; no program decides on it")]
Seconds = Annotated[float, Meta(ge=0, le=10_000_000)]
Leases = Annotated[tuple[LeaseIdField, ...], Meta(max_length=4096)]


class Code(enum.StrEnum):
    """Why something was refused or lost. The word is the wire format; never rename one."""

    NO_ROOM = "no-room"  # now; ask again when capacity rises
    TOO_BIG = "too-big"  # never fits this host or this environment
    NO_SUCH_ENVIRONMENT = "no-such-environment"
    ENVIRONMENT_REFUSED = "environment-refused"  # its image is missing, altered or unsafe
    NOT_PERMITTED = "not-permitted"
    NO_SUCH_LEASE = "no-such-lease"
    STALE_GENERATION = "stale-generation"
    SUPERSEDED = "superseded"  # a newer run of the same job has a lease
    NOT_READY = "not-ready"  # starting, stopping or the hypervisor is away: facts unknown
    BOOT_FAILED = "boot-failed"
    VM_DIED = "vm-died"
    LEASE_EXPIRED = "lease-expired"
    BAD_MESSAGE = "bad-message"
    WRONG_VERSION = "wrong-version"
    WRONG_PEER = "wrong-peer"
    SESSION_LOST = "session-lost"
    INTERNAL = "internal"


class Disposition(enum.StrEnum):
    """What becomes of a VM that is released."""

    DESTROY = "destroy"
    QUARANTINE = "quarantine"


class VmPhase(enum.StrEnum):
    """A VM's life (design.md section 7). On the wire, in the journal and in the metrics: one vocabulary."""

    RESERVED = "reserved"
    CREATING = "creating"
    BOOTING = "booting"
    READY = "ready"
    BOUND = "bound"
    STARTED = "started"
    DESTROYING = "destroying"
    GONE = "gone"


class _Msg(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all messages; `type` on the wire is the class's snake_case name."""


# --- opening a conversation -------------------------------------------------------------------------


class Hello(_Msg, frozen=True, tag="hello"):
    """First frame of a bait: who it is, what it speaks, which conversation it continues."""

    versions: Annotated[tuple[Annotated[int, Meta(ge=1, le=1000)], ...], Meta(min_length=1, max_length=16)]
    name: BaitNameField
    epoch: Epoch
    session: SessionIdField
    seen: Annotated[int, Meta(ge=0)] = 0


class Welcome(_Msg, frozen=True, tag="welcome"):
    """First frame of a hostmaster. `resumed` false: start numbering anew, state follows as Inventory."""

    version: Annotated[int, Meta(ge=1, le=1000)]
    name: HostNameField
    epoch: Epoch
    session: SessionIdField
    resumed: bool
    seen: Annotated[int, Meta(ge=0)] = 0


# --- bait to hostmaster -----------------------------------------------------------------------------


class RequestVm(_Msg, frozen=True, tag="request_vm"):
    """Ask for a VM for one run. The lease id is the idempotency key: the same lease gets the same VM."""

    id: RequestIdField
    lease: LeaseIdField
    run: Run
    owner: Uid
    environment: EnvironmentField
    shape: Shape


class Bind(_Msg, frozen=True, tag="bind"):
    """Tie the VM to the one run that may start in it; answered by Bound."""

    id: RequestIdField
    lease: LeaseIdField
    generation: GenerationField
    run: Run


class Renew(_Msg, frozen=True, tag="renew"):
    """The LRMS was just seen to have these leases' runs in their VMs: what a host's fence relies on (R9)."""

    id: RequestIdField
    leases: Leases


class Release(_Msg, frozen=True, tag="release"):
    """The lease has ended; its VM may go. A generation that is not the lease's is a no-op (R5)."""

    id: RequestIdField
    lease: LeaseIdField
    generation: GenerationField | None = None
    disposition: Disposition = Disposition.DESTROY


class BaitInventory(_Msg, frozen=True, tag="bait_inventory"):
    """Every lease this bait has. Sent at connect and every 30 s."""

    leases: Leases


# --- hostmaster to bait -----------------------------------------------------------------------------


class Granted(_Msg, frozen=True, tag="granted"):
    """A slot is charged and journalled for the lease; the VM is being made. `ttl_s`: renew within."""

    id: RequestIdField
    lease: LeaseIdField
    generation: GenerationField
    vm: VmNameField
    ttl_s: Seconds


class Denied(_Msg, frozen=True, tag="denied"):
    """No VM for this lease. `permanent`: asking this host again changes nothing."""

    id: RequestIdField
    lease: LeaseIdField
    code: Code
    text: Text
    permanent: bool
    retry_after_s: Seconds | None = None


class Bound(_Msg, frozen=True, tag="bound"):
    """The binding is on disk: from now on only this run may start in that VM."""

    id: RequestIdField
    lease: LeaseIdField
    generation: GenerationField
    run: Run


class VmReady(_Msg, frozen=True, tag="vm_ready"):
    """The guest has booted and its LRMS daemon has started."""

    lease: LeaseIdField
    generation: GenerationField
    vm: VmNameField
    boot_id: BootIdField


class VmLost(_Msg, frozen=True, tag="vm_lost"):
    """The VM of that generation does not exist any more, and that is a fact, not a suspicion."""

    lease: LeaseIdField
    generation: GenerationField
    code: Code
    text: Text


class Started(_Msg, frozen=True, tag="started"):
    """The gate has let the run start; journalled before the guest heard Allow."""

    lease: LeaseIdField
    generation: GenerationField
    run: Run
    boot_id: BootIdField


class Finished(_Msg, frozen=True, tag="finished"):
    """The VM's post-exec reports the end of the run. A hint: the LRMS has the last word."""

    lease: LeaseIdField
    generation: GenerationField
    run: Run
    status: Annotated[int, Meta(ge=-1, le=2**31)] | None = None


class Renewed(_Msg, frozen=True, tag="renewed"):
    """Answer to Renew: `unknown` are leases this host has no VM for."""

    id: RequestIdField
    unknown: Leases = ()


class Released(_Msg, frozen=True, tag="released"):
    """The VM of this lease and its overlay are gone, and its capacity is free again."""

    id: RequestIdField
    lease: LeaseIdField


class Offer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One environment as this host offers it now."""

    environment: EnvironmentField
    available: bool
    largest: Shape
    usual: Shape
    """What a job that says nothing gets."""
    text: Text = ""
    tags: Annotated[tuple[WordField, ...], Meta(max_length=64)] = ()
    """Software in it: other names a job may ask for it by."""


class Capacity(_Msg, frozen=True, tag="capacity"):
    """What the host has left, in-doubt VMs counted as taken. Sent at connect and on every change."""

    free: Room
    total: Room
    free_slots: Annotated[int, Meta(ge=0, le=65536)]
    slots: Annotated[int, Meta(ge=0, le=65536)]
    serving: bool
    text: Text = ""
    offers: Annotated[tuple[Offer, ...], Meta(max_length=1024)] = ()


class VmStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One VM in an inventory: the current state of a lease, so that a bait that forgot can adopt it (R8)."""

    lease: LeaseIdField
    generation: GenerationField
    vm: VmNameField
    phase: VmPhase
    owner: Uid
    environment: EnvironmentField
    shape: Shape
    run: Run
    """The run that may start in the VM; the run the lease was asked for is one restart older."""
    bound: bool = False
    boot_id: BootIdField | None = None


class HostInventory(_Msg, frozen=True, tag="host_inventory"):
    """Every VM that belongs to this bait's leases. `complete` false: the hypervisor could not be asked (R13)."""

    vms: Annotated[tuple[VmStatus, ...], Meta(max_length=4096)]
    complete: bool


# --- both ways --------------------------------------------------------------------------------------


class Error(_Msg, frozen=True, tag="error"):
    """A request failed, or (without id) the conversation did: the sender closes after it."""

    code: Code
    text: Text
    id: RequestIdField | None = None


FromBait = Hello | RequestVm | Bind | Renew | Release | BaitInventory | Error
FromHost = (
    Welcome | Granted | Denied | Bound | VmReady | VmLost | Started | Finished | Renewed | Released | Capacity
    | HostInventory | Error
)  # fmt: skip
SrvMsg = FromBait | FromHost
