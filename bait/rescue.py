"""Gives back what a bait that does not come back has left in the queue, parked or waiting for a dead VM (R12).

Every bait does it for the whole cluster, because the bait whose job it is may be gone with its host. It needs no
journal: the note on the job says whose it is, where it belongs and until when its bait will have acted.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from bait import note
from bait.follower import Follower
from bait.lrms.base import JobState, JobView, Lrms, LrmsRefused, LrmsUnavailable
from bait.note import Note

LOOK_EVERY_S = 120.0


def orphans(jobs: Iterable[JobView], mine: Collection[str], now: float) -> list[tuple[JobView, Note]]:
    """The jobs that wait, held or for a VM, whose bait has not acted in time; `mine`: leases that this bait has."""
    found = []
    for job in jobs:
        ours = note.read(job.note)
        if ours is None or ours.lease in mine or now <= ours.until:
            continue
        if job.state is JobState.PENDING and (job.held or job.required_nodes):
            found.append((job, ours))
    return found


@dataclass
class Rescue:
    """Looks every LOOK_EVERY_S. Two baits that do it at once do it once: a job given back carries another note."""

    clock: IReactorTime
    lrms: Lrms
    follower: Follower
    busy: bool = False
    log: Logger = field(default_factory=lambda: Logger("bait.rescue"))

    def look(self) -> None:
        """Give back what is to be given back."""
        if not self.busy:
            self.busy = True
            Deferred.fromCoroutine(self._look()).addErrback(self._failed).addBoth(self._done)

    async def _look(self) -> None:
        jobs = (await self.lrms.waiting()).values()
        for job, ours in orphans(jobs, self.follower.leases, self.clock.seconds()):
            text = f"wnod: given back: {ours.bait or 'its bait'} did not go on with it"
            self.log.warn("{run}: {text}", run=str(job.run), text=text, lease=ours.lease)
            try:
                await self.lrms.give_back(job.run, ours.home, text)
            except LrmsRefused as error:
                self.log.info("{run}: no rescue: {error}", run=str(job.run), error=error)

    def _failed(self, failure: Failure) -> None:
        if not isinstance(failure.value, LrmsUnavailable):
            self.log.failure("cannot look for jobs that were left alone", failure)

    def _done(self, _: object) -> None:
        self.busy = False
