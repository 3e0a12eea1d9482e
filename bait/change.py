"""One change of a lease's record, in the journal and in memory. A `wnod.commits.Write`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bait.rules.lease import Lease
from wnod.crashpoint import crash_point

if TYPE_CHECKING:
    from bait.follower import Follower

KIND = "lease"


@dataclass(slots=True)
class Change:
    """A lease's record takes the place of `before`, unless that is not the record any more."""

    follower: "Follower"
    before: Lease | None
    lease: Lease
    only: bool = False
    """A first record (`before` None) is written only if its run has no other."""
    kick: bool = True
    """See to what follows."""
    written: bool = False

    def begin(self) -> None:
        """See wnod.commits.Write."""
        crash_point(f"bait.commit.{self.lease.phase}.before")

    def put(self) -> None:
        """See wnod.commits.Write."""
        follower, lease = self.follower, self.lease
        first = self.before is None and self.only
        if follower.leases.get(lease.lease) is not self.before or (first and follower.of_run(lease.run)):
            return
        follower.journal.put(KIND, lease.lease, lease)
        if self.before is None or self.before.phase is not lease.phase:
            follower.journal.history(KIND, lease.run.job, _line(lease), follower.clock.seconds())
        follower.leases[lease.lease] = lease
        self.written = True

    def undo(self) -> None:
        """See wnod.commits.Write."""
        if self.written and self.before is not None:
            self.follower.leases[self.lease.lease] = self.before
        elif self.written:
            del self.follower.leases[self.lease.lease]
        self.written = False

    def done(self) -> None:
        """See wnod.commits.Write."""
        if self.written:
            crash_point(f"bait.commit.{self.lease.phase}.after")
            self.follower.observer.changed(self.before, self.lease)
        if self.written and self.kick:
            self.follower.duties.kick(self.lease.lease)


def _line(lease: Lease) -> str:
    words = [str(lease.run), lease.phase]
    if lease.vm is not None:
        words.append(f"VM {lease.vm} generation {lease.generation}")
    if lease.text:
        words.append(f"({lease.text})")
    return " ".join(words)
