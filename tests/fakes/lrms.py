"""A batch system in memory, faithful where a bait can tell: ticks, parking by exit code, restart counts, holds.

tests/contract/lrms runs the same suite over this and over real Slurm. Time is the clock's: `start()` makes it tick.
Tests and simulations submit jobs, decide how programs end (`exits`), play users, administrators and broken machines.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, LoopingCall

from bait.lrms.base import OUR_NOTE, Home, JobState, JobView, LrmsRefused, LrmsUnavailable, NodeState, NodeView
from protocol.ids import Run, Shape

PARK = 199
HAND_BACK = 198
OURS = "wnod:"
OUR_HOLDS = ("exit", "refusal")
REQUEUE_DELAY_S = 121.0
"""How long a requeued job waits if nobody says otherwise."""


@dataclass(slots=True)
class FakeJob:
    """One job. Tests may change any field to play an LRMS that changes its mind."""

    run: Run
    owner: int
    user: str
    partition: str
    state: JobState = JobState.PENDING
    word: str = "PENDING"
    held_by: str = ""
    """"" (not held), "exit" (parked by exit code), "refusal", "user" or "admin"."""
    node: str | None = None
    account: str = ""
    wishes: str = ""
    cpus: int = 1
    memory_mib: int | None = None
    disk_mib: int | None = None
    time_limit_s: int | None = None
    requeue: bool = True
    batch: bool = True
    required_nodes: tuple[str, ...] = ()
    reservation: str = ""
    note: str = ""
    comment: str = ""
    told: str = ""
    eligible_at: float = 0.0
    started_at: float = 0.0
    exit_code: int | None = None
    starts: list[tuple[str, int]] = field(default_factory=list)
    """Node and restart count of every start, for judging who ran where."""

    @property
    def id(self) -> str:
        return self.run.job if self.run.task is None else f"{self.run.job}_{self.run.task}"

    def view(self) -> JobView:
        ended = self.state is JobState.ENDED
        return JobView(
            run=self.run,
            owner=self.owner,
            user=self.user,
            state=self.state,
            word=self.word,
            held=self.state is JobState.PENDING and bool(self.held_by),
            node=self.node if self.state is JobState.RUNNING else None,
            partition=self.partition,
            account=self.account,
            wishes=self.wishes,
            cpus=self.cpus,
            memory_mib=self.memory_mib,
            disk_mib=self.disk_mib,
            time_limit_s=self.time_limit_s,
            nodes=1,
            batch=self.batch,
            requeue=self.requeue,
            required_nodes=self.required_nodes,
            note=self.note,
            exit_code=self.exit_code if ended else None,
            signal=0 if ended else None,
            gave_back=self.state is JobState.PENDING and self.exit_code == HAND_BACK,
            reservation=self.reservation,
        )


@dataclass(slots=True)
class FakeNode:
    """One node. `closed` is the reason it takes no more jobs, whoever gave it."""

    name: str
    partition: str
    cpus: int = 4
    features: frozenset[str] = frozenset()
    dynamic: bool = False
    up: bool = True
    closed: str | None = None


class FakeLrms:
    """Implements `bait.lrms.base.Lrms`.

    away        every call raises LrmsUnavailable and nothing happens
    lose_replies   that many of the next changes happen, and the caller gets LrmsUnavailable all the same
    latency_s   None: calls answer at once; otherwise after so much of the clock's time
    started     called with each job that starts, on whatever node
    """

    def __init__(
        self, clock: Clock, cluster: str = "fake", home: str = "batch", vm_partition: str = "vwn", tick_s: float = 1.0
    ) -> None:
        self.clock = clock
        self.cluster = cluster
        self.home = home
        self.vm_partition = vm_partition
        self.away = False
        self.lose_replies = 0
        self.latency_s: float | None = None
        self.settle_s = 0.1
        self.forget_s = 300.0
        self.up_since = clock.seconds() - 86_400.0
        self.started: Callable[[FakeJob], None] = lambda job: None
        self.queries = 0
        self.all_jobs: dict[str, FakeJob] = {}
        self.all_nodes: dict[str, FakeNode] = {}
        self._tick_s = tick_s
        self._ticking = LoopingCall(self.tick)
        self._ticking.clock = clock
        self._last = 0

    # --- the world's side ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Schedule jobs every tick of the clock."""
        self._ticking.start(self._tick_s, now=False)

    def stop(self) -> None:
        if self._ticking.running:
            self._ticking.stop()

    def add_node(self, name: str, *, vm: bool = False, cpus: int = 4, features: Iterable[str] = ()) -> FakeNode:
        """A bait, or (vm) a node that registered itself."""
        partition = self.vm_partition if vm else self.home
        self.all_nodes[name] = FakeNode(name, partition, cpus, frozenset(features), dynamic=vm)
        return self.all_nodes[name]

    def submit(self, *, tasks: Iterable[int] = (), owner: int = 1000, user: str = "alice", **wishes: object) -> str:
        """A new job's id, or an array's (its tasks are ID_T). Keywords are fields of FakeJob."""
        self._last += 1
        number = str(self._last)
        for task in tuple(tasks) or (None,):
            run = Run(cluster=self.cluster, job=number, task=task, restart=0)
            job = FakeJob(run, owner, user, self.home, eligible_at=self.clock.seconds())
            for name, value in wishes.items():
                setattr(job, name, value)
            self.all_jobs[job.id] = job
        return number

    def tick(self) -> None:
        """Start what can start."""
        for job in tuple(self.all_jobs.values()):
            if job.state is JobState.PENDING and not job.held_by and job.eligible_at <= self.clock.seconds():
                node = self._place(job)
                if node is not None:
                    self._start(job, node)

    def exits(self, job_id: str, code: int) -> None:
        """The program on the node (starter, or user's) ended."""
        job = self.all_jobs[job_id]
        assert job.state is JobState.RUNNING, f"{job_id} is {job.word}"
        job.exit_code = code
        if code == PARK:
            self._leave(job, lambda gone: self._requeue(gone, "exit"))
        elif code == HAND_BACK:
            self._leave(job, lambda gone: self._requeue(gone, ""))
        else:
            self._leave(job, lambda gone: self._end(gone, "FAILED" if code else "COMPLETED"))

    def cancel(self, job_id: str) -> None:
        """The user cancels."""
        job = self.all_jobs[job_id]
        if job.state is JobState.PENDING:
            self._end(job, "CANCELLED")
        elif job.state is JobState.RUNNING:
            self._leave(job, lambda gone: self._end(gone, "CANCELLED"))

    def hold(self, job_id: str, by: str = "user") -> None:
        """The user or an administrator holds."""
        self._set_word(self.all_jobs[job_id], "PENDING", by)

    def release(self, job_id: str) -> None:
        """The user releases; his parked job, too."""
        self._set_word(self.all_jobs[job_id], "PENDING", "")

    def node_fails(self, name: str) -> None:
        """The node is gone for good in the LRMS's eyes: its jobs go back to the queue, or end if they may not."""
        self.all_nodes[name].up = False
        for job in self.all_jobs.values():
            if job.node == name and job.state in {JobState.RUNNING, JobState.LEAVING}:
                if job.requeue:
                    self._requeue(job, "")
                else:
                    self._end(job, "NODE_FAIL")

    def drain(self, name: str, reason: str) -> None:
        """A human closes the node."""
        self.all_nodes[name].closed = reason

    def undrain(self, name: str) -> None:
        self.all_nodes[name].closed = None

    def forget(self, job_id: str) -> None:
        """The LRMS no longer knows the job."""
        del self.all_jobs[job_id]

    # --- the bait's side: Lrms -----------------------------------------------------------------------------------

    async def jobs(self, ids: Collection[str]) -> Mapping[str, JobView]:
        await self._pass()
        self.queries += 1
        return {job: self.all_jobs[job].view() for job in ids if job in self.all_jobs}

    async def node(self, name: str) -> NodeView | None:
        await self._pass()
        return self._node_view(self.all_nodes[name]) if name in self.all_nodes else None

    async def up_for_s(self) -> float:
        await self._pass()
        return float(int(self.clock.seconds()) - int(self.up_since))

    async def waiting(self) -> Mapping[str, JobView]:
        await self._pass()
        pending = (job for job in self.all_jobs.values() if job.state is JobState.PENDING)
        return {job.id: job.view() for job in pending if self._may_be_ours(job)}

    def _may_be_ours(self, job: FakeJob) -> bool:
        sent = bool(job.required_nodes) and job.note.startswith(OUR_NOTE)
        return job.word == "SPECIAL_EXIT" or job.partition == self.vm_partition or sent

    async def dead_nodes(self) -> tuple[str, ...]:
        await self._pass()
        return tuple(node.name for node in self.all_nodes.values() if node.dynamic and not node.up)

    async def make_requeueable(self, run: Run, note: str) -> None:
        job = await self._same(run)
        job.requeue = True
        job.note = note or job.note
        self._reply()

    async def send(self, run: Run, node: str, shape: Shape, note: str) -> None:
        job = await self._same(run)
        there = job.partition == self.vm_partition and job.required_nodes == (node,)
        if there and job.state is JobState.RUNNING and job.node == node:
            return
        self._pending(job)
        if job.held_by not in {"", *OUR_HOLDS}:
            raise LrmsRefused(f"{run} is held by {job.held_by}")
        if node not in self.all_nodes:
            raise LrmsRefused(f"no node {node}")
        job.partition, job.required_nodes, job.requeue, job.note = self.vm_partition, (node,), True, note
        job.reservation = ""
        job.eligible_at = self.clock.seconds()
        self._set_word(job, "PENDING", "")
        self._reply()

    async def forbid_requeue(self, run: Run) -> None:
        (await self._same(run)).requeue = False
        self._reply()

    async def give_back(self, run: Run, home: Home, note: str, delay_s: int = 0, told: str = "") -> None:
        job = await self._same(run)
        self._pending(job)
        job.told = told or job.told
        self._untarget(job, home, note, delay_s)
        job.requeue = home.requeue or job.partition == home.partition
        if job.held_by in OUR_HOLDS:
            self._set_word(job, "PENDING", "")
        self._reply()

    async def refuse(self, run: Run, home: Home, text: str) -> None:
        job = await self._same(run)
        self._pending(job)
        self._untarget(job, home, f"wnod: refused: {text}", 0)
        job.told = text
        if not job.held_by:
            self._set_word(job, "PENDING", "refusal")
        self._reply()

    async def tell(self, run: Run, text: str) -> None:
        try:
            job = await self._same(run)
        except LrmsRefused:
            return
        if job.state is not JobState.ENDED:
            job.told = text
        self._reply()

    async def close_node(self, node: str, reason: str) -> None:
        view = await self._node(node)
        if view.state not in {NodeState.CLOSED_BY_OTHERS, NodeState.DOWN}:
            self.all_nodes[node].closed = reason if reason.startswith(OURS) else f"{OURS} {reason}"
        self._reply()

    async def open_node(self, node: str) -> None:
        if (await self._node(node)).state is NodeState.CLOSED_BY_US:
            self.all_nodes[node].closed = None
        self._reply()

    async def fail_node(self, node: str, reason: str) -> None:
        if await self._vm(node) is not None:
            self.node_fails(node)
        self._reply()

    async def remove_node(self, node: str) -> None:
        found = await self._vm(node)
        if found is not None and self._jobs_on(node):
            raise LrmsRefused(f"{node} is busy")
        if found is not None and self._is_waited_for(node):
            raise LrmsRefused(f"a job waits for {node}")
        self.all_nodes.pop(node, None)
        self._reply()

    # --- inside --------------------------------------------------------------------------------------------------

    async def _pass(self) -> None:
        if self.latency_s is not None:
            waiting: Deferred[None] = Deferred()
            self.clock.callLater(self.latency_s, waiting.callback, None)
            await waiting
        if self.away:
            raise LrmsUnavailable("the batch system does not answer")

    def _reply(self) -> None:
        if self.lose_replies:
            self.lose_replies -= 1
            raise LrmsUnavailable("the batch system's reply was lost")

    async def _same(self, run: Run) -> FakeJob:
        await self._pass()
        job = self.all_jobs.get(run.job if run.task is None else f"{run.job}_{run.task}")
        if job is None:
            raise LrmsRefused(f"no job {run}")
        if job.run != run:
            raise LrmsRefused(f"{run} is now {job.run}")
        return job

    def _pending(self, job: FakeJob) -> None:
        if job.state is not JobState.PENDING:
            raise LrmsRefused(f"{job.run} is {job.word}")

    async def _node(self, name: str) -> NodeView:
        view = await self.node(name)
        if view is None:
            raise LrmsRefused(f"no node {name}")
        return view

    async def _vm(self, name: str) -> FakeNode | None:
        await self._pass()
        found = self.all_nodes.get(name)
        if found is not None and not found.dynamic:
            raise LrmsRefused(f"{name} is no VM's node")
        return found

    def _node_view(self, node: FakeNode) -> NodeView:
        word = ("idle" if node.up else "down") + ("+drain" if node.closed is not None else "")
        occupied = bool(self._jobs_on(node.name))
        return NodeView(node.name, self._node_state(node, occupied), word, node.closed or "", occupied)

    def _node_state(self, node: FakeNode, occupied: bool) -> NodeState:
        if node.closed is not None and not node.closed.startswith(OURS):
            return NodeState.CLOSED_BY_OTHERS
        if not node.up:
            return NodeState.DOWN
        if node.closed is not None:
            return NodeState.CLOSED_BY_US
        return NodeState.BUSY if occupied else NodeState.READY

    def _jobs_on(self, node: str) -> list[FakeJob]:
        busy = {JobState.RUNNING, JobState.LEAVING}
        return [job for job in self.all_jobs.values() if job.node == node and job.state in busy]

    def _is_waited_for(self, node: str) -> bool:
        waiting = (job for job in self.all_jobs.values() if job.state is JobState.PENDING)
        return any(node in job.required_nodes and job.note.startswith(OUR_NOTE) for job in waiting)

    def _place(self, job: FakeJob) -> FakeNode | None:
        wishes = frozenset(job.wishes.split("&")) - {""}
        for node in self.all_nodes.values():
            allowed = not job.required_nodes or node.name in job.required_nodes
            fits = node.partition in job.partition.split(",") and wishes <= node.features
            free = node.cpus - sum(other.cpus for other in self._jobs_on(node.name))
            if node.up and node.closed is None and allowed and fits and job.cpus <= free:
                return node
        return None

    def _start(self, job: FakeJob, node: FakeNode) -> None:
        job.state, job.word, job.node, job.exit_code = JobState.RUNNING, "RUNNING", node.name, None
        job.started_at = self.clock.seconds()
        job.starts.append((node.name, job.run.restart))
        self.started(job)

    def _leave(self, job: FakeJob, then: Callable[[FakeJob], None]) -> None:
        job.state, job.word, run = JobState.LEAVING, "COMPLETING", job.run

        def settled() -> None:
            if job.state is JobState.LEAVING and job.run == run:  # unless the node failed meanwhile
                then(job)

        self.clock.callLater(self.settle_s, settled)

    def _requeue(self, job: FakeJob, held_by: str) -> None:
        job.run = replace_restart(job.run)
        self._wait_again(job, held_by)

    def _wait_again(self, job: FakeJob, held_by: str) -> None:
        job.state, job.node = JobState.PENDING, None
        job.eligible_at = self.clock.seconds() + REQUEUE_DELAY_S
        self._set_word(job, "SPECIAL_EXIT" if held_by else "PENDING", held_by)

    def _end(self, job: FakeJob, word: str) -> None:
        job.state, job.word, job.held_by = JobState.ENDED, word, ""
        job.exit_code = job.exit_code or 0
        self.clock.callLater(self.forget_s, self.all_jobs.pop, job.id, None)

    def _set_word(self, job: FakeJob, word: str, held_by: str) -> None:
        if job.state is JobState.PENDING:
            job.word, job.held_by = word, held_by

    def _untarget(self, job: FakeJob, home: Home, note: str, delay_s: int) -> None:
        aimed = home.vm in job.required_nodes if home.vm else job.partition == self.vm_partition
        if job.partition == self.vm_partition:
            job.partition = home.partition
        if aimed:
            known = all(name in self.all_nodes for name in home.required_nodes)
            job.required_nodes = home.required_nodes if known else ()
            job.reservation = home.reservation or job.reservation
            note = note if known else f"{note}; its required nodes are gone: {','.join(home.required_nodes)}"
        job.requeue, job.note = home.requeue, note
        job.eligible_at = self.clock.seconds() + max(10, delay_s)


def replace_restart(run: Run) -> Run:
    """The next run; a function so that a simulation can replace it with an LRMS that forgets to count."""
    return run.next()
