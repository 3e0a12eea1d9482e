"""Gives back what a bait that does not come back has left in the queue, parked or waiting for a dead VM (R12).

It also removes the nodes of dead VMs that nobody removes: their bait has lost its journal, or the LRMS its memory.
Every bait does it for the whole cluster, because the bait whose job it is may be gone with its host. It needs no
journal: the note on the job says whose it is, where it belongs and until when its bait will have acted.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from bait.follower import Follower
from bait.lrms.base import JobState, JobView, Lrms, LrmsRefused, LrmsUnavailable
from bait.rules import note
from bait.rules.lease import Phase
from bait.rules.note import PATIENCE_S, Note
from protocol.ids import LeaseId
from wnod.crashpoint import around

LOOK_EVERY_S = 120.0
LOOK_AGAIN_S = 10.0
"""After a start, and where the first of two looks has found something."""


def orphans(
    jobs: Iterable[JobView], mine: Collection[str], now: float, lost: Collection[str] = ()
) -> list[tuple[JobView, Note]]:
    """The jobs that wait, held or for a VM, whose bait has not acted in time; `mine`: leases that this bait has.

    `lost`: leases of this bait's that neither it nor its host knows any more: nobody will act, so nobody is waited for.
    """
    found = []
    for job in jobs:
        ours = note.read(job.note)
        if ours is None or ours.lease in mine or (now <= ours.until and ours.lease not in lost):
            continue
        if job.state is JobState.PENDING and (job.held or _is_aimed(job, ours)):
            found.append((job, ours))
    return found


def _is_aimed(job: JobView, ours: Note) -> bool:
    """True if it waits for a VM, or elsewhere than at home. A note of an older release does not say which VM it was."""
    vm = ours.home.vm
    return (vm in job.required_nodes if vm else bool(job.required_nodes)) or job.partition != ours.home.partition


def late_nodes(down: Mapping[str, float], spared: Collection[str | None], now: float) -> list[str]:
    """Nodes that have been down for longer than any bait takes to remove them."""
    return [name for name, since in down.items() if name not in spared and now - since > PATIENCE_S]


@dataclass
class Rescue:
    """Two baits that do it at once do it once: a job given back carries another note."""

    clock: IReactorTime
    lrms: Lrms
    follower: Follower
    busy: bool = False
    _lost: frozenset[LeaseId] = frozenset()
    """Leases of this bait's that nobody here had anything to do with at the last look."""
    _down: dict[str, float] = field(default_factory=dict)
    """Since when VMs' nodes were seen to be down without a break."""
    _soon: IDelayedCall | None = None
    _halted: bool = False
    log: Logger = field(default_factory=lambda: Logger("bait.rescue"))

    def soon(self) -> None:
        """Look in LOOK_AGAIN_S, if that is not planned yet."""
        if not self._halted and (self._soon is None or not self._soon.active()):
            self._soon = self.clock.callLater(LOOK_AGAIN_S, self.look)

    def halt(self) -> None:
        """That look is off, and no other is planned. Idempotent."""
        self._halted = True
        if self._soon is not None and self._soon.active():
            self._soon.cancel()

    def look(self) -> None:
        """Give back what is to be given back."""
        if not self.busy:
            self.busy = True
            Deferred.fromCoroutine(self._look()).addErrback(self._failed).addBoth(self._done)

    async def _look(self) -> None:
        jobs = (await self.lrms.waiting()).values()
        before, self._lost = self._lost, self._lost_here(jobs)
        # Twice: the first answer may have been asked for before a lease came to its end.
        if self._lost - before:
            self.soon()
        mine = [lease.lease for lease in self.follower.leases.values() if lease.phase is not Phase.ENDED]
        for job, ours in orphans(jobs, mine, self.clock.seconds(), before & self._lost):
            text = note.given_back(ours.home, note.left_alone(ours))
            self.log.warn("{run}: {text}", run=str(job.run), text=text, lease=ours.lease)
            try:
                with around("bait.rescue"):
                    await self.lrms.give_back(job.run, ours.home, text)
            except LrmsRefused as error:
                self.log.info("{run}: no rescue: {error}", run=str(job.run), error=error)
        await self._clear_nodes()

    def _lost_here(self, jobs: Iterable[JobView]) -> frozenset[LeaseId]:
        """Leases that a note calls ours, and that are over, or neither in the journal nor known to the host, which was
        asked.

        The journals were lost and the VM has died, or the LRMS has forgotten that the job was given back. One that is
        over may be waiting for this: no node is removed that a job waits for.
        """
        view, leases = self.follower.view, self.follower.leases
        notes = [note.read(job.note) for job in jobs]
        ours = {LeaseId(one.lease) for one in notes if one is not None and one.bait == self.follower.bait}
        over = {lease for lease in ours & leases.keys() if leases[lease].phase is Phase.ENDED}
        unknown = ours - leases.keys()
        return frozenset(over | {lease for lease in unknown if view.knows(lease) and view.told(lease).vm is None})

    async def _clear_nodes(self) -> None:
        now = self.clock.seconds()
        self._down = {name: self._down.get(name, now) for name in await self.lrms.dead_nodes()}
        mine = {lease.vm for lease in self.follower.leases.values()}
        for name in late_nodes(self._down, mine, now):
            self.log.warn("removing node {name}: it is down, and its bait leaves it so", name=name)
            try:
                await self.lrms.remove_node(name)
            except LrmsRefused as error:
                self.log.info("node {name} stays: {error}", name=name, error=error)

    def _failed(self, failure: Failure) -> None:
        if not isinstance(failure.value, LrmsUnavailable):
            self.log.failure("cannot look for jobs that were left alone", failure)

    def _done(self, _: object) -> None:
        self.busy = False
