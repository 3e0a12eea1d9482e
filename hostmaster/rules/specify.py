"""From a VM's record to its domain: where the configuration, the image and the record come together. Pure."""

from dataclasses import dataclass

from hostmaster.rules.spare import Spare
from hostmaster.rules.vm import Vm, run_json
from hostmaster.world import Accelerator, Artifacts, DomainRefused, DomainSpec, ImageRefused, Ours
from protocol.ids import LeaseId
from wnod.config import HostmasterConfig, Slot


@dataclass(frozen=True, slots=True)
class Site:
    """What all domains of this host share."""

    config: HostmasterConfig
    accelerator: Accelerator


def slot_of(config: HostmasterConfig, vm: Vm | Spare) -> Slot:
    """The identity the VM has. DomainRefused if the configuration no longer has that slot."""
    for slot in config.slots:
        if slot.name == vm.vm:
            return slot
    raise DomainRefused(f"slot {vm.vm!r} is not in the configuration any more")


def specify(site: Site, vm: Vm | Spare, artifacts: Artifacts, overlay: str, channel: str) -> DomainSpec:
    """All that the domain of this VM is made of. ImageRefused if its environment has got another image since."""
    config = site.config
    if artifacts.image != vm.image:
        raise ImageRefused(
            f"environment {vm.environment!r} has another image now ({artifacts.image[:12]}) than when this VM was "
            f"granted ({vm.image[:12]}): submit again"
        )
    slot = slot_of(config, vm)
    return DomainSpec(
        ours=facts_of(config.host, vm),
        uuid=vm.uuid,
        mac=slot.mac,
        bridge=config.hypervisor.bridge,
        accelerator=site.accelerator,
        kernel=artifacts.kernel,
        initrd=artifacts.initrd,
        root=artifacts.root,
        overlay=overlay,
        console=console_path(config, vm),
        channel=channel,
        emulator=config.hypervisor.emulator,
        network_filter=config.hypervisor.network_filter,
        address=slot.address.split("/")[0],
    )


def console_path(config: HostmasterConfig, vm: Vm | Spare) -> str:
    """Where the VM's console log is kept."""
    return f"{config.state}/console/{vm.key}.log"


def facts_of(host: str, vm: Vm | Spare) -> Ours:
    """What the domain's metadata say of this VM."""
    lease, bait, owner, run = LeaseId(""), "", 0, ""
    if isinstance(vm, Vm):
        lease, bait, owner, run = vm.lease, str(vm.bait), vm.owner, run_json(vm)
    return Ours(
        host=host,
        slot=vm.vm,
        generation=vm.generation,
        lease=lease,
        bait=bait,
        owner=owner,
        environment=vm.environment,
        image=vm.image,
        shape=vm.shape,
        run=run,
    )
