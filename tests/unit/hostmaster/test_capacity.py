"""Who gets a slot, who does not and why; what is charged until a VM is seen gone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hostmaster.rules.capacity import Grant, Host, Refusal, admit, charged, free, free_slots, largest, superseded
from hostmaster.rules.lifecycle import Vm
from protocol.ids import EnvironmentName, Generation, Room, Run, Shape, VmName
from protocol.messages import Code, VmPhase
from tests.unit.hostmaster.records import DEBIAN, ROOM, RUN, SHAPE, a_host, a_request, a_vm, an_offer, lease_id

ELSE = Run(cluster="c", job="99", restart=0)
BIG = Shape(cpus=4, memory_mib=4096, disk_mib=1024)


def refused(**changes: Any) -> Refusal:
    vms = changes.pop("vms", ())
    host = changes.pop("host", a_host())
    answer = admit(a_request(**changes), host, vms)
    assert isinstance(answer, Refusal), answer
    return answer


def test_an_empty_host_gives_its_first_slot() -> None:
    assert admit(a_request(), a_host(), ()) == Grant(VmName("vm1"))


def test_a_slot_is_taken_as_long_as_there_is_a_record_of_it() -> None:
    gone = a_vm(asked=ELSE, phase=VmPhase.GONE)
    assert admit(a_request(), a_host(), (gone,)) == Grant(VmName("vm2"))
    assert free_slots(a_host(), (gone,)) == ("vm2",)
    assert refused(vms=(gone, a_vm(vm=VmName("vm2"), asked=ELSE))).text == "all 2 slots are taken"


@pytest.mark.parametrize("phase", sorted(set(VmPhase) - {VmPhase.GONE}))
def test_a_vm_is_charged_until_it_is_seen_gone(phase: VmPhase) -> None:
    assert free(a_host(), (a_vm(phase=phase),)) == Room(cpus=3, memory_mib=3584, disk_mib=896)
    assert free(a_host(), (a_vm(phase=VmPhase.GONE),)) == ROOM


def test_a_request_that_does_not_fit_now_may_fit_later() -> None:
    refusal = refused(shape=BIG, vms=(a_vm(asked=ELSE),))
    assert (refusal.code, refusal.permanent) == (Code.NO_ROOM, False)
    assert refusal.text == "wanted 4 cpus, 4096 MiB memory, 1024 MiB disk, free 3 cpus, 3584 MiB memory, 896 MiB disk"


@pytest.mark.parametrize("field", ["cpus", "memory_mib", "disk_mib"])
def test_a_request_larger_than_the_host_never_fits(field: str) -> None:
    refusal = refused(shape=replace(BIG, **{field: getattr(BIG, field) + 1}))
    assert (refusal.code, refusal.permanent) == (Code.TOO_BIG, True)


def test_a_request_larger_than_its_environment_allows_never_fits() -> None:
    host = a_host(offers={DEBIAN: an_offer(largest=SHAPE)})
    assert refused(host=host, shape=replace(SHAPE, cpus=2)).code is Code.TOO_BIG


def test_an_unknown_environment_is_named_with_those_there_are() -> None:
    refusal = refused(environment=EnvironmentName("windows"))
    assert (refusal.code, refusal.permanent) == (Code.NO_SUCH_ENVIRONMENT, True)
    assert refusal.text == "environment 'windows' is not known here; known: debian12"


def test_an_environment_whose_image_is_refused_may_be_repaired() -> None:
    refusal = refused(host=a_host(refusals={DEBIAN: "its root was altered"}))
    assert (refusal.code, refusal.text, refusal.permanent) == (Code.ENVIRONMENT_REFUSED, "its root was altered", False)


def test_a_job_gets_no_second_vm_before_its_first_is_gone() -> None:
    refusal = refused(run=RUN.next(), vms=(a_vm(phase=VmPhase.DESTROYING),))
    assert (refusal.code, refusal.permanent) == (Code.SUPERSEDED, False)
    task = replace(RUN, task=1)
    assert isinstance(admit(a_request(run=task), a_host(), (a_vm(asked=replace(RUN, task=2)),)), Grant)


def test_the_environments_own_memory_comes_on_top() -> None:
    host = a_host(overheads={DEBIAN: 256})
    assert charged(host, DEBIAN, SHAPE).memory_mib == 768
    limit = largest(host, host.offers[DEBIAN])
    assert limit is not None
    assert limit.memory_mib == 4096 - 256
    assert refused(host=host, shape=replace(SHAPE, memory_mib=3841)).code is Code.TOO_BIG
    assert isinstance(admit(a_request(shape=limit), host, ()), Grant)


def test_a_host_too_small_for_any_job_says_so() -> None:
    host = a_host(total=Room(cpus=0, memory_mib=4096, disk_mib=1024))
    assert largest(host, host.offers[DEBIAN]) is None
    assert "at most nothing" in refused(host=host).text


@pytest.mark.parametrize(
    ("vm", "goes"),
    [
        (a_vm(), True),
        (a_vm(phase=VmPhase.BOUND), True),
        (a_vm(phase=VmPhase.STARTED), False),
        (a_vm(asked=RUN.next()), False),
        (a_vm(asked=ELSE), False),
        (a_vm(lease=lease_id(9)), False),
    ],
)
def test_only_older_runs_that_never_started_are_superseded(vm: Vm, goes: bool) -> None:
    assert superseded(a_request(run=RUN.next()), (vm,)) == ((vm,) if goes else ())


SHAPES = st.builds(Shape, cpus=st.integers(1, 5), memory_mib=st.integers(64, 5000), disk_mib=st.integers(16, 1200))


@given(st.lists(st.tuples(SHAPES, st.booleans()), max_size=12), st.integers(0, 300))
def test_what_is_granted_never_adds_up_to_more_than_there_is(asks: list[tuple[Shape, bool]], overhead: int) -> None:
    host = a_host(slots=tuple(VmName(f"vm{n}") for n in range(4)), overheads={DEBIAN: overhead})
    vms: list[Vm] = []
    for number, (shape, one_ends) in enumerate(asks, 1):
        run = Run(cluster="c", job=str(number), restart=0)
        answer = admit(a_request(number, run=run, shape=shape), host, vms)
        if isinstance(answer, Grant):
            mine = charged(host, DEBIAN, shape)
            vms.append(a_vm(generation=Generation(number), vm=answer.slot, shape=mine, asked=run))
        if one_ends and vms:
            del vms[0]
        assert len({vm.vm for vm in vms}) == len(vms)
        _assert_fits(host, vms)


def _assert_fits(host: Host, vms: list[Vm]) -> None:
    for field in ("cpus", "memory_mib", "disk_mib"):
        assert sum(getattr(vm.shape, field) for vm in vms) <= getattr(host.total, field)
