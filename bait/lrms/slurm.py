"""Slurm as an Lrms: squeue and sinfo to look, scontrol to act. Proven with Slurm 22.05.8.

Slurm has no compare-and-set: each verb reads the job first and refuses if the restart count is not the one it was
given; what slips through between the look and the act is caught by the gate in the VM (R4).
"""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.python.failure import Failure

from bait.lrms import slurm_commands as commands
from bait.lrms import slurm_parse as parse
from bait.lrms.base import Home, JobState, JobView, LrmsRefused, LrmsUnavailable, NodeState, NodeView
from bait.lrms.command import AT_ONCE, Commands, Output
from protocol.ids import Run, Shape

_PER_QUERY = 1000  # ids in one squeue: its argument stays well below the kernel's 128 KiB
_WORTH_A_QUERY = 360  # so many waiting jobs cost slurmctld as much as one query more (0012)

_Answer = Mapping[str, parse.Seen | LrmsUnavailable]
"""The jobs that Slurm knows of those asked for, each as far as it was understood."""


class Runner(Protocol):
    """Runs one command to its end; LrmsUnavailable if that cannot be known."""

    async def run(self, argv: Sequence[str]) -> Output: ...


def random_mark() -> str:
    """A field separator nobody can have foreseen. It begins with a letter: digits would read as a width."""
    return f"w{secrets.token_hex(8)}"


def slurm(
    reactor: Any, cluster: str, vm_partition: str, commands_directory: str | None = None, timeout_s: float = 10.0
) -> "Slurm":
    """The adapter as the daemon uses it. `commands_directory` holds squeue, sinfo, scontrol; None: the system's."""
    return Slurm(reactor, Commands(reactor, timeout_s, commands_directory), cluster, vm_partition)


class Slurm:
    """Implements `bait.lrms.base.Lrms`. `clock` gives the reactor turns in which questions gather."""

    def __init__(
        self, clock: Any, runner: Runner, cluster: str, vm_partition: str, mark: Callable[[], str] = random_mark
    ) -> None:
        self._clock = clock
        self._runner = runner
        self._cluster = cluster
        self._vm_partition = vm_partition
        self._mark = mark
        self._questions: _Questions | None = None
        self._in_queue = 0
        """Records in the queue, as last seen."""

    async def jobs(self, ids: Collection[str]) -> Mapping[str, JobView]:
        """The jobs of these ids (`A`, or `A_T` for array tasks); see Lrms.jobs."""
        wanted = {job for job in ids if parse.is_job_id(job)}
        found = await self._ask(wanted) if wanted else {}
        return {job: parse.understood(found[job])[0] for job in wanted if job in found}

    async def node(self, name: str) -> NodeView | None:
        """If it is in a partition (sinfo lists no others)."""
        mark = self._mark()
        return parse.parse_nodes(await self._look(commands.sinfo_of(mark, name)), mark).get(name)

    async def up_for_s(self) -> float:
        """Of the slurmctld that answers; a backup that has taken over tells since when its process runs."""
        return parse.up_for_s(await self._look(commands.SHOW_CONFIG))

    async def waiting(self) -> Mapping[str, JobView]:
        """A few words of every waiting job, arrays unsplit, for there may be a hundred thousand; then all of those that
        may be ours. Slurm cannot be asked for jobs by their notes."""
        mark = self._mark()
        answer = await self._look_at_queue(mark)
        ids = parse.may_be_ours(answer, mark, self._vm_partition)
        found = await self._ask(ids) if ids else {}
        # One that is not understood is not known to need a rescue, and keeps none from the others.
        known = {job: seen[0] for job, seen in found.items() if job in ids and isinstance(seen, tuple)}
        return {job: view for job, view in known.items() if view.state is JobState.PENDING}

    async def dead_nodes(self) -> tuple[str, ...]:
        """Of the VM partition, and only those that registered themselves."""
        mark = self._mark()
        answer = await self._look(commands.sinfo(mark, self._vm_partition))
        views = parse.parse_nodes(answer, mark).values()
        return tuple(view.name for view in views if view.state is NodeState.DOWN and parse.is_dynamic(view))

    async def make_requeueable(self, run: Run, note: str) -> None:
        view, _ = await self._read(run)
        words = commands.note_line(note)
        if not view.requeue or (words and words != view.note):
            await self._act(commands.requeueable(parse.job_id(run), words))

    async def send(self, run: Run, node: str, shape: Shape, note: str) -> None:
        """Two scontrol calls. The job's own size is left alone: the VM was made to fit it, and a job that asked for
        no memory gets all of the node it lands on."""
        view, _ = await self._read(run)
        there = view.partition == self._vm_partition and view.required_nodes == (node,)
        if there and view.state is JobState.RUNNING and view.node == node:
            return
        _must_be_ours(view)
        job = parse.job_id(run)
        if not (there and view.requeue and view.note == commands.note_line(note)):
            await self._act(commands.target(job, self._vm_partition, node, note, bool(view.reservation)))
        if view.held:
            await self._act(commands.release(job))

    async def forbid_requeue(self, run: Run) -> None:
        view, _ = await self._read(run)
        if view.requeue and view.state is not JobState.ENDED:
            await self._act(commands.not_requeueable(parse.job_id(run)))

    async def give_back(self, run: Run, home: Home, note: str, delay_s: int = 0, told: str = "") -> None:
        """At most three scontrol calls. Eligible in 10 seconds at the earliest: sooner, Slurm may lose the job. A hold
        that is neither Slurm's for our exit code nor of our refusal stays: it is the user's."""
        view, comment = await self._read(run)
        _must_be_pending(view)
        there = self._belongs(view, home)
        at_home = home.partition in there.split(",")  # it was seen to run in one of those that it may run in
        back = replace(home, partition=there, requeue=home.requeue or at_home)
        words = (f"Comment={commands.with_word(comment, told)}",) if told else ()
        await self._untarget(view, back, note, delay_s, *words)
        if parse.held_by_us(view):
            await self._act(commands.release(parse.job_id(run)))

    async def refuse(self, run: Run, home: Home, text: str) -> None:
        view, comment = await self._read(run)
        _must_be_pending(view)
        if not view.held:  # first, or it may start in between
            await self._act(commands.user_hold(parse.job_id(run)))
        words = f"Comment={commands.with_word(comment, text)}"
        note = f"{parse.REFUSED_NOTE} {commands.one_line(text)}"
        await self._untarget(view, replace(home, partition=self._belongs(view, home)), note, 0, words)

    async def _untarget(self, view: JobView, home: Home, note: str, delay_s: int, *more: str) -> None:
        """Its own required nodes in place of our VM's, and its reservation. Slurm refuses what it does not know any
        more, and then has changed nothing: better anywhere than stuck on a VM that is gone."""
        job, own = parse.job_id(view.run), home.required_nodes if self._is_aimed(view, home) else None
        try:
            await self._act((*commands.untarget(job, home, own, note, delay_s), *more))
        except LrmsRefused as error:
            if own and commands.no_such_node(str(error)):
                home, words = replace(home, required_nodes=()), f"its required nodes are gone: {','.join(own)}"
            elif home.reservation and commands.no_such_reservation(str(error)):
                home, words = replace(home, reservation=""), f"its reservation is gone: {home.reservation}"
            else:
                raise
            await self._untarget(view, home, f"{note}; {words}", delay_s, *more)

    def _is_aimed(self, view: JobView, home: Home) -> bool:
        """True if the job's required nodes are our doing. A note of an older release does not say which VM it was."""
        return home.vm in view.required_nodes if home.vm else view.partition == self._vm_partition

    def _belongs(self, view: JobView, home: Home) -> str:
        """The job's partition: one that is not the VMs' was chosen by somebody, and stays."""
        return home.partition if view.partition == self._vm_partition else view.partition

    async def tell(self, run: Run, text: str) -> None:
        """Comment=, after the user's own; `squeue -o %k` and `scontrol show job` show it. Empty text takes it away."""
        try:
            view, now = await self._read(run)
            wanted = commands.with_word(now, text)
            if wanted != now and view.state is not JobState.ENDED:
                await self._act(commands.comment(parse.job_id(run), wanted))
        except LrmsRefused:
            return  # best effort: the job moved on, and with it the reason to tell

    async def close_node(self, node: str, reason: str) -> None:
        """A node that is down for a reason takes no jobs: the reason, perhaps a human's, stays."""
        view = await self._node(node)
        done = view.state is NodeState.CLOSED_BY_US and view.reason == commands.our_reason(reason)
        down_for_a_reason = view.state is NodeState.DOWN and bool(view.reason)
        if not (done or down_for_a_reason or view.state is NodeState.CLOSED_BY_OTHERS):
            await self._act(commands.drain(node, reason))

    async def open_node(self, node: str) -> None:
        view = await self._node(node)
        if view.state is NodeState.CLOSED_BY_US:
            await self._act(commands.undrain(node, parse.is_idle(view)))

    async def fail_node(self, node: str, reason: str) -> None:
        """State=DOWN; LrmsRefused for a node that the site configured."""
        await self._vm(node)
        await self._act_on_vm(commands.down(node, reason))

    async def remove_node(self, node: str) -> None:
        """LrmsRefused while a job is on it or waits for it (a slurmctld that starts ends such a job as NODE_FAIL, held
        or not: "Invalid req_nodes"), and for a node that the site configured (Slurm would delete that too)."""
        if await self._vm(node) is not None and await self._is_waited_for(node):
            raise LrmsRefused(f"a job waits for node {node}: it stays until the job has been given back")
        await self._act_on_vm(commands.delete_node(node))

    async def _is_waited_for(self, node: str) -> bool:
        """Slurm cannot be asked for it, so this is a look at the whole queue: once for each VM that goes."""
        mark = self._mark()
        return node in parse.waited_for(await self._look_at_queue(mark), mark)

    async def _vm(self, node: str) -> NodeView | None:
        view = await self.node(node)
        if view is not None and not parse.is_dynamic(view):
            raise LrmsRefused(f"node {node} is in slurm.conf, not a VM that registered itself: left alone")
        return view

    async def _act_on_vm(self, argv: commands.Argv) -> None:
        """For nodes that may be gone already, which is as good as done."""
        output = await self._runner.run(argv)
        if output.code and not commands.no_such_node(output.err):
            raise commands.failure(argv, output.err)

    async def _node(self, node: str) -> NodeView:
        view = await self.node(node)
        if view is None:
            raise LrmsRefused(f"Slurm has no node {node!r} in any partition; is it in slurm.conf?")
        return view

    async def _read(self, run: Run) -> parse.Seen:
        """The job, if it is still in this very run; otherwise LrmsRefused."""
        job = parse.job_id(run)
        found = (await self._ask({job})).get(job) if parse.is_job_id(job) else None
        if found is None:
            raise LrmsRefused(f"Slurm knows no job {job}")
        seen = parse.understood(found)
        if seen[0].run != run:
            raise LrmsRefused(f"job {job} is now run {seen[0].run}, not {run}: left alone")
        return seen

    async def _act(self, argv: commands.Argv) -> None:
        output = await self._runner.run(argv)
        if output.code:
            raise commands.failure(argv, output.err or output.out)

    async def _look(self, argv: commands.Argv) -> str:
        """A query's answer. Any failure means that nothing is known (R13)."""
        output = await self._runner.run(argv)
        if output.code:
            raise LrmsUnavailable(str(commands.failure(argv, output.err)))
        return output.out

    async def _look_at_queue(self, mark: str) -> str:
        answer = await self._look(commands.squeue_waiting(mark))
        self._in_queue = answer.count(mark) // len(parse.WAITING_FIELDS)
        return answer

    def _ask(self, ids: Collection[str]) -> "Deferred[_Answer]":
        """Joins the query that this reactor turn will make."""
        if self._questions is None:
            self._questions = _Questions()
            self._clock.callLater(0, self._query)
        return self._questions.add(ids)

    def _query(self) -> None:
        questions, self._questions = self._questions, None
        assert questions is not None  # _ask made it before it called us
        Deferred.fromCoroutine(self._fetch(sorted(questions.ids))).addCallbacks(questions.answer, questions.fail)

    async def _fetch(self, ids: list[str]) -> _Answer:
        # Asked for a single job slurmctld sends that one, asked for two it sends the whole queue.
        few = len(ids) <= min(1 + self._in_queue // _WORTH_A_QUERY, AT_ONCE)
        each = 1 if few else _PER_QUERY
        parts = [ids[start : start + each] for start in range(0, len(ids), each)]
        answers = [Deferred.fromCoroutine(self._fetch_some(part)) for part in parts]  # an answer waits for no other's
        found: dict[str, parse.Seen | LrmsUnavailable] = {}
        try:
            for _, answer in await DeferredList(answers, fireOnOneErrback=True, consumeErrors=True):
                found.update(answer)
        except FirstError as error:
            raise LrmsUnavailable(str(error.subFailure.value)) from error
        return found

    async def _fetch_some(self, ids: list[str]) -> _Answer:
        mark = self._mark()
        argv = commands.squeue(ids, mark)
        output = await self._runner.run(argv)
        if output.code and len(ids) == 1 and commands.no_such_job(output.err):
            return {}  # of several ids squeue leaves the unknown ones out; of a single one it complains
        if output.code:
            raise LrmsUnavailable(str(commands.failure(argv, output.err)))
        return parse.parse_jobs(output.out, mark, self._cluster)


@dataclass(slots=True)
class _Questions:
    """The ids asked for in one reactor turn, and who waits for the answer."""

    ids: set[str] = field(default_factory=set)
    waiting: "list[Deferred[_Answer]]" = field(default_factory=list)

    def add(self, ids: Collection[str]) -> "Deferred[_Answer]":
        self.ids.update(ids)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def answer(self, found: _Answer) -> None:
        for waiter in self.waiting:
            if not waiter.called:
                waiter.callback(found)

    def fail(self, why: Failure) -> None:
        for waiter in self.waiting:
            if not waiter.called:
                waiter.errback(why)


def _must_be_pending(view: JobView) -> None:
    if view.state is not JobState.PENDING:
        raise LrmsRefused(f"{view.run} is {view.word}, not waiting: left alone")


def _must_be_ours(view: JobView) -> None:
    _must_be_pending(view)
    if view.held and not parse.held_by_us(view):
        raise LrmsRefused(f"{view.run} is held by its user or an administrator: left alone")
