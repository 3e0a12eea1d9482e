"""The environment catalogue: what worker nodes a site offers."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from protocol.ids import EnvironmentField, Shape
from wnod.config.mistakes import Complaint
from wnod.config.words import AbsolutePath, ConfigStruct, LrmsWord

ImageId = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="an image id: 64 lower-case hex digits, as `wnod image` prints")
]


class Environment(ConfigStruct, frozen=True):
    """A named kind of worker node. `default` is the shape of a job that asks for nothing."""

    image: AbsolutePath
    """The image's directory, shared or local."""
    sha256: ImageId
    largest: Shape
    default: Shape
    delivery: Literal["migrate", "execute"] = "migrate"
    tags: tuple[LrmsWord, ...] = ()
    """Software in it, as users name it in their job's constraint."""
    overhead_mib: Annotated[int, Meta(ge=0, le=65536)] = 0
    """Memory the VM gets on top of what the job asked for: the guest's own needs."""

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        if fields.get("delivery") == "execute":
            yield Complaint(
                ("delivery",), "expected 'migrate'", "'execute' is not in this version: leave the field out"
            )
        default, largest = fields.get("default"), fields.get("largest")
        if default is not None and largest is not None:
            yield from _larger(default, largest)


class Catalogue(ConfigStruct, frozen=True):
    """Every environment of the site, by name."""

    environments: Annotated[dict[EnvironmentField, Environment], Meta(min_length=1)]


def _larger(default: Shape, largest: Shape) -> Iterator[Complaint]:
    for name in ("cpus", "memory_mib", "disk_mib"):
        if getattr(default, name) > getattr(largest, name):
            limit = getattr(largest, name)
            yield Complaint(
                ("default", name), f"expected at most {limit}", f"that is largest.{name}: change one of them"
            )
