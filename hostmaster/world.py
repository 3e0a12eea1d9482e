"""What the hostmaster needs of the world, as interfaces. Tests pass fakes that the contract suites keep honest."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from protocol.guest import FromGuest
from protocol.ids import EnvironmentName, Generation, LeaseId, Shape, VmName


class HypervisorUnavailable(Exception):
    """libvirt did not answer or not in time: nothing is known, so nothing may be destroyed (R13)."""


class DomainRefused(Exception):
    """libvirt answered, and its answer is no: the text is libvirt's own."""


class DomainState(enum.StrEnum):
    """All that a decision needs of libvirt's states. ABSENT is a positive fact."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABSENT = "absent"


class Accelerator(enum.StrEnum):
    """What executes the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"
    NONE = "none"  # test:/// has no guest


@dataclass(frozen=True, slots=True)
class Ours:
    """Our facts about a VM, kept in the domain's metadata so that libvirt alone can rebuild an inventory."""

    host: str
    slot: VmName
    generation: Generation
    lease: LeaseId
    """Empty, like `bait` and `run`, for a spare; its owner is 0."""
    bait: str
    owner: int
    environment: EnvironmentName
    image: str
    """Image id: 64 hex digits."""
    shape: Shape
    run: str
    """The run in msgspec JSON, for the reader of a dump; empty if none."""

    @property
    def is_spare(self) -> bool:
        """True for a VM without a lease: nothing of any job has ever been in it."""
        return self.lease == ""


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain as libvirt sees it now. `ours` is None for domains without our metadata: never touched."""

    name: str
    uuid: str
    state: DomainState
    ours: Ours | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """All that the domain XML is made of. Paths are absolute; nothing here is user text."""

    ours: Ours
    uuid: str
    mac: str
    bridge: str | None
    """None: QEMU's own user networking, from which nobody can reach the guest."""
    accelerator: Accelerator
    kernel: str
    initrd: str
    root: str
    overlay: str
    console: str
    channel: str
    emulator: str | None = None
    network_filter: str | None = None
    address: str | None = None
    """IPv4 address without prefix length, for the network filter."""
    extra_cmdline: tuple[str, ...] = field(default=())


class Hypervisor(Protocol):
    """One hypervisor. Every call may raise HypervisorUnavailable, after which the state is unknown: look."""

    async def create(self, spec: DomainSpec) -> None:
        """Define nothing, start a transient domain. An existing domain of this UUID is a success. DomainRefused."""

    async def destroy(self, uuid: str) -> None:
        """Return once no domain of this UUID exists; one already gone is a success."""

    async def pause(self, uuid: str) -> None:
        """Stop the vCPUs; already paused is a success."""

    async def unpause(self, uuid: str) -> None:
        """Let the vCPUs run; already running is a success."""

    async def save(self, uuid: str, path: str) -> None:
        """Write the domain's memory to `path` (mode 0600) and end the domain.

        Returns once the file is whole and no domain of this UUID exists; then again a success. `path` appears
        whole or not at all, and replaces an older one. DomainRefused if there is neither such a domain nor what
        was saved of it, or if it cannot be saved: then the domain may still run.
        """

    async def restore(self, path: str, spec: DomainSpec) -> None:
        """Start what was saved at `path`, running, with the spec's overlay, channel, console and metadata.

        The spec's name and UUID are those of the saved domain; a domain of this UUID that exists is a success.
        The file stays and may be restored again. DomainRefused if it does not fit or cannot be read: boot instead.
        """

    async def relabel(self, uuid: str, ours: Ours) -> None:
        """Replace our facts on a living domain: a spare becomes a lease's. DomainRefused if it is gone."""

    async def identity(self) -> str:
        """Changes whenever what was saved may no longer fit: libvirt, QEMU, host CPU and kernel, our own devices."""

    async def domains(self) -> tuple[Domain, ...]:
        """Every domain there is, ours or not: a complete list or HypervisorUnavailable."""

    async def probe(self, kernel: str, initrd: str) -> tuple[Accelerator, str]:
        """Boot a one-second guest under KVM, else TCG; the accelerator that worked and why, in one sentence."""

    def watch(self, hint: Callable[[str], None]) -> None:
        """Call `hint(uuid)` on the reactor thread when something happened to a domain, `hint("")` when all
        may have changed (reconnected). Hints may be lost or wrong: they only say when to look."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The files of a verified image."""

    image: str
    kernel: str
    initrd: str
    root: str
    lrms: str


class Images(Protocol):
    """Images and overlays of this host: blocking file work, off the reactor thread."""

    async def verify(self, environment: EnvironmentName) -> Artifacts:
        """Check the environment's image against its recorded hash; ImageRefused says what is wrong with it.

        ImageUnreadable if that may pass by itself.
        """

    async def make_overlay(self, name: str, disk_mib: int) -> str:
        """Create the private writable layer; absolute path. An existing one of this name is replaced."""

    async def remove_overlay(self, name: str) -> None:
        """Remove it; one already gone is a success."""

    async def overlays(self) -> tuple[str, ...]:
        """Names of all overlays there are, so that leftovers can be found."""

    async def move_overlay(self, name: str, target: str) -> None:
        """Move it to that path on the same file system. One that is there already is a success; OSError otherwise."""

    async def golden_path(self, name: str) -> str:
        """Absolute path for the memory of the golden state of this name. Makes the directory, not the file."""

    async def freeze(self, name: str, overlay: str) -> None:
        """The overlay of this name, whose VM was just saved, becomes the golden state's. Done before: a success.

        OSError if there is no such overlay and the golden state has none either.
        """

    async def thaw(self, name: str, overlay: str) -> str:
        """A private copy of the golden state's overlay under this name, as `make_overlay` gives an empty one; path.

        OSError if there is no such golden state or the disk is full.
        """

    async def remove_golden(self, name: str) -> None:
        """Remove memory and overlay of this name; already gone is a success."""

    async def goldens(self) -> Mapping[str, int]:
        """Every golden state there is, whole or not: name to bytes on disk."""


class ImageRefused(Exception):
    """The image is missing, altered or unsafe. The text names the environment, the file and the remedy."""


class ImageUnreadable(ImageRefused):
    """The image could not be read, as when its file system is away: nobody knows what is wrong, and it may pass."""


class Guests(Protocol):
    """The host ends of the guest channels. What a guest says arrives at the listener given at construction."""

    def open(self, name: str) -> str:
        """Listen for the VM of that overlay/channel name; the socket's absolute path. Idempotent."""

    def close(self, name: str) -> None:
        """Stop listening and remove the socket. Idempotent."""

    def send(self, name: str, lines: bytes) -> bool:
        """Write to the guest if it is connected; False if it is not (it will say hello when it is)."""


GuestListener = Callable[[str, FromGuest | None], None]
"""Called with the channel's name and what the guest said; None: the guest's end was closed."""
