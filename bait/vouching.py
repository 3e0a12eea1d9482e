"""The bait's word that the LRMS has a run in its VM, given as soon as that was seen (ADR 0008).

Without that word, and without an answer of the controller's machine, a host pauses its VMs. Leases of one bait share
their looks at the LRMS, so what one answer shows is told in one message.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from bait.lrms.base import JobState, JobView
from bait.rules.lease import Lease, Phase
from protocol.ids import LeaseId


@dataclass
class Vouching:
    """Memory only, for less than one turn of the reactor: a word is never older than the look it comes from."""

    clock: IReactorTime
    say: Callable[[tuple[LeaseId, ...]], None]
    _seen: dict[LeaseId, None] = field(default_factory=dict)

    def saw(self, lease: Lease, job: JobView | None) -> None:
        """The LRMS has just shown this of the lease's job."""
        if not _is_in_its_vm(lease, job):
            return
        if not self._seen:
            self.clock.callLater(0, self._tell)
        self._seen[lease.lease] = None

    def _tell(self) -> None:
        seen, self._seen = self._seen, {}
        self.say(tuple(seen))


def _is_in_its_vm(lease: Lease, job: JobView | None) -> bool:
    if lease.phase is not Phase.STARTED or job is None:
        return False
    return job.run == lease.target and job.state is JobState.RUNNING and job.node == lease.vm
