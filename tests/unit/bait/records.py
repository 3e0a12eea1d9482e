"""Records for the tests of the bait's deciding parts: one ordinary job and one ordinary lease, and changes to them."""

import dataclasses
from typing import Any

from msgspec.structs import replace

from bait.lrms.base import JobState, JobView
from bait.rules.lease import Facts, Lease, Phase, VmView
from protocol.ids import EnvironmentName, Generation, LeaseId, RequestId, Room, Run, Shape, VmName
from protocol.messages import Capacity, Offer, VmPhase

BAIT = "bait1"
BOOT = "aaaaaaaa-0000-0000-0000-000000000001"
RUN = Run(cluster="c", job="12", restart=0)
TARGET = RUN.next()
SHAPE = Shape(cpus=1, memory_mib=512, disk_mib=128)
DEBIAN = EnvironmentName("debian12")
VM = VmName("vm1")


def lease_id(number: int = 1) -> LeaseId:
    return LeaseId(f"{number:032x}")


def request_id(number: int = 1) -> RequestId:
    return RequestId(f"{number:032x}")


def a_job(**changes: Any) -> JobView:
    """The job as it runs at the bait, its starter waiting."""
    job = JobView(
        run=RUN, owner=1000, user="alice", state=JobState.RUNNING, word="RUNNING", held=False, node=BAIT,
        partition="batch", account="", wishes="", cpus=1, memory_mib=None, disk_mib=None, time_limit_s=None,
        nodes=1, batch=True, requeue=True, required_nodes=(), note="",
    )  # fmt: skip
    return dataclasses.replace(job, **changes)


def parked_job(**changes: Any) -> JobView:
    """The job as it waits, held, for its VM."""
    return a_job(**{"run": TARGET, "state": JobState.PENDING, "held": True, "node": None, **changes})


def a_lease(**changes: Any) -> Lease:
    """A lease as it is when its starter was caught at time 100."""
    lease = Lease(
        lease=lease_id(), run=RUN, owner=1000, user="alice", environment=DEBIAN, shape=SHAPE, partition="batch",
        requeue=True, phase=Phase.REQUESTED, since=100.0, stages={"intercepted": 100.0},
    )  # fmt: skip
    return replace(lease, **changes)


def granted(**changes: Any) -> Lease:
    """A lease that has its VM: its starter is told so."""
    return a_lease(**{"phase": Phase.PARKING, "marked": True, "vm": VM, "generation": Generation(1), **changes})


def a_view(**changes: Any) -> VmView:
    view = VmView(generation=Generation(1), vm=VM, phase=VmPhase.BOOTING, run=TARGET)
    return dataclasses.replace(view, **changes)


def facts(**changes: Any) -> Facts:
    """All is well: the job is at the bait, its starter waits, the host is there and has no VM yet."""
    seen = Facts(
        now=101.0, known=True, job=a_job(), bait=BAIT, hook=True, linked=True, asking=False, host_known=True, vm=None,
        up_for_s=float("inf"),
    )  # fmt: skip
    return dataclasses.replace(seen, **changes)


def an_offer(name: str = DEBIAN, **changes: Any) -> Offer:
    largest = Shape(cpus=8, memory_mib=8192, disk_mib=2048)
    return replace(Offer(environment=EnvironmentName(name), available=True, largest=largest, usual=SHAPE), **changes)


def a_capacity(**changes: Any) -> Capacity:
    """A host that is quite empty."""
    room = Room(cpus=4, memory_mib=4096, disk_mib=1024)
    return replace(
        Capacity(free=room, total=room, free_slots=2, slots=2, serving=True, offers=(an_offer(),)), **changes
    )
