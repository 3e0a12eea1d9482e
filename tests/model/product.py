"""The product's own decisions, asked by the model: its small records become the product's and back.

`now` is 0 (nothing is late) or LATE (everything is); each timer counts from 0.
"""

from functools import cache
from typing import Any

import msgspec

from bait import adoption, rescue
from bait.lrms.base import JobState, JobView
from bait.rules import job as jobs
from bait.rules import record
from bait.rules.lease import Deed as BaitDeed
from bait.rules.lease import Denial, Facts, Phase, VmView
from bait.rules.lease import Lease as BaitLease
from bait.rules.lease import Times as BaitTimes
from hostmaster.rules import capacity, lifecycle, reconcile
from hostmaster.rules.capacity import Grant
from hostmaster.rules.lifecycle import Vm as HostVm
from hostmaster.rules.lifecycle import Way
from hostmaster.world import Domain as SeenDomain
from hostmaster.world import DomainState, Ours
from protocol.guest import MayStart
from protocol.ids import BaitName, BootId, EnvironmentName, Generation, LeaseId, RequestId, Room, Run, Shape, VmName
from protocol.messages import Code, Offer, RequestVm, VmPhase
from tests.model.state import Domain, Job, Lease, View, Vm

LATE = 1e6
SHAPE = Shape(cpus=1, memory_mib=512, disk_mib=128)
DEBIAN = EnvironmentName("debian12")
OWNER = 1000
TIMES = BaitTimes()


def run(restart: int) -> Run:
    return Run(cluster="c", job="1", restart=restart)


def name(host: int, slot: int) -> VmName:
    return VmName(f"h{host}v{slot}")


def bait(host: int) -> str:
    return f"bait{host}"


def lease_id(number: int) -> LeaseId:
    return LeaseId(f"{number:032x}")


def boot(generation: int) -> BootId:
    return BootId(f"{generation:08d}-boot")


# --- the bait ---------------------------------------------------------------------------------------------


def _lease(lease: Lease, host: int) -> BaitLease:
    return BaitLease(
        lease=lease_id(lease.id), run=run(lease.restart), owner=OWNER, user="u", environment=DEBIAN, shape=SHAPE,
        partition="batch", requeue=True, phase=Phase(lease.phase), since=0.0,
        vm=name(host, lease.slot) if lease.slot >= 0 else None,
        generation=Generation(lease.generation) if lease.generation else None, told=lease.told,
        failed_node=lease.failed_node, refused_at=0.0 if lease.refused else None, marked=lease.marked,
        stages={"back": 0.0, **({"ready": 0.0} if lease.ready else {})},
    )  # fmt: skip


def _model(lease: BaitLease) -> Lease:
    return Lease(
        id=int(lease.lease, 16), restart=lease.run.restart, phase=lease.phase.value,
        slot=int(lease.vm.split("v")[1]) if lease.vm else -1, generation=lease.generation or 0, told=lease.told,
        marked=lease.marked, failed_node=lease.failed_node, refused=lease.refused_at is not None,
        ready="ready" in lease.stages,
    )  # fmt: skip


def _job(job: Job) -> JobView:
    running = job.state == "running"
    state = {"pending": JobState.PENDING, "running": JobState.RUNNING, "done": JobState.ENDED}[job.state]
    node = (bait(job.where) if job.slot < 0 else name(job.where, job.slot)) if running else None
    return JobView(
        run=run(job.restart), owner=OWNER, user="u", state=state, word=job.state, held=job.held, node=node,
        partition="batch", account="", wishes="", cpus=1, memory_mib=None, disk_mib=None, time_limit_s=None, nodes=1,
        batch=True, requeue=True, required_nodes=(name(*job.target),) if job.target else (),
        note=f"wnod:lease={lease_id(job.note)}:home=batch:requeue=1:until=1" if job.note else "",
    )  # fmt: skip


@cache
def lease_step(
    host: int, lease: Lease, job: Job | None, hook: bool, linked: bool, heard: bool, view: View | None, node: int,
    late: bool,
) -> tuple[Lease, str]:  # fmt: skip
    """`bait.rules.job.decide`. `job` None: the LRMS cannot be asked. `node`: 0 none, 1 known, 2 ready."""
    last = None
    if view is not None and view.generation:
        last = VmView(
            generation=Generation(view.generation), vm=name(host, view.slot), phase=VmPhase(view.phase or "gone"),
            run=run(lease.restart + 1), bound=view.bound, boot_id=boot(view.generation),
        )  # fmt: skip
    vm = last if view is not None and view.word == "vm" else None
    facts = Facts(
        now=LATE if late else 0.0, known=job is not None, job=_job(job) if job is not None else None, bait=bait(host),
        hook=hook, linked=linked, asking=False, host_known=linked and heard, vm=vm, last=last,
        denied=Denial(Code.SUPERSEDED, "", False, 1.0) if view is not None and view.word == "denied" else None,
        lost="lost" if view is not None and view.word == "lost" else "", node=node > 0, node_ready=node == 2,
        up_for_s=float("inf"),
    )  # fmt: skip
    step = jobs.decide(_lease(lease, host), facts, TIMES)
    return _model(step.lease), step.deed.value if step.deed is not None else ""


@cache
def lease_done(host: int, lease: Lease, deed: str, well: bool) -> Lease:
    """`bait.rules.job.done`, or `refused` if the LRMS refused the deed."""
    after = record.done if well else record.refused
    return _model(after(_lease(lease, host), BaitDeed(deed), 0.0))


@cache
def superseded(host: int, lease: Lease, restart: int) -> Lease:
    """The lease when a starter of that run has come: `bait.rules.job.superseded` and `supersede`."""
    known = _lease(lease, host)
    return _model(record.supersede(known, run(restart), 0.0)) if record.superseded(known, run(restart)) else lease


@cache
def adopted_lease(host: int, vm: Vm, job: Job) -> Lease:
    """`bait.adoption.record`: a bait that lost its journal takes up what its host has."""
    return _model(adoption.record(_vm(vm, host).status(), _job(job), 0.0))


@cache
def left_alone(job: Job) -> bool:
    """`bait.rescue.orphans`, long after the deadline on the note."""
    return bool(rescue.orphans([_job(job)], (), LATE))


# --- the hostmaster ---------------------------------------------------------------------------------------


def _vm(vm: Vm, host: int) -> HostVm:
    return HostVm(
        generation=Generation(vm.generation), vm=name(host, vm.slot), uuid=str(vm.generation), lease=lease_id(vm.lease),
        bait=BaitName(bait(host)), owner=OWNER, environment=DEBIAN, image="a" * 64, shape=SHAPE, asked=run(vm.asked),
        bound=run(vm.bound) if vm.bound >= 0 else None, phase=VmPhase(vm.phase),
        boot_id=boot(vm.generation) if vm.booted else None, tries=vm.tries, granted_at=0.0,
        since=1.0 if vm.found else 0.0, released=vm.released, fenced=0.0 if vm.fenced else None,
        way=Way.UNPAUSE if vm.spare else Way.BOOT, labelled=vm.labelled,
    )  # fmt: skip


def _model_vm(vm: HostVm) -> Vm:
    return Vm(
        generation=vm.generation, slot=int(vm.vm.split("v")[1]), lease=int(vm.lease, 16), asked=vm.asked.restart,
        bound=vm.bound.restart if vm.bound is not None else -1, phase=vm.phase.value, booted=vm.boot_id is not None,
        tries=vm.tries, released=vm.released, fenced=vm.fenced is not None,
        found=vm.fenced is not None and vm.since > vm.fenced, spare=vm.way is Way.UNPAUSE, labelled=vm.labelled,
    )  # fmt: skip


@cache
def vm_step(
    vm: Vm, domain: Domain | None, unknown: bool, expired: bool, late: bool, silent: bool, long: bool, word: bool
) -> tuple[Vm, str]:
    """`rules.lifecycle.decide`. `silent`: no contact with the LRMS since 0; else `long` says how long it was."""
    state = DomainState.ABSENT
    if domain is not None:
        state = DomainState.PAUSED if domain.paused else DomainState.RUNNING
    now = 1000.0 if long else 100.0
    fence = vm.phase == "started" and (silent or vm.fenced)
    facts = lifecycle.Facts(
        now=now if fence else LATE if late else 0.0, domain=None if unknown else state, overlay=False,
        ready=boot(vm.generation) if domain is not None and domain.ready else None,
        expires_at=0.0 if expired else float("inf"), contact=0.0 if silent else now if fence else float("inf"),
        word=now if word else float("-inf"), labelled=domain is not None and domain.lease == vm.lease,
    )  # fmt: skip
    step = lifecycle.decide(_vm(vm, 0), facts, lifecycle.Times())
    return _model_vm(step.vm), step.deed.value if step.deed is not None else ""


@cache
def admitted(vms: tuple[Vm, ...], lease: int, restart: int, slots: int) -> tuple[tuple[Vm, ...], int]:
    """`capacity.superseded` and `admit`: the records after a RequestVm, and the slot it gets (-1: denied)."""
    offer = Offer(environment=DEBIAN, available=True, largest=SHAPE, usual=SHAPE)
    room = Room(cpus=slots, memory_mib=512 * slots, disk_mib=128 * slots)
    names = tuple(name(0, slot) for slot in range(slots))
    host = capacity.Host(room, names, {DEBIAN: offer}, {}, {DEBIAN: "a" * 64}, {})
    ask = RequestVm(
        id=RequestId("0" * 32), lease=lease_id(lease), run=run(restart), owner=OWNER, environment=DEBIAN, shape=SHAPE
    )
    records = {vm.generation: _vm(vm, 0) for vm in vms}
    for old in capacity.superseded(ask, tuple(records.values())):
        records[old.generation] = lifecycle.ending(old, Code.SUPERSEDED, "", 0.0)
    answer = capacity.admit(ask, host, records.values())
    slot = int(answer.slot.split("v")[1]) if isinstance(answer, Grant) else -1
    return tuple(_model_vm(vm) for vm in records.values()), slot


@cache
def bound(vm: Vm, generation: int, restart: int) -> Vm | None:
    """`lifecycle.bind`; None: refused."""
    answer = lifecycle.bind(_vm(vm, 0), Generation(generation), run(restart), 0.0)
    return _model_vm(answer) if isinstance(answer, HostVm) else None


@cache
def may_start(vm: Vm, restart: int) -> tuple[Vm, bool]:
    """`lifecycle.may_start`: the gate."""
    ask = MayStart(boot(vm.generation), 1, "1", None, restart, OWNER)
    verdict = lifecycle.may_start(_vm(vm, 0), ask, 0.0)
    return _model_vm(verdict.vm), verdict.allowed


@cache
def released(vm: Vm) -> Vm:
    """`lifecycle.release`."""
    return _model_vm(lifecycle.release(_vm(vm, 0), 0.0))


@cache
def adopted_vms(domains: tuple[Domain, ...], known: tuple[int, ...]) -> tuple[Vm, ...]:
    """`reconcile.adoptable`: a host that lost its journal takes up what libvirt has."""
    seen = []
    for domain in domains:
        state = DomainState.PAUSED if domain.paused else DomainState.RUNNING
        ours = Ours(
            host="h", slot=name(0, domain.slot), generation=Generation(domain.generation),
            lease=lease_id(domain.lease) if domain.lease >= 0 else LeaseId(""), bait=bait(0), owner=OWNER,
            environment=DEBIAN, image="a" * 64, shape=SHAPE,
            run=msgspec.json.encode(run(domain.asked)).decode(),
        )  # fmt: skip
        seen.append(SeenDomain(ours.slot, str(domain.generation), state, ours))
    there: Any = dict.fromkeys(known)
    return tuple(_model_vm(vm) for vm in reconcile.adoptable(seen, there, "h", 0.0))
