"""Follows every lease of this bait: look, decide, journal, act, and look again.

The only place where a lease changes. Starters, host messages and the clock only kick; what follows is decided
by `bait.rules.job.decide` over fresh facts, after a crash exactly as before it.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from bait.change import KIND, Change
from bait.hookserver import Answer, Word
from bait.lrms.base import JobView, Lrms, LrmsRefused, LrmsUnavailable, NodeState, NodeView
from bait.rules import beat, note, record, saying
from bait.rules import job as jobs
from bait.rules.hostview import HostView
from bait.rules.lease import Deed, Facts, Lease, Phase, Times
from bait.sights import Sights
from bait.uptime import Uptime
from bait.vouching import Vouching
from protocol.ids import LeaseId, RequestId, Run
from protocol.messages import FromBait, Renew, VmPhase
from wnod.commits import Commits
from wnod.crashpoint import around
from wnod.duties import Duties, Next, Now
from wnod.indexed import Indexed
from wnod.journal import Journal

PAST = "past"
KEPT = 500
"""How many leases that are over stay readable, for `wnod jobs --all` and for those who ask what ran where."""


class Link(Protocol):
    """What is needed of protocol.link.BaitEnd."""

    def send(self, message: FromBait) -> None:
        """Queue for the hostmaster."""


class Observer(Protocol):
    """Whoever publishes numbers."""

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """A record is on disk and differs from `before`."""

    def forgotten(self, lease: Lease) -> None:
        """The lease is over and off the record."""


@dataclass(slots=True)
class Hook:
    """A starter that waits for its answer."""

    answer: "Deferred[Answer]"


@dataclass
class Follower:
    """All leases of one bait."""

    clock: IReactorTime
    bait: str
    journal: Journal
    lrms: Lrms
    view: HostView
    times: Times
    new_id: Callable[[], str]
    observer: Observer
    link: Link = field(init=False)
    leases: Indexed[LeaseId, Lease] = field(default_factory=lambda: Indexed(job=_job, run=_run))
    hooks: dict[LeaseId, Hook] = field(default_factory=dict)
    past: deque[Lease] = field(default_factory=deque)
    """The last leases that are over, oldest first."""
    _failures: Counter[str] = field(default_factory=Counter)
    """How many of the past leases of a job have failed."""
    log: Logger = field(default_factory=lambda: Logger("bait.follower"))

    def __post_init__(self) -> None:
        self.commits = Commits(self.clock, self.journal)
        self.duties = Duties(self.clock, self._step, "lease")
        self.sights = Sights(self.clock, self.lrms)
        self.uptime = Uptime(self.clock, self.lrms, self._knows_uptime)
        self.vouching = Vouching(self.clock, self._vouch)
        self._phase = beat.phase(self.bait)

    def load(self) -> None:
        """Read the journal and see to every lease on it."""
        for lease in self.journal.load(KIND, Lease).values():
            self.leases[lease.lease] = lease
        over = sorted(self.journal.load(PAST, Lease).values(), key=lambda lease: lease.since)
        self.past.extend(over)
        self._failures.update(_job(lease) for lease in over if lease.failed)
        self.kick_all()

    def kick(self, lease: LeaseId) -> None:
        """Something about this lease may have changed."""
        if lease in self.leases:
            self.duties.kick(lease)

    def kick_all(self) -> None:
        """Anything may have changed."""
        for lease in tuple(self.leases):
            self.duties.kick(lease)

    def of_run(self, run: Run) -> Lease | None:
        """The lease of exactly this run, unless it has ended."""
        for lease in self.leases.where("run", run):
            if lease.phase is not Phase.ENDED:
                return lease
        return None

    def put(self, lease: Lease) -> None:
        """Journal the record now, then believe it, then see to what follows."""
        change = Change(self, self.leases.get(lease.lease), lease)
        if change.before == lease:
            return
        change.begin()
        try:
            with self.journal.transaction():
                change.put()
        except BaseException:
            change.undo()
            raise
        change.done()

    async def write(self, before: Lease | None, lease: Lease, *, kick: bool = True) -> bool:
        """As `put`, in one commit with all who write in this moment. `kick` False: the caller sees to what follows.

        False, and nothing is written, if meanwhile the record is not `before` any more, or (None) its run has one.
        """
        change = Change(self, before, lease, only=True, kick=kick)
        await self.commits.write(change)
        return change.written

    def supersede(self, newer: Run) -> None:
        """A starter of `newer` is here: older leases of the same job let go of it (R6)."""
        for lease in self.leases.where("job", newer.key):
            if record.superseded(lease, newer):
                self.put(record.supersede(lease, newer, self.clock.seconds()))

    def _forget(self, lease: Lease) -> None:
        with around("bait.forget"), self.journal.transaction():
            self.journal.remove(KIND, lease.lease)
            self.journal.put(PAST, lease.lease, lease)
            for oldest in tuple(self.past)[: max(0, len(self.past) + 1 - KEPT)]:
                self.journal.remove(PAST, oldest.lease)
        self._count_as_over(lease)  # when that is on disk
        del self.leases[lease.lease]
        self.view.forget(lease.lease)
        self.uptime.forget(lease.lease)
        self._answer(lease.lease, "hand-back", lease.text)
        self.forget_sight(lease.run.key)
        self.observer.forgotten(lease)

    def forget_sight(self, job: str) -> None:
        """Nobody asks for this job any more, unless it has a lease."""
        if not self.leases.where("job", job):
            self.sights.forget(job)

    def _count_as_over(self, lease: Lease) -> None:
        self.past.append(lease)
        self._count_failure(lease, 1)
        while len(self.past) > KEPT:
            self._count_failure(self.past.popleft(), -1)

    def _count_failure(self, lease: Lease, by: int) -> None:
        if not lease.failed:
            return
        self._failures[_job(lease)] += by
        if not self._failures[_job(lease)]:
            del self._failures[_job(lease)]  # or the daemon would remember every job there ever was

    # --- one step ------------------------------------------------------------------------------------

    async def _step(self, key: str) -> Next:
        while (lease := self.leases.get(LeaseId(key))) is not None:
            wanted = await self._follow(lease, lease)
            if wanted is not None:
                return wanted
        return Now.REST

    async def _follow(self, written: Lease, lease: Lease) -> Next | None:
        """One look at a lease, and what follows from it; None: look again, its record has changed.

        `written` is the record on disk, `lease` the same with what a deed has added to it.
        """
        facts = await self._facts(lease)
        if self.leases.get(lease.lease) is not written:
            return None
        if facts.known:
            self.vouching.saw(lease, facts.job)
        step = jobs.decide(lease, facts, self.times)
        if step.lease != written and not await self.write(written, step.lease, kick=False):
            return None
        if step.deed is not None:
            return await self._do(step.lease, step.deed, facts)
        if step.lease != lease:
            if self._depends_on_its_node(step.lease) and not self._depends_on_its_node(lease):
                return None
            lease, step = step.lease, jobs.decide(step.lease, facts, self.times)
            if step.lease != lease or step.deed is not None:
                return None  # what is done is done on facts that were looked for after the record was written
        return Now.REST if step.wake_s is None else self._on_the_beat(step.wake_s)

    def _on_the_beat(self, delay_s: float) -> float:
        times = self.times
        beat_s = max((beat_s for beat_s in (times.poll_s, times.running_s) if beat_s <= delay_s), default=times.soon_s)
        return beat.wait_s(self.clock.seconds(), delay_s, beat_s, self._phase)

    async def _facts(self, lease: Lease) -> Facts:
        # At the same time: each look is a program.
        looking = Deferred.fromCoroutine(self._look_at_node(lease)) if self._depends_on_its_node(lease) else None
        over = lease.phase is Phase.ENDED  # then nothing depends on the job any more
        known, job = (True, None) if over else await self.sights.look(lease.run, lease.phase is Phase.REQUESTED)
        node = None
        if looking is not None:
            node_known, node = await looking
            known = known and node_known
        told = self.view.told(lease.lease)
        return Facts(
            now=self.clock.seconds(),
            known=known,
            job=job,
            bait=self.bait,
            hook=lease.lease in self.hooks,
            linked=self.view.linked,
            asking=told.asking is not None,
            host_known=self.view.knows(lease.lease),
            vm=told.vm,
            last=told.last,
            denied=told.denied,
            lost=told.lost,
            ended=told.ended == (lease.generation, lease.target),
            node=node is not None,
            node_ready=node is not None and node.state is NodeState.READY,
            node_busy=node is not None and node.state is NodeState.BUSY,
            leaving_since=self.sights.leaving_since(lease.run.key),
            up_for_s=self._up_for_s(lease),
            failures=self._failures.get(_job(lease), 0),
        )

    def _up_for_s(self, lease: Lease) -> float | None:
        """Asked from the parking on: the job's way out of the bait and its VM take longer than the answer."""
        needed = self.times.restart_grace_s > 0 and lease.phase in (Phase.PARKING, Phase.PARKED)
        return self.uptime.of(lease.lease, self.times.restart_grace_s) if needed else None

    def _knows_uptime(self, lease: LeaseId) -> None:
        known = self.leases.get(lease)
        if known is None:
            self.uptime.forget(lease)
        elif "ready" in known.stages:
            self.kick(lease)

    def _depends_on_its_node(self, lease: Lease) -> bool:
        """Where `jobs.decide` looks at the node; while a job runs nobody need be asked every second."""
        if lease.vm is None:
            return False
        if lease.phase is Phase.ENDED:
            return not self.view.told(lease.lease).released
        if lease.phase not in (Phase.PARKED, Phase.RELEASED):
            return False
        vm = self.view.told(lease.lease).vm
        return "ready" in lease.stages or (vm is not None and vm.phase in (VmPhase.READY, VmPhase.BOUND))

    async def _look_at_node(self, lease: Lease) -> tuple[bool, NodeView | None]:
        """Whether the LRMS has answered, and the VM's node."""
        assert lease.vm is not None
        try:
            return True, await self.lrms.node(lease.vm)
        except LrmsUnavailable:
            return False, None

    def _vouch(self, leases: tuple[LeaseId, ...]) -> None:
        if self.view.linked:  # a word that waits for the link would be old when it is heard
            self.link.send(Renew(id=RequestId(self.new_id()), leases=leases))

    # --- deeds -----------------------------------------------------------------------------------------

    async def _do(self, lease: Lease, deed: Deed, facts: Facts) -> Next | None:
        try:
            with around(f"bait.deed.{deed}"):
                await self._perform(lease, deed, facts)
        except LrmsRefused as error:
            # The world is not as it was seen: look again.
            self.log.warn("{run}: {deed} refused: {error}", run=str(lease.run), deed=deed, error=error)
            await self._note(lease, record.refused(lease, deed, self.clock.seconds()))
            return record.pause_s(lease, deed, self.clock.seconds(), self.times)
        except LrmsUnavailable as error:
            self.log.warn("{run}: {deed}: no answer: {error}", run=str(lease.run), deed=deed, error=error)
            return self.times.poll_s
        if deed in _SAID:
            return Now.REST
        if deed in _TOLD:
            return self._on_the_beat(self.times.soon_s)
        after = record.done(lease, deed, self.clock.seconds())
        if after != lease and lease.lease in self.hooks:
            # Its starter waits: written with what follows, in one commit. Losing it means doing the deed again.
            return await self._follow(lease, after)
        await self._note(lease, after)
        return Now.AGAIN

    async def _note(self, lease: Lease, after: Lease) -> None:
        """Put what a deed led to, unless the record has changed meanwhile."""
        if after != lease:
            await self.write(lease, after, kick=False)

    async def _perform(self, lease: Lease, deed: Deed, facts: Facts) -> None:
        match deed:
            case Deed.ASK | Deed.BIND | Deed.RELEASE_VM:
                self._say(lease, deed)
            case Deed.SAY_PARK:
                self._answer(lease.lease, "park", "")
            case Deed.SAY_BACK:
                self._answer(lease.lease, "hand-back", lease.text)
            case Deed.FORGET:
                self._forget(lease)
            case Deed.FAIL_NODE:
                assert lease.vm is not None
                await self.lrms.fail_node(lease.vm, f"wnod: {record.why_failed(lease, facts)}")
            case Deed.REMOVE_NODE:
                assert lease.vm is not None
                await self.lrms.remove_node(lease.vm)
            case _:
                await self._change_job(lease, deed, facts.job)

    async def _change_job(self, lease: Lease, deed: Deed, job: JobView | None) -> None:
        run = lease.target if job is None else job.run
        match deed:
            case Deed.MAKE_REQUEUEABLE:
                await self._mark(lease, job)
            case Deed.TELL:
                await self.lrms.tell(lease.target, f"the VM of this job is {lease.vm}")
            case Deed.SEND:
                await self._send(lease)
            case Deed.FORBID_REQUEUE:
                await self.lrms.forbid_requeue(run)
            case Deed.GIVE_BACK:
                words, told = note.given_back(lease.home, lease.text), f"back in the queue: {lease.text}"
                await self.lrms.give_back(run, lease.home, words, lease.delay_s, told)
            case Deed.REFUSE:
                await self.lrms.refuse(run, lease.home, lease.text)

    async def _mark(self, lease: Lease, job: JobView | None) -> None:
        await self.lrms.make_requeueable(lease.run, note.write(lease, self.bait, self.clock.seconds()))
        if job is None or not job.requeue:
            self.sights.forget(lease.run.key)  # what was seen before is out of date

    async def _send(self, lease: Lease) -> None:
        assert lease.vm is not None
        words = note.write(lease, self.bait, self.clock.seconds())
        await self.lrms.send(lease.target, lease.vm, lease.shape, words)

    def _say(self, lease: Lease, deed: Deed) -> None:
        request = RequestId(self.new_id())
        self.view.asks(lease.lease, request)
        self.link.send(saying.message(lease, deed, request, self.view.told(lease.lease).vm))

    def _answer(self, lease: LeaseId, word: Word, text: str) -> None:
        hook = self.hooks.pop(lease, None)
        if hook is not None and not hook.answer.called:
            hook.answer.callback(Answer(word, text))


def _job(lease: Lease) -> str:
    return lease.run.key


def _run(lease: Lease) -> Run:
    return lease.run


_SAID = (Deed.ASK, Deed.BIND, Deed.RELEASE_VM, Deed.FORGET)
"""Deeds whose answer comes as a message, which kicks: looking again before it would find nothing new."""

_TOLD = (Deed.SAY_PARK, Deed.SAY_BACK)
"""Deeds after which the starter has to end, and the LRMS to notice."""
