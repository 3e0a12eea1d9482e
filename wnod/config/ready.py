"""The part of the hostmaster's configuration that makes VMs ready faster: golden states on disk, spares in memory."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from msgspec import Meta

from protocol.ids import EnvironmentField
from wnod.config.mistakes import Complaint
from wnod.config.words import ConfigStruct

Few = Annotated[int, Meta(ge=0, le=4096)]


class SpareLine(ConfigStruct, frozen=True):
    """One kind of spare: a VM for jobs of exactly this environment and shape, made in advance and paused."""

    environment: EnvironmentField
    cpus: Annotated[int, Meta(ge=1, le=4096)]
    memory_mib: Annotated[int, Meta(ge=64, le=2**26)]
    """As jobs ask for it: the environment's overhead comes on top."""
    disk_mib: Annotated[int, Meta(ge=16, le=2**31)]
    keep: Few = 1
    """So many wait, whatever the demand."""
    at_most: Few | None = None
    """So many when jobs come fast. None: never more than `keep`."""

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        keep, at_most = fields.get("keep"), fields.get("at_most")
        if keep is not None and at_most is not None and at_most < keep:
            yield Complaint(("at_most",), f"expected at least keep ({keep})", "or leave it out")


class Ready(ConfigStruct, frozen=True):
    """What is made in advance. Nothing, unless something is said here."""

    golden_disk_mib: Annotated[int, Meta(ge=0, le=2**40)] = 0
    """Disk for golden states; 0: none are made."""
    spares: Annotated[tuple[SpareLine, ...], Meta(max_length=100)] = ()
    """In the order of their importance."""
