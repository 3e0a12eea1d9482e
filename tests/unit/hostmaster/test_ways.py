"""Which way a request's VM gets ready: the fastest there is; and who gives way."""

from typing import Any

import pytest
from msgspec.structs import replace

from hostmaster.rules.capacity import Grant, admit, in_the_way
from hostmaster.rules.golden import Golden
from hostmaster.rules.spare import Spare, SparePhase
from hostmaster.rules.vm import Way
from protocol.ids import EnvironmentName, Generation, Run, Shape, VmName
from protocol.messages import VmPhase
from tests.unit.hostmaster.records import ROOM, SHAPE, a_golden, a_host, a_request, a_spare, a_vm

P = SparePhase
VM1, VM2 = VmName("vm1"), VmName("vm2")
OTHER = Shape(cpus=2, memory_mib=1024, disk_mib=128)
ELSE = Run(cluster="c", job="99", restart=0)


def granted(spares: tuple[Spare, ...] = (), goldens: tuple[Golden, ...] = (), vms: Any = (), **changes: Any) -> Grant:
    answer = admit(a_request(**changes), a_host(), vms, spares, goldens)
    assert isinstance(answer, Grant), answer
    return answer


def test_a_paused_spare_is_taken_before_a_golden_state_is_restored() -> None:
    found = granted((a_spare(phase=P.PAUSED, vm=VM2),), (a_golden("vm1"),))
    assert found == Grant(VM2, spare=Generation(7))


def test_the_most_advanced_spare_is_taken() -> None:
    spares = (a_spare(phase=P.BOOTING), a_spare(phase=P.PAUSED, vm=VM2, generation=Generation(9)))
    assert granted(spares).spare == 9
    assert granted(spares[:1]).spare == 7


def test_a_golden_state_is_faster_than_a_spare_that_still_boots() -> None:
    booting = a_spare(phase=P.BOOTING)
    assert granted((booting,), (a_golden("vm2"),)) == Grant(VM2, golden=a_golden("vm2"))
    assert granted((replace(booting, way=Way.RESTORE),), (a_golden("vm2"),)).spare == 7


@pytest.mark.parametrize("phase", [P.SAVING, P.DESTROYING])
def test_one_that_is_going_is_not_taken_and_its_slot_is_the_last_resort(phase: SparePhase) -> None:
    assert granted((a_spare(phase=phase),)) == Grant(VM2)
    assert granted((a_spare(phase=phase),), vms=(a_vm(vm=VM2, asked=ELSE),)) == Grant(VM1)


@pytest.mark.parametrize(
    "other",
    [{"shape": OTHER}, {"environment": EnvironmentName("debian13")}, {"image": "b" * 64}],
    ids=["shape", "environment", "image"],
)
def test_a_spare_of_another_kind_is_not_taken(other: dict[str, Any]) -> None:
    assert granted((a_spare(phase=P.PAUSED, **other),)).spare is None


def test_a_slot_with_a_golden_state_comes_before_one_without() -> None:
    assert granted((), (a_golden("vm2"),)) == Grant(VM2, golden=a_golden("vm2"))
    assert granted((), (a_golden("vm1", shape=OTHER),)) == Grant(VM1)


def test_a_golden_state_in_the_slot_of_another_kinds_spare_is_worth_its_eviction() -> None:
    spare = a_spare(phase=P.PAUSED, shape=OTHER)
    assert granted((spare,), (a_golden("vm1"),)) == Grant(VM1, golden=a_golden("vm1"), evict=(Generation(7),))


def test_no_more_spares_give_way_than_need_to_and_the_least_advanced_first() -> None:
    paused = a_spare(phase=P.PAUSED, shape=replace(OTHER, memory_mib=3072))
    assert granted((paused,), shape=replace(SHAPE, memory_mib=1024)).evict == ()
    assert granted((paused,), shape=replace(SHAPE, memory_mib=2048)) == Grant(VM2, evict=(Generation(7),))


def test_a_granted_vm_waits_for_its_slot_and_for_room() -> None:
    vm = a_vm(phase=VmPhase.RESERVED)
    assert not in_the_way(vm, a_host(), (vm,), ())
    assert in_the_way(vm, a_host(), (vm,), (a_spare(phase=P.DESTROYING),))
    elsewhere = a_spare(vm=VM2, phase=P.DESTROYING, shape=replace(SHAPE, memory_mib=ROOM.memory_mib - 512))
    assert not in_the_way(vm, a_host(), (vm,), (elsewhere,))
    larger = replace(elsewhere, shape=replace(SHAPE, memory_mib=ROOM.memory_mib - 511))
    assert in_the_way(vm, a_host(), (vm,), (larger,))
