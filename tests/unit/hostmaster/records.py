"""Records for the tests of the hostmaster's deciding parts: one ordinary VM, one ordinary host, and changes to them."""

from typing import Any

from msgspec.structs import replace

from hostmaster.rules.capacity import Host
from hostmaster.rules.golden import Golden, name_of
from hostmaster.rules.lifecycle import Vm, Way
from hostmaster.rules.spare import Purpose, Spare
from hostmaster.world import Domain, DomainState, Ours
from protocol.ids import BaitName, EnvironmentName, Generation, LeaseId, RequestId, Room, Run, Shape, VmName
from protocol.messages import Offer, RequestVm

UUID = "11111111-2222-3333-4444-555555555555"
BOOT = "aaaaaaaa-0000-0000-0000-000000000001"
OTHER_BOOT = "aaaaaaaa-0000-0000-0000-000000000002"
RUN = Run(cluster="c", job="12", restart=0)
SHAPE = Shape(cpus=1, memory_mib=512, disk_mib=128)
ROOM = Room(cpus=4, memory_mib=4096, disk_mib=1024)
DEBIAN = EnvironmentName("debian12")


def lease_id(number: int = 1) -> LeaseId:
    return LeaseId(f"{number:032x}")


def a_vm(**changes: Any) -> Vm:
    """A VM as it is when granted at time 100."""
    vm = Vm(
        generation=Generation(1),
        vm=VmName("vm1"),
        uuid=UUID,
        lease=lease_id(),
        bait=BaitName("bait1"),
        owner=1000,
        environment=DEBIAN,
        image="a" * 64,
        shape=SHAPE,
        asked=RUN,
        granted_at=100.0,
        since=100.0,
    )
    return replace(vm, **changes)


def an_offer(name: str = DEBIAN, **changes: Any) -> Offer:
    largest = Shape(cpus=8, memory_mib=8192, disk_mib=2048)
    return replace(Offer(environment=EnvironmentName(name), available=True, largest=largest, usual=SHAPE), **changes)


def a_host(**changes: Any) -> Host:
    fields: dict[str, Any] = {
        "total": ROOM,
        "slots": (VmName("vm1"), VmName("vm2")),
        "offers": {DEBIAN: an_offer()},
        "refusals": {},
        "images": {DEBIAN: "a" * 64},
        "overheads": {},
    }
    return Host(**{**fields, **changes})


def a_request(number: int = 9, **changes: Any) -> RequestVm:
    ask = RequestVm(
        id=RequestId(f"{number:032x}"), lease=lease_id(number), run=RUN, owner=1000, environment=DEBIAN, shape=SHAPE
    )
    return replace(ask, **changes)


def a_domain(vm: Vm, state: DomainState = DomainState.RUNNING, host: str = "h1", run: str = "") -> Domain:
    """The domain of that VM, as libvirt shows it."""
    ours = Ours(
        host=host, slot=vm.vm, generation=vm.generation, lease=vm.lease, bait=vm.bait, owner=vm.owner,
        environment=vm.environment, image=vm.image, shape=vm.shape, run=run,
    )  # fmt: skip
    return Domain(vm.vm, vm.uuid, state, ours)


def a_spare(**changes: Any) -> Spare:
    """A spare as it is when it is begun at time 100, to boot for the pool."""
    spare = Spare(
        generation=Generation(7), vm=VmName("vm1"), uuid=UUID, environment=DEBIAN, image="a" * 64, shape=SHAPE,
        purpose=Purpose.POOL, way=Way.BOOT, golden="vm1-000000000000", made_at=100.0, since=100.0,
    )  # fmt: skip
    return replace(spare, **changes)


def a_golden(slot: str = "vm1", **changes: Any) -> Golden:
    """A golden state of a slot, named as the tests name it today (`names`)."""
    golden = Golden(
        name=name_of(VmName(slot), DEBIAN, str(SHAPE)), vm=VmName(slot), uuid=f"{slot}-uuid", environment=DEBIAN,
        image="a" * 64, shape=SHAPE, mib=100, made_at=50.0,
    )  # fmt: skip
    return replace(golden, **changes)
