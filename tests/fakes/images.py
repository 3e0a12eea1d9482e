"""Images and overlays in memory; tests/contract/images runs on it and on the real ones alike."""

from dataclasses import dataclass, field

from hostmaster.world import Artifacts, ImageRefused
from protocol.ids import EnvironmentName


def artifacts(image: str = "a" * 64, lrms: str = "slurm") -> Artifacts:
    """An image that needs not exist."""
    return Artifacts(image=image, kernel="/image/kernel", initrd="/image/initrd", root="/image/root", lrms=lrms)


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

    async def verify(self, environment: EnvironmentName) -> Artifacts:
        if environment in self.altered:
            raise ImageRefused(self.altered[environment])
        if environment not in self.catalogue:
            raise ImageRefused(f"environment {environment}: not in the catalogue")
        return self.catalogue[environment]

    async def make_overlay(self, name: str, disk_mib: int) -> str:
        if self.full:
            raise OSError(self.full)
        self.made[name] = disk_mib
        return f"/overlays/{name}"

    async def remove_overlay(self, name: str) -> None:
        self.made.pop(name, None)

    async def overlays(self) -> tuple[str, ...]:
        return tuple(sorted(self.made))
