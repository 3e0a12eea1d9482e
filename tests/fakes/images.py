"""Images and overlays in memory; tests/contract/images runs on it and on the real ones alike."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from hostmaster.world import Artifacts, ImageRefused, ImageUnreadable
from protocol.ids import EnvironmentName


def artifacts(image: str = "a" * 64, lrms: str = "slurm") -> Artifacts:
    """An image that needs not exist."""
    return Artifacts(image=image, kernel="/image/kernel", initrd="/image/initrd", root="/image/root", lrms=lrms)


@dataclass(eq=False)
class Disk:
    """The content of one overlay. Who has opened it keeps it, when another gets its name."""

    of: str = ""
    """The golden state that it was copied from; empty: a new file system."""
    used: bool = False
    """A domain has opened it: it may have been written to."""


@dataclass
class FakeImages:
    """hostmaster.world.Images. Public fields are the test's controls and windows."""

    catalogue: dict[EnvironmentName, Artifacts] = field(default_factory=dict)
    altered: dict[EnvironmentName, str] = field(default_factory=dict)
    """Environments whose image is refused, and the text."""
    full: str = ""
    """Not empty: no overlay can be made, for this reason."""
    made: dict[str, int] = field(default_factory=dict)
    """Overlays that exist, with their size in MiB."""
    moved: dict[str, int] = field(default_factory=dict)
    """Overlays that were moved away, by the path they were moved to."""
    golden: dict[str, int | None] = field(default_factory=dict)
    """Golden states that exist: the size in MiB of their overlay, None while they have none."""
    saved: MutableMapping[str, Any] = field(default_factory=dict)
    """What FakeHypervisor has saved, by path: the same dictionary."""
    disks: dict[str, Disk] = field(default_factory=dict)
    """The contents of the overlays that exist."""
    frozen: dict[str, Disk] = field(default_factory=dict)
    """... and of the golden states."""
    unreadable: dict[EnvironmentName, str] = field(default_factory=dict)
    """Environments whose image cannot be read, and the text."""

    async def verify(self, environment: EnvironmentName) -> Artifacts:
        if environment in self.unreadable:
            raise ImageUnreadable(self.unreadable[environment])
        if environment in self.altered:
            raise ImageRefused(self.altered[environment])
        if environment not in self.catalogue:
            raise ImageRefused(f"environment {environment}: not in the catalogue")
        return self.catalogue[environment]

    async def make_overlay(self, name: str, disk_mib: int) -> str:
        if self.full:
            raise OSError(self.full)
        self.made[name], self.disks[name] = disk_mib, Disk()
        return f"/overlays/{name}"

    async def remove_overlay(self, name: str) -> None:
        self.made.pop(name, None)
        self.disks.pop(name, None)

    async def overlays(self) -> tuple[str, ...]:
        return tuple(sorted(self.made))

    async def move_overlay(self, name: str, target: str) -> None:
        if name in self.made:
            self.moved[target] = self.made.pop(name)
            del self.disks[name]
        elif target not in self.moved:
            raise FileNotFoundError(f"no overlay {name}")

    async def golden_path(self, name: str) -> str:
        self.golden.setdefault(name, None)
        return f"/golden/{name}/memory"

    async def freeze(self, name: str, overlay: str) -> None:
        if overlay in self.made:
            self.golden[name], self.frozen[name] = self.made.pop(overlay), self.disks.pop(overlay)
        elif self.golden.get(name) is None:
            raise FileNotFoundError(f"no overlay {overlay} for the golden state {name}")

    async def thaw(self, name: str, overlay: str) -> str:
        if self.full:
            raise OSError(self.full)
        size = self.golden.get(name)
        if size is None:
            raise FileNotFoundError(f"no golden state {name}")
        self.made[overlay], self.disks[overlay] = size, Disk(of=name)
        return f"/overlays/{overlay}"

    async def remove_golden(self, name: str) -> None:
        self.golden.pop(name, None)
        self.frozen.pop(name, None)
        self.saved.pop(f"/golden/{name}/memory", None)

    async def goldens(self) -> Mapping[str, int]:
        memory = 64 << 20
        return {
            name: (size or 0) * 2**10 + (memory if f"/golden/{name}/memory" in self.saved else 0)
            for name, size in sorted(self.golden.items())
        }
