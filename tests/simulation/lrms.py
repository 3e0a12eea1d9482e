"""The batch system of a large site: the faithful fake with indexes."""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from bait.lrms.base import OUR_NOTE, Home, JobState, JobView
from protocol.ids import Run
from tests.fakes.lrms import FakeJob, FakeLrms, FakeNode, replace_restart
from tests.simulation.clock import World

_Idle = tuple[int, int, str]
"""Of a bait: its idle cpus, negative, for a heap; its place among the nodes; its name."""
MEMORY_S = 5.0
"""How much a controller loses that dies between two saves of its state."""


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
        self.own_nodes: dict[str, tuple[str, ...] | None] = {}
        """What its user required, if anything; None once somebody has changed it, perhaps while a bait was at it."""
        self.given_back: Callable[[FakeJob], None] = lambda job: None
        """A bait has undone what was done to the job."""

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
            self.own_nodes[job.id] = job.required_nodes
            self.trace(job.id, "submitted")
        return number

    def tick(self) -> None:
        now = self.clock.seconds()
        queue = [job for job in self._queue.values() if not job.held_by and job.eligible_at <= now]
        if not queue:
            return
        idle = self._idle()
        for job in queue:
            node = self._place_in(job, idle)
            if node is not None:
                self._start(job, node)

    def _free(self, node: FakeNode) -> int:
        if not node.up or node.closed is not None:
            return 0
        return node.cpus - sum(job.cpus for job in self._on.get(node.name, {}).values())

    def _idle(self) -> list[_Idle]:
        rooms = ((self._free(self.all_nodes[name]), name) for name in self._home if name in self.all_nodes)
        idle = [(-room, place, name) for place, (room, name) in enumerate(rooms) if room > 0]
        heapq.heapify(idle)
        return idle

    def _place_in(self, job: FakeJob, idle: list[_Idle]) -> FakeNode | None:
        wishes = frozenset(job.wishes.split("&")) - {""}
        if job.required_nodes:
            named = (self.all_nodes.get(name) for name in job.required_nodes)
            return next((node for node in named if node and self._suits(node, job, wishes)), None)
        return self._least_loaded(job, wishes, idle) if job.partition == self.home else None

    def _suits(self, node: FakeNode, job: FakeJob, wishes: frozenset[str]) -> bool:
        allowed = node.partition in job.partition.split(",") and wishes <= node.features
        return allowed and self._free(node) >= job.cpus

    def _least_loaded(self, job: FakeJob, wishes: frozenset[str], idle: list[_Idle]) -> FakeNode | None:
        """As Slurm's LLN=YES: of the nodes that suit, one with the most idle cpus. `idle` may be too hopeful."""
        passed: list[_Idle] = []
        found = None
        while found is None and idle and -idle[0][0] >= job.cpus:
            room, place, name = heapq.heappop(idle)
            node = self.all_nodes[name]
            if self._free(node) != -room:
                heapq.heappush(idle, (-self._free(node), place, name))
                continue
            passed.append((room, place, name))
            if self._suits(node, job, wishes):
                found = node
        for entry in passed:
            heapq.heappush(idle, entry)
        return found

    def _jobs_on(self, node: str) -> list[FakeJob]:
        return list(self._on.get(node, {}).values())

    def _is_waited_for(self, node: str) -> bool:
        aimed = (job for job in self._queue.values() if job.required_nodes)
        return any(node in job.required_nodes and job.note.startswith(OUR_NOTE) for job in aimed)

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
        self.clock.callLater(self.settle_s, self._settled, job, job.run, then)

    def _settled(self, job: FakeJob, run: Run, then: Callable[[FakeJob], None]) -> None:
        if job.state is not JobState.LEAVING or job.run != run or self.all_jobs.get(job.id) is not job:
            return
        if self.unreachable(job):
            self.clock.callLater(1.0, self._settled, job, run, then)
        else:
            then(job)

    def _off(self, job: FakeJob) -> None:
        for jobs in self._on.values() if job.node is None else (self._on.get(job.node, {}),):
            jobs.pop(job.id, None)

    def _requeue(self, job: FakeJob, held_by: str) -> None:
        if self.all_jobs.get(job.id) is job:  # else of a state that the controller has forgotten
            super()._requeue(job, held_by)

    def _wait_again(self, job: FakeJob, held_by: str) -> None:
        if self.all_jobs.get(job.id) is not job:
            return
        self._off(job)
        super()._wait_again(job, held_by)
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
        self.given_back(job)

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
        """A `scontrol requeue`, whoever says it: it counts at once, while the run that it ends still leaves."""
        if job.state is JobState.RUNNING:
            self.requeued(job, "its user requeued it")
            self.left(job)
            job.run = replace_restart(job.run)
            self._leave(job, lambda gone: self._wait_again(gone, ""))

    async def waiting(self) -> Mapping[str, JobView]:
        # What most jobs are not is asked in line: every bait asks, and each time of the whole queue.
        vm, queue = self.vm_partition, self._queue.values()
        near = (job for job in queue if job.required_nodes or job.word != "PENDING" or job.partition == vm)
        return {job.id: job.view() for job in near if self._may_be_ours(job)}

    async def dead_nodes(self) -> tuple[str, ...]:
        down = (self.all_nodes[name] for name in self._registered if name in self.all_nodes)
        return tuple(node.name for node in down if not node.up)

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
        for job in tuple(self._queue.values()):
            if not self.all_nodes.keys() >= set(job.required_nodes):
                self._end(job, "NODE_FAIL")  # as slurmctld: "Invalid req_nodes"
        for job in self.all_jobs.values():
            if job.state is JobState.ENDED:
                self.clock.callLater(self.forget_s, self._forget, job)
            elif job.state is not JobState.PENDING and job.node is not None:
                self._on.setdefault(job.node, {})[job.id] = job
                if job.state is JobState.LEAVING:  # that its run is over, and what then, Slurm has saved with it
                    self.clock.callLater(self.settle_s, self._settled, job, job.run, self._leaving[job.id])
