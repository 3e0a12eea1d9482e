"""The identities of design.md section 2 as types, with the bounds every end enforces.

An identity is chosen once, by the side that owns it, and written down before it is first sent.
"""

from typing import Annotated, NewType

import msgspec
from msgspec import Meta

# \Z, not $: Python's $ also matches before a trailing newline, which is how a forged name slips in.
_NAME = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
_HEX128 = r"^[0-9a-f]{32}\Z"
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z"

HostName = NewType("HostName", str)
BaitName = NewType("BaitName", str)
VmName = NewType("VmName", str)
EnvironmentName = NewType("EnvironmentName", str)
LeaseId = NewType("LeaseId", str)
RequestId = NewType("RequestId", str)
SessionId = NewType("SessionId", str)
BootId = NewType("BootId", str)
Generation = NewType("Generation", int)

HostNameField = Annotated[HostName, Meta(pattern=_NAME, description="a host's name: letters, digits, inner hyphens")]
BaitNameField = Annotated[BaitName, Meta(pattern=_NAME, description="a bait's name, which is its LRMS node's name")]
VmNameField = Annotated[VmName, Meta(pattern=_NAME, description="a slot's VM name, which is its LRMS node's name")]
EnvironmentField = Annotated[EnvironmentName, Meta(pattern=_WORD, description="a key of the environment catalogue")]
LeaseIdField = Annotated[LeaseId, Meta(pattern=_HEX128, description="128 random bits, chosen by the bait")]
RequestIdField = Annotated[RequestId, Meta(pattern=_HEX128, description="128 random bits, chosen by the asker")]
SessionIdField = Annotated[SessionId, Meta(pattern=_HEX128, description="128 random bits, chosen by the bait")]
BootIdField = Annotated[BootId, Meta(pattern=r"^[0-9a-f-]{36}\Z", description="the guest kernel's random boot id")]
WordField = Annotated[str, Meta(pattern=_WORD, description="a plain word: letters, digits and ._+-")]
GenerationField = Annotated[Generation, Meta(ge=1, le=2**53, description="a host's VM number; never used twice")]
Uid = Annotated[int, Meta(ge=0, le=2**32 - 2, description="numeric user id")]
Epoch = Annotated[int, Meta(ge=1, le=2**53, description="counts a daemon's starts; never goes back")]


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, order=True):
    """One run of one job: the LRMS's restart count is the fencing token (reliability.md section 0.2)."""

    cluster: Annotated[str, Meta(pattern=_WORD)]
    job: Annotated[str, Meta(pattern=_WORD)]
    task: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    restart: Annotated[int, Meta(ge=0, le=2**31)]

    def next(self) -> "Run":
        """The run that the LRMS makes of this one by requeueing it once."""
        return msgspec.structs.replace(self, restart=self.restart + 1)

    def same_job(self, other: "Run") -> bool:
        """True if both are runs of one job (or one array task) of one cluster."""
        return (self.cluster, self.job, self.task) == (other.cluster, other.job, other.task)

    @property
    def key(self) -> str:
        """The job without cluster and restart: `12`, or `12_3` for task 3 of array 12."""
        return self.job if self.task is None else f"{self.job}_{self.task}"

    def __str__(self) -> str:
        return f"{self.cluster}/{self.key}.{self.restart}"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of a VM: whole cpus, memory in MiB, private disk in MiB."""

    cpus: Annotated[int, Meta(ge=1, le=4096)]
    memory_mib: Annotated[int, Meta(ge=64, le=2**26)]
    disk_mib: Annotated[int, Meta(ge=16, le=2**31)]

    def fits(self, room: "Room") -> bool:
        """True if a VM of this shape fits into that room."""
        return self.cpus <= room.cpus and self.memory_mib <= room.memory_mib and self.disk_mib <= room.disk_mib


class Room(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Free or total capacity; unlike a shape it may be zero."""

    cpus: Annotated[int, Meta(ge=0, le=2**20)]
    memory_mib: Annotated[int, Meta(ge=0, le=2**40)]
    disk_mib: Annotated[int, Meta(ge=0, le=2**50)]

    def minus(self, shape: Shape) -> "Room":
        """What is left beside a VM of this shape; never below zero, so over-commitment reads as no room."""
        return Room(
            cpus=max(0, self.cpus - shape.cpus),
            memory_mib=max(0, self.memory_mib - shape.memory_mib),
            disk_mib=max(0, self.disk_mib - shape.disk_mib),
        )
