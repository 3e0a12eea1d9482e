"""The batch system of a large site: the faithful fake with indexes, and each bait's own unreliable way to it."""

import contextlib
import random
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bait.lrms.base import Home, JobState, JobView, LrmsRefused, LrmsUnavailable, NodeView
from protocol.ids import Run, Shape
from tests.fakes.lrms import FakeJob, FakeLrms, FakeNode
from tests.simulation.clock import Life, World, at_once

T = TypeVar("T")

ANSWER_LIMIT_S = 10.0
"""How long a bait waits for the LRMS (bait.yaml's lrms.timeout_s)."""
MEMORY_S = 5.0
"""How much a controller loses that dies between two saves of its state."""


class _Nodes(Mapping[str, NodeView]):
    """The nodes' table; only who is looked up is described, for a bait looks up one of thousands."""

    def __init__(self, nodes: dict[str, FakeNode], view: Callable[[FakeNode], NodeView]) -> None:
        self._nodes = nodes
        self._view = view

    def __getitem__(self, name: str) -> NodeView:
        return self._view(self._nodes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


class Controller(FakeLrms):
    """FakeLrms for thousands of jobs: the same behaviour, found by indexes instead of by scanning."""

    def __init__(self, world: World, trace: Callable[[str, str], None]) -> None:
        super().__init__(world, cluster="sim")  # type: ignore[arg-type]
        self.trace = trace
        self._on: dict[str, dict[str, FakeJob]] = {}
        self._queue: dict[str, FakeJob] = {}
        self._home: dict[str, None] = {}
        self._registered: dict[str, None] = {}
        self.requeued: Callable[[FakeJob, str], None] = lambda job, why: None
        self.left: Callable[[FakeJob], None] = lambda job: None
        """The job leaves its node: whatever still runs of it there is killed."""
        self.unreachable: Callable[[FakeJob], bool] = lambda job: False
        """The node's daemon cannot be asked whether anything of the job is left."""
        self._leaving: dict[str, Callable[[FakeJob], None]] = {}
        self.outcome: dict[str, str] = {}
        """How each job ended."""

    # --- indexes ---

    def add_node(self, name: str, *, vm: bool = False, cpus: int = 4, features: Iterable[str] = ()) -> FakeNode:
        node = super().add_node(name, vm=vm, cpus=cpus, features=features)
        (self._registered if vm else self._home)[name] = None
        return node

    def submit(self, *, tasks: Iterable[int] = (), owner: int = 1000, user: str = "alice", **wishes: object) -> str:
        tasks = tuple(tasks)
        number = super().submit(tasks=tasks, owner=owner, user=user, **wishes)
        for task in tasks or (None,):
            job = self.all_jobs[number if task is None else f"{number}_{task}"]
            self._queue[job.id] = job
            self.trace(job.id, "submitted")
        return number

    def tick(self) -> None:
        now = self.clock.seconds()
        queue = [job for job in self._queue.values() if not job.held_by and job.eligible_at <= now]
        if not queue:
            return
        free = {name: self._free(self.all_nodes[name]) for name in self._home if name in self.all_nodes}
        free = {name: cpus for name, cpus in free.items() if cpus > 0}
        for job in queue:
            node = self._place_in(job, free)
            if node is not None:
                if node.name in free:
                    free[node.name] -= job.cpus
                    if not free[node.name]:
                        del free[node.name]
                self._start(job, node)

    def _free(self, node: FakeNode) -> int:
        if not node.up or node.closed is not None:
            return 0
        return node.cpus - sum(job.cpus for job in self._on.get(node.name, {}).values())

    def _place_in(self, job: FakeJob, free: dict[str, int]) -> FakeNode | None:
        names = job.required_nodes or (free if job.partition == self.home else ())
        wishes = frozenset(job.wishes.split("&")) - {""}
        for name in names:
            node = self.all_nodes.get(name)
            if node is None or node.partition not in job.partition.split(",") or not wishes <= node.features:
                continue
            room = free[name] if name in free else self._free(node)
            if room >= job.cpus:
                return node
        return None

    def _jobs_on(self, node: str) -> list[FakeJob]:
        return list(self._on.get(node, {}).values())

    def _start(self, job: FakeJob, node: FakeNode) -> None:
        self._queue.pop(job.id, None)
        self._on.setdefault(node.name, {})[job.id] = job
        self.trace(job.id, f"run {job.run.restart} starts on {node.name}")
        super()._start(job, node)

    def _leave(self, job: FakeJob, then: Callable[[FakeJob], None]) -> None:
        """As Slurm does: a job stays COMPLETING until its node has said that nothing of it is left, or is down."""
        self.left(job)
        job.state, job.word = JobState.LEAVING, "COMPLETING"
        self._leaving[job.id] = then
        self._settles(job, then)

    def _settles(self, job: FakeJob, then: Callable[[FakeJob], None]) -> None:
        run = job.run

        def settled() -> None:
            if job.state is not JobState.LEAVING or job.run != run or self.all_jobs.get(job.id) is not job:
                return
            if self.unreachable(job):
                self.clock.callLater(1.0, settled)
            else:
                then(job)

        self.clock.callLater(self.settle_s, settled)

    def _off(self, job: FakeJob) -> None:
        for jobs in self._on.values() if job.node is None else (self._on.get(job.node, {}),):
            jobs.pop(job.id, None)

    def _requeue(self, job: FakeJob, held_by: str) -> None:
        if self.all_jobs.get(job.id) is not job:
            return  # of a state that the controller has forgotten
        self._off(job)
        super()._requeue(job, held_by)
        self._queue[job.id] = job
        self.trace(job.id, f"requeued as run {job.run.restart}" + (f", held by {held_by}" if held_by else ""))

    def _end(self, job: FakeJob, word: str) -> None:
        if self.all_jobs.get(job.id) is not job:
            return
        self._off(job)
        self._queue.pop(job.id, None)
        job.state, job.word, job.held_by = JobState.ENDED, word, ""
        job.exit_code = job.exit_code or 0
        self.clock.callLater(self.forget_s, self._forget, job)
        self.outcome[job.id] = word
        self.trace(job.id, f"ended: {word}")

    def _forget(self, job: FakeJob) -> None:
        if self.all_jobs.get(job.id) is job:
            del self.all_jobs[job.id]

    def _set_word(self, job: FakeJob, word: str, held_by: str) -> None:
        if job.state is JobState.PENDING and job.held_by != held_by:
            self.trace(job.id, f"held by {held_by}" if held_by else "released")
        super()._set_word(job, word, held_by)

    def _untarget(self, job: FakeJob, home: Home, note: str, delay_s: int) -> None:
        super()._untarget(job, home, note, delay_s)
        self.trace(job.id, f"back in {home.partition}: {note}")

    def node_fails(self, name: str) -> None:
        self.all_nodes[name].up = False
        self.trace("", f"node {name} is down")
        for job in self._jobs_on(name):
            self.requeued(job, "its node failed")
            self.left(job)
            if job.state is JobState.LEAVING:
                self._leaving[job.id](job)
            elif job.requeue:
                self._requeue(job, "")
            else:
                self._end(job, "NODE_FAIL")

    def requeue(self, job: FakeJob) -> None:
        """A user's or administrator's `scontrol requeue`."""
        if job.state is JobState.RUNNING:
            self.requeued(job, "its user requeued it")
            self._leave(job, lambda gone: self._requeue(gone, ""))

    async def waiting(self) -> Mapping[str, JobView]:
        # What most jobs are not is asked in line: every bait asks, and each time of the whole queue.
        vm, queue = self.vm_partition, self._queue.values()
        near = (job for job in queue if job.required_nodes or job.word != "PENDING" or job.partition == vm)
        return {job.id: job.view() for job in near if self._may_be_ours(job)}

    async def dead_nodes(self) -> tuple[str, ...]:
        down = (self.all_nodes[name] for name in self._registered if name in self.all_nodes)
        return tuple(node.name for node in down if not node.up)

    async def nodes(self) -> Mapping[str, NodeView]:
        return _Nodes(self.all_nodes, self._node_view)

    # --- amnesia ---

    def save(self) -> Any:
        """The state as a controller saves it: jobs and nodes."""
        return self._copied((self.all_jobs, self.all_nodes, self.outcome, self._leaving))

    @staticmethod
    def _copied(saved: Any) -> Any:
        jobs, nodes, outcome, leaving = saved
        copies = {key: replace(job, starts=list(job.starts)) for key, job in jobs.items()}
        return copies, {name: replace(node) for name, node in nodes.items()}, dict(outcome), dict(leaving)

    def go_back(self, saved: Any) -> None:
        """The controller starts from an older state: jobs submitted since are unknown (no number is given twice)."""
        known = set(self.all_jobs) | set(self.outcome)
        self.all_jobs, self.all_nodes, self.outcome, self._leaving = self._copied(saved)
        for job_id in known - set(self.all_jobs) - set(self.outcome):
            self.outcome[job_id] = "FORGOTTEN"
        self.up_since = self.clock.seconds()
        self._queue = {job.id: job for job in self.all_jobs.values() if job.state is JobState.PENDING}
        self._on = {}
        for job in self.all_jobs.values():
            if job.state is JobState.ENDED:
                self.clock.callLater(self.forget_s, self._forget, job)
            elif job.state is not JobState.PENDING and job.node is not None:
                self._on.setdefault(job.node, {})[job.id] = job
                if job.state is JobState.LEAVING:  # that its run is over, and what then, Slurm has saved with it
                    self._settles(job, self._leaving[job.id])


@dataclass(slots=True)
class _Question:
    """What those ask together who ask for jobs in the same moment: as Slurm's adapter, one `squeue` for all."""

    at: float
    ids: list[str] = field(default_factory=list)
    waiting: list[Deferred[Mapping[str, JobView]]] = field(default_factory=list)


class Way:
    """One bait's way to the controller: Lrms, with the delays and errors that this bait meets."""

    def __init__(
        self, controller: Controller, life: Life, rng: random.Random, trouble: "Trouble",
        touches: Callable[[str, str, float], None],
    ) -> None:  # fmt: skip
        self._controller = controller
        self._life = life
        self._rng = rng
        self._trouble = trouble
        self._touches = touches
        self._question: _Question | None = None
        self.cluster = controller.cluster

    def _call(self, call: Callable[[], Coroutine[Any, Any, T]], *, change: bool) -> "Deferred[T]":
        """The question takes a while to get there, and its answer to come back."""
        life, trouble = self._life, self._trouble
        life.point("before-lrms")
        delay = 0.002 + 0.02 * self._rng.random()
        if trouble.hang_until > life.world.now:
            delay = min(ANSWER_LIMIT_S, trouble.hang_until - life.world.now + delay)
        answer: Deferred[T] = Deferred()
        life.callLater(delay, self._arrive, call, change, delay >= ANSWER_LIMIT_S, answer)
        return answer

    def _arrive(
        self, call: Callable[[], Coroutine[Any, Any, T]], change: bool, late: bool, answer: "Deferred[T]"
    ) -> None:
        trouble = self._trouble
        if trouble.away or trouble.cut or late:
            if change and trouble.late and not (trouble.away or trouble.cut):
                with contextlib.suppress(LrmsRefused):
                    at_once(call())
            answer.errback(LrmsUnavailable("the batch system does not answer"))
            return
        try:
            result: Any = at_once(call())
        except (LrmsRefused, LrmsUnavailable) as error:
            result = Failure(error)  # type: ignore[no-untyped-call]
        if not change:
            answer.callback(result)  # a deed that follows takes its time to get there: by then this is old
            return
        self._life.callLater(0.001, self._return, result, change, answer)

    def _return(self, result: Any, change: bool, answer: "Deferred[Any]") -> None:
        if change and not isinstance(result, Failure):
            self._life.point("after-lrms")
            if self._trouble.lose_replies > 0:
                self._trouble.lose_replies -= 1
                result = Failure(LrmsUnavailable("the batch system's reply was lost"))  # type: ignore[no-untyped-call]
        answer.callback(result)

    async def _change(self, verb: str, job: str, call: Callable[[], Coroutine[Any, Any, None]], more: str = "") -> None:
        self._touches(verb, job or more, self._life.seconds())
        what = f"{verb} {more}".rstrip()
        try:
            await self._call(call, change=True)
        except LrmsRefused as error:
            self._controller.trace(job, f"{self._life.name}: {what} refused: {error}")
            raise
        except LrmsUnavailable:
            self._controller.trace(job, f"{self._life.name}: {what}: no answer")
            raise
        self._controller.trace(job, f"{self._life.name}: {what}")

    # --- Lrms ---

    async def jobs(self, ids: Collection[str]) -> Mapping[str, JobView]:
        question = self._question
        if question is None or question.at != self._life.world.now:
            question = self._question = _Question(self._life.world.now)
            self._call(partial(self._controller.jobs, question.ids), change=False).addBoth(self._tell, question)
        question.ids.extend(ids)
        waiter: Deferred[Mapping[str, JobView]] = Deferred()
        question.waiting.append(waiter)
        return await waiter

    def _tell(self, answer: Any, question: "_Question") -> None:
        if self._question is question:  # a clock that jumps ahead is answered at once: who asks now comes too late
            self._question = None
        if not isinstance(answer, Failure):
            answer = self._trouble.jobs(self._life.world.now, question.ids, answer)
        for waiter in question.waiting:
            waiter.callback(answer)

    async def nodes(self) -> Mapping[str, NodeView]:
        return await self._call(self._controller.nodes, change=False)

    async def up_for_s(self) -> float:
        return await self._call(self._controller.up_for_s, change=False)

    async def waiting(self) -> Mapping[str, JobView]:
        return await self._call(self._controller.waiting, change=False)

    async def dead_nodes(self) -> tuple[str, ...]:
        return await self._call(self._controller.dead_nodes, change=False)

    async def make_requeueable(self, run: Run, note: str) -> None:
        await self._change("make requeueable", run.key, lambda: self._controller.make_requeueable(run, note))

    async def send(self, run: Run, node: str, shape: Shape, note: str) -> None:
        await self._change("send", run.key, lambda: self._controller.send(run, node, shape, note), f"to {node}")

    async def forbid_requeue(self, run: Run) -> None:
        await self._change("forbid requeue", run.key, lambda: self._controller.forbid_requeue(run))

    async def give_back(self, run: Run, home: Home, note: str, delay_s: int = 0) -> None:
        await self._change("give back", run.key, lambda: self._controller.give_back(run, home, note, delay_s))

    async def refuse(self, run: Run, home: Home, text: str) -> None:
        await self._change("refuse", run.key, lambda: self._controller.refuse(run, home, text), f"({text})")

    async def tell(self, run: Run, text: str) -> None:
        await self._call(lambda: self._controller.tell(run, text), change=True)

    async def close_node(self, node: str, reason: str) -> None:
        await self._change("close", "", lambda: self._controller.close_node(node, reason), node)

    async def open_node(self, node: str) -> None:
        await self._change("open", "", lambda: self._controller.open_node(node), node)

    async def fail_node(self, node: str, reason: str) -> None:
        await self._change("fail node", "", lambda: self._controller.fail_node(node, reason), node)

    async def remove_node(self, node: str) -> None:
        await self._change("remove node", "", lambda: self._controller.remove_node(node), node)


class Trouble:
    """What one bait meets on its way to the controller. Outlives the bait's daemon."""

    def __init__(self) -> None:
        self.away = False
        self.cut = False
        """The whole host is cut off."""
        self.hang_until = 0.0
        self.late = True
        """Changes whose answer came too late were made all the same."""
        self.lose_replies = 0
        self.empty = 0
        self.stale_until = 0.0
        self._last_empty = -10.0
        self._seen: dict[str, JobView | None] = {}

    def end(self) -> None:
        self.away = False
        self.hang_until = self.stale_until = 0.0
        self.lose_replies = self.empty = 0

    def jobs(self, now: float, ids: Collection[str], answer: Mapping[str, JobView]) -> Mapping[str, JobView]:
        """The answer as it arrives: now and then without anything in it, or as it was a moment ago."""
        if self.empty > 0 and now - self._last_empty > 3.0:  # never twice: two good reads make a fact (R13)
            self.empty -= 1
            self._last_empty = now
            return {}
        if now < self.stale_until:
            old = {job: self._seen.get(job, answer.get(job)) for job in ids}  # as before they became stale
            return {job: view for job, view in old.items() if view is not None}
        for job in ids:
            self._seen[job] = answer.get(job)
        return answer
