"""Leases that the host knows and this bait does not: its journal was lost (R8). They are taken up again or let go."""

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from bait.follower import Follower
from bait.lrms.base import Home, JobState, JobView
from bait.rules import note
from bait.rules.lease import Lease, Phase
from bait.sights import ABSENT_S
from protocol.messages import VmStatus

_log = Logger("bait.adoption")


def adopt(follower: Follower, vm: VmStatus) -> None:
    """Make a record for the lease; the follower then does for it what it does for any other."""
    adopting = Deferred.fromCoroutine(_adopt(follower, vm))
    adopting.addErrback(lambda failure: _log.failure("cannot adopt lease {lease}", failure, lease=vm.lease))


async def _adopt(follower: Follower, vm: VmStatus) -> None:
    known, job = await follower.sights.look(vm.run, at_the_bait=False)
    if not known:  # once more: what the LRMS does not name twice it does not have, and the VM is released (R13)
        await deferLater(follower.clock, ABSENT_S)
        known, job = await follower.sights.look(vm.run, at_the_bait=False)
    if known and vm.lease not in follower.leases:
        lease = record(vm, job, follower.clock.seconds())
        _log.warn("adopted lease {lease} of {run} as {phase}", lease=vm.lease, run=str(vm.run), phase=lease.phase)
        follower.put(lease)


def record(vm: VmStatus, job: JobView | None, now: float) -> Lease:
    """A record for a VM that the host has and no journal explains. Pure."""
    home = _home(vm, job)
    caught = vm.run.restart - 1
    return Lease(
        lease=vm.lease,
        run=type(vm.run)(cluster=vm.run.cluster, job=vm.run.job, task=vm.run.task, restart=max(0, caught)),
        owner=vm.owner,
        user=job.user if job is not None else "",
        environment=vm.environment,
        shape=vm.shape,
        partition=home.partition,
        requeue=home.requeue,
        required_nodes=home.required_nodes,
        reservation=home.reservation,
        phase=_phase(vm, job),
        since=now,
        vm=vm.vm,
        generation=vm.generation,
        text="adopted from the host: this bait's journal did not know it",
        stages={"intercepted": now},
    )


def _phase(vm: VmStatus, job: JobView | None) -> Phase:
    if job is None or job.state is JobState.ENDED:
        return Phase.ENDED
    waits = job.state in (JobState.PENDING, JobState.LEAVING)  # one that leaves may be requeued
    if waits and job.run != vm.run and vm.vm in job.required_nodes:
        # Nobody took the VM off it again (R11). A run in it that is over is judged as that of a bait that was away.
        return Phase.RELEASED if job.run.restart > vm.run.restart else Phase.RETURNING
    if job.run != vm.run:
        return Phase.ENDED
    if job.state is JobState.PENDING and job.held:
        return Phase.PARKED
    return Phase.RELEASED


def _home(vm: VmStatus, job: JobView | None) -> Home:
    """From our own note if the job carries one."""
    if job is None:
        return Home("", True)
    ours = note.read(job.note)
    if ours is not None:
        return ours.home
    return Home(job.partition, job.requeue, () if vm.vm in job.required_nodes else job.required_nodes)
