"""A starter has caught a job: check its claim against the LRMS, make the lease, and wait for the answer.

What the starter says is only a claim: who it is, the kernel says; whose job it is and which run, the LRMS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from bait.follower import Follower, Hook
from bait.hookserver import Answer, HookCall
from bait.lrms.base import JobState, JobView, Lrms, LrmsUnavailable
from bait.rules import match, note
from bait.rules.lease import Lease, Phase
from bait.rules.match import Impossible, Wanted
from protocol.ids import EnvironmentName, LeaseId, Run, Shape
from protocol.messages import Capacity
from wnod.config import Rule
from wnod.logs import Sparing

LOOK_AGAIN_S = 0.1
"""How often it is looked whether the host has said what it has: a bait that has just started does not know yet."""
NOTHING = Shape(cpus=1, memory_mib=64, disk_mib=16)
"""The shape of a lease that never becomes a VM."""


@dataclass
class Interception:
    """Turns a starter's call into a lease, or into a no."""

    clock: IReactorTime
    cluster: str
    bait: str
    lrms: Lrms
    follower: Follower
    rules: Sequence[Rule]
    new_id: Callable[[], str]
    host_wait_s: float = 5.0
    """How long a job is kept for a host that has not said yet what it has; then it goes back to the queue."""
    log: Logger = field(default_factory=lambda: Logger("bait.interception"))

    def __post_init__(self) -> None:
        self._sparing = Sparing(self.clock)

    async def intercepted(self, call: HookCall) -> Answer:
        """Answer one starter; comes back when the job may leave the bait."""
        run = Run(cluster=self.cluster, job=call.job, task=call.task, restart=call.restart)
        try:
            return await self._answer(run, call)
        finally:
            self.follower.forget_sight(run.key)

    async def _answer(self, run: Run, call: HookCall) -> Answer:
        job = await self._claimed(run, call.uid)
        if isinstance(job, Answer):
            if self._sparing.due(call.uid):
                self.log.warn("starter of uid {uid} for {run}: {why}", uid=call.uid, run=str(run), why=job.text)
            return job
        self.follower.supersede(run)
        lease = self.follower.of_run(run)
        if lease is None:
            made = await self._lease(run, job)
            if isinstance(made, Answer):
                return made
            lease = made
        return await self._wait(lease, call)

    async def _claimed(self, run: Run, uid: int) -> JobView | Answer:
        """The job as the LRMS knows it, or why the claim is not believed (attack 2)."""
        try:
            job = (await self.lrms.jobs([run.key])).get(run.key)
        except LrmsUnavailable as error:
            return Answer("hand-back", f"wnod: the batch system does not answer: {error}")
        if job is None or job.owner != uid:
            return Answer("hand-back", "wnod: no such job of this user")
        self.follower.sights.saw(run.key, job)
        if job.run != run or job.state is not JobState.RUNNING or job.node != self.bait:
            has = f"{job.run} {job.word} on {job.node}"
            return Answer("hand-back", f"wnod: the batch system has {has}, not {run} running on {self.bait}")
        if not job.batch:  # another try would not help, so its user is told: the text goes into the job's errors
            return Answer("refuse", "wnod: only batch jobs can run in a VM: use sbatch")
        return job

    async def _lease(self, run: Run, job: JobView) -> Lease | Answer:
        capacity = await self._capacity()
        if capacity is None:
            return Answer("hand-back", "wnod: the hostmaster of this host does not answer")
        offers = {offer.environment: offer for offer in capacity.offers}
        lease = self._record(run, job, match.match(job, self.rules, offers))
        if await self.follower.write(None, lease, kick=False):  # that comes with its hook
            return lease
        known = self.follower.of_run(run)  # another starter of this run was faster
        return known or Answer("hand-back", "wnod: the lease of this run has just ended")

    async def _capacity(self) -> Capacity | None:
        """What the host has, once it has said so; None after host_wait_s."""
        end = self.clock.seconds() + self.host_wait_s
        while self.follower.view.capacity is None and self.clock.seconds() < end:
            await _sleep(self.clock, LOOK_AGAIN_S)
        return self.follower.view.capacity

    def _record(self, run: Run, job: JobView, wanted: Wanted | Impossible) -> Lease:
        now = self.clock.seconds()
        possible = isinstance(wanted, Wanted)
        return Lease(
            lease=LeaseId(self.new_id()),
            run=run,
            owner=job.owner,
            user=job.user,
            environment=wanted.environment if isinstance(wanted, Wanted) else EnvironmentName("none"),
            shape=wanted.shape if isinstance(wanted, Wanted) else NOTHING,
            partition=job.partition,
            requeue=job.requeue and not note.forbids_requeue(job.note),
            required_nodes=job.required_nodes,
            reservation=job.reservation,
            phase=Phase.REQUESTED if possible else Phase.REFUSING,
            text="" if isinstance(wanted, Wanted) else wanted.text,
            since=now,
            stages={"intercepted": now},
        )

    async def _wait(self, lease: Lease, call: HookCall) -> Answer:
        hook = Hook(Deferred())
        self.follower.hooks[lease.lease] = hook
        call.gone.addBoth(lambda _: self._hung_up(lease.lease, hook))
        self.follower.kick(lease.lease)
        return await hook.answer

    def _hung_up(self, lease: LeaseId, hook: Hook) -> None:
        if self.follower.hooks.get(lease) is hook:
            del self.follower.hooks[lease]
            self.follower.kick(lease)
        if not hook.answer.called:
            hook.answer.callback(Answer("hand-back", "the starter is gone"))


def _sleep(clock: IReactorTime, seconds: float) -> "Deferred[None]":
    waiting: Deferred[None] = Deferred()
    clock.callLater(seconds, waiting.callback, None)
    return waiting
