"""What a change of a VM's record means for `wnod explain`: the lines that the journal keeps for the job. Pure."""

from collections.abc import Iterator

from hostmaster.rules import yielding
from hostmaster.rules.vm import Vm


def told(before: Vm | None, vm: Vm) -> Iterator[str]:
    """The lines, in their order."""
    if before is None or before.phase is not vm.phase or before.fenced != vm.fenced:
        fenced = "paused: no contact with the LRMS" if vm.fenced is not None else ""
        yield f"{vm.key} {vm.phase} {vm.text}{fenced}".strip()
    if yielded := yielding.told(before, vm):
        yield f"{vm.key} {yielded}"
    if vm.keep is not None and (before is None or before.keep != vm.keep):
        yield f"{vm.key} is to be kept, says {vm.keep.by}: {vm.keep.why}"
