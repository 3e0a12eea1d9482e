"""The hostmaster's configuration: one physical host and the VMs it may make."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from protocol.ids import BaitNameField, HostNameField, Room, VmNameField
from wnod.config.mistakes import Complaint
from wnod.config.ready import Ready
from wnod.config.words import (
    AbsolutePath,
    Address,
    Cidr,
    ConfigStruct,
    DnsName,
    IpAddress,
    LrmsWord,
    Mac,
    MountOptions,
    MountSource,
    MountTarget,
    Plain,
    RuntimePath,
    Seconds,
    TlsFiles,
)

IfName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z", description="a bridge's interface name")]


LONGEST_BOOT_S = 600.0
"""With registering and silence less than the patience of bait.rules.note, after which others give a job back."""

LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path."""

LONGEST_PAUSE_S = 90.0
PAUSE_PART = 0.3
"""Of the LRMS's give-up time: less than the third after which it asks a node for a sign of life (Slurm does)."""


class Slot(ConfigStruct, frozen=True):
    """An identity this host can give a VM."""

    name: VmNameField
    mac: Mac
    address: Cidr


class HypervisorConfig(ConfigStruct, frozen=True):
    """Which libvirt, and how VMs run. `auto` boots a one-second guest to find out what works."""

    bridge: IfName | None = None
    """None: QEMU's user networking. No LRMS can reach a guest that way, so it serves for trying a host only."""
    uri: Annotated[Plain, Meta(pattern=r"^[a-z+]+://", description="a libvirt URI such as qemu:///system")] = (
        "qemu:///system"
    )
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    allow_tcg: bool = False
    """TCG isolates nothing (its own authors say so): True only where the tenants trust each other, as in a lab."""
    network_filter: Plain | None = None
    emulator: AbsolutePath | None = None

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        uri = fields.get("uri") or ""
        if uri.endswith("/system") and "bridge" in fields and fields["bridge"] is None:
            yield Complaint(
                ("bridge",),
                "expected a bridge's interface name",
                "guests reach the LRMS through it; only other URIs than qemu:///system go without",
            )
        if fields.get("accelerator") == "tcg" and fields.get("allow_tcg") is False:
            yield Complaint(
                ("accelerator",),
                "expected 'auto' or 'kvm', because TCG does not separate tenants",
                "or set allow_tcg: true if that is acceptable here",
            )


class Network(ConfigStruct, frozen=True):
    """What a guest is told about its network; `hosts` becomes lines of its /etc/hosts."""

    gateway: IpAddress | None = None
    dns: IpAddress | None = None
    hosts: dict[IpAddress, DnsName] = msgspec.field(default_factory=dict)


class Lrms(ConfigStruct, frozen=True):
    """What a guest needs to join the LRMS. The key file's content goes to guests over their private channel."""

    controller: Address
    munge_key: AbsolutePath
    kind: Literal["slurm"] = "slurm"
    features: tuple[LrmsWord, ...] = ("vwn",)
    guest_files: AbsolutePath | None = None
    """A directory with what slurmd reads: given to guests at standby, so that it is up before it has a key."""


class Mount(ConfigStruct, frozen=True):
    """A file system of the site that every VM mounts."""

    type: LrmsWord
    source: MountSource
    target: MountTarget
    options: MountOptions = ""


class Times(ConfigStruct, frozen=True):
    """Limits of a VM's life, in seconds unless the name says otherwise."""

    boot_limit_s: Seconds = 180.0
    lease_ttl_s: Seconds = 90.0
    create_limit_s: Seconds = 60.0
    retries: Annotated[int, Meta(ge=0, le=10)] = 1
    """How often a VM that libvirt refuses to make is tried once more."""
    fence_pause_s: Seconds = 90.0
    """A VM with a job is paused when host and LRMS have been out of contact for so long (ADR 0008)."""
    fence_resume_s: Seconds = 150.0
    """Contact that is back within so long lets it go on at once."""
    lrms_gives_up_s: Seconds = 300.0
    """After so long the LRMS starts a silent node's jobs elsewhere: SlurmdTimeout."""
    pause_limit_s: Seconds | None = None
    """How long the administrator may pause a job's VM (`wnod vm pause`). None: see `longest_pause_s`."""
    keep_console_days: Annotated[int, Meta(ge=0, le=3650)] = 7

    @property
    def longest_pause_s(self) -> float:
        """How long an administrator's pause may last: so that the LRMS does not take the node for dead."""
        if self.pause_limit_s is not None:
            return self.pause_limit_s
        return min(LONGEST_PAUSE_S, self.fence_pause_s, PAUSE_PART * self.lrms_gives_up_s)

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        limit = fields.get("boot_limit_s")
        if limit is not None and limit > LONGEST_BOOT_S:
            yield Complaint(
                ("boot_limit_s",),
                f"expected at most {LONGEST_BOOT_S:g}: other baits take a job that waits for 15 minutes for left alone",
                "mend the image: a boot takes seconds",
            )
        names = ("fence_pause_s", "fence_resume_s", "lrms_gives_up_s")
        for earlier, later in pairwise(names):
            least, most = fields.get(earlier), fields.get(later)
            if least is not None and most is not None and least >= most:
                yield Complaint((earlier,), f"expected less than {later} ({most:g})", "defaults: 90, 150, 300")
        yield from _pause_too_long(fields)


def _pause_too_long(fields: Mapping[str, Any]) -> Iterator[Complaint]:
    limit, gives_up, fence = (fields.get(name) for name in ("pause_limit_s", "lrms_gives_up_s", "fence_pause_s"))
    if limit is None:
        return
    if gives_up is not None and limit > (most := PAUSE_PART * gives_up):
        yield Complaint(
            ("pause_limit_s",),
            f"expected at most {most:g}, which is {PAUSE_PART:g} of lrms_gives_up_s ({gives_up:g})",
            "a node that is silent for longer may be given up by the LRMS; without the field the limit fits by itself",
        )
    elif fence is not None and limit > fence:
        yield Complaint(
            ("pause_limit_s",), f"expected at most fence_pause_s ({fence:g})", "or leave it out: the limit then fits"
        )


class QuarantineConfig(ConfigStruct, frozen=True):
    """VMs that are kept when they end, for somebody to look at (`wnod vm keep`, or a breach that wnod noticed)."""

    at_most: Annotated[int, Meta(ge=0, le=1000)] = 0
    """How many; each may take its memory and its disk in the state directory. 0: none is kept."""
    keep_days: Annotated[int, Meta(ge=1, le=3650)] = 14
    """Each goes by itself after so long."""


class HostmasterConfig(ConfigStruct, frozen=True):
    """Everything a hostmaster has to be told."""

    host: HostNameField
    baits: Annotated[tuple[BaitNameField, ...], Meta(min_length=1)]
    tls: TlsFiles
    capacity: Room
    """What VMs may use of this host, all together; leave the host itself some."""
    slots: Annotated[tuple[Slot, ...], Meta(min_length=1, max_length=4096)]
    hypervisor: HypervisorConfig
    lrms: Lrms
    listen: Address = "0.0.0.0:9610"
    """Every address by default: mutual TLS guards it. A site may narrow it."""
    catalogue: AbsolutePath = "/etc/wnod/catalogue.yaml"
    state: AbsolutePath = "/var/lib/wnod/hostmaster"
    runtime: RuntimePath = "/run/wnod/hostmaster"
    network: Network = Network()
    mounts: tuple[Mount, ...] = ()
    times: Times = Times()
    quarantine: QuarantineConfig = QuarantineConfig()
    ready: Ready = Ready()
    metrics: Address | None = "127.0.0.1:9611"

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        slots: Sequence[Any] = fields.get("slots") or ()
        for name in ("name", "mac"):
            yield from _repeated(slots, name)
        yield from _repeated_addresses(slots)
        yield from _long_names(slots, str(fields.get("runtime") or ""))
        mounts: Sequence[Any] = fields.get("mounts") or ()
        yield from _twice("mounts", [getattr(mount, "target", None) for mount in mounts], "target")
        if fields.get("metrics") is not None and fields.get("metrics") == fields.get("listen"):
            yield Complaint(("metrics",), "expected another port than listen's", "the default is 127.0.0.1:9611")
        if fields.get("state") is not None and fields.get("state") == fields.get("runtime"):
            yield Complaint(
                ("runtime",), "expected another directory than state", "the default is /run/wnod/hostmaster"
            )


def _repeated(slots: Sequence[Any], field: str) -> Iterator[Complaint]:
    """Slots that could not be read whole are compared in the fields that could."""
    yield from _twice("slots", [getattr(slot, field, None) for slot in slots], field)


def _long_names(slots: Sequence[Any], runtime: str) -> Iterator[Complaint]:
    """A VM's channel is a socket, and the path of one has a limit."""
    most = LONGEST_SOCKET - len(f"{runtime}/guests/-g9999999999.sock".encode())
    for index, slot in enumerate(slots):
        if len(getattr(slot, "name", "")) > most:
            text = f"expected at most {max(most, 0)} characters, because a socket below runtime is named after it"
            yield Complaint(("slots", index, "name"), text, "or configure a shorter runtime directory")


def _repeated_addresses(slots: Sequence[Any]) -> Iterator[Complaint]:
    addresses = [getattr(slot, "address", None) for slot in slots]
    yield from _twice("slots", [address and address.split("/")[0] for address in addresses], "address")


def _twice(where: str, values: Sequence[str | None], field: str) -> Iterator[Complaint]:
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value is None:
            continue
        if value in first:
            yield Complaint(
                (where, index, field),
                f"expected each of {where} to have its own {field}",
                f"{where}[{first[value]}] has it too",
            )
        first.setdefault(value, index)
