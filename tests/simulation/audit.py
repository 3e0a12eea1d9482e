"""What the daemons of one host write, say and touch: checked at every record, message and deed.

I8 a message that comes twice changes nothing and is answered alike; I11 what a daemon finds on its disk is what its
last life has written; I13 a daemon acts only on what is its own; I14 every change of state is in the history, with its
cause.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bait.rules import note
from bait.rules.lease import Lease, Phase
from hostmaster.rules.lifecycle import Vm
from protocol.messages import VmPhase
from tests.simulation.journal import Change
from wnod.journal import Journal

if TYPE_CHECKING:
    from tests.simulation.site import Site

TWICE = 0.125
"""So many of the messages come twice."""
RECORDS: dict[str, tuple[str, type[Any]]] = {"host": ("vm", Vm), "bait": ("lease", Lease)}
CAUSED = frozenset({Phase.RETURNING, Phase.REFUSING, Phase.ENDED, VmPhase.DESTROYING, VmPhase.GONE})
"""Phases that need a reason."""
OWN_JOB = frozenset({"make requeueable", "send", "forbid requeue", "refuse", "give back"})


class Audit:
    """Of one host and its bait."""

    def __init__(self, site: "Site") -> None:
        self.site = site
        self.judge = site.cluster.judge
        self.disk: dict[str, dict[str, Any] | None] = {"host": {}, "bait": {}}
        """What must be on their disks, by the records' keys; None: nobody knows."""
        self._rng = site.cluster.rng("audit", site.host_name)
        self._said: list[Any] | None = None

    # --- I11, I14: what is written ---

    def found(self, who: str, journal: Journal) -> None:
        """A new life has opened that disk."""
        kind, type_ = RECORDS[who]
        there: dict[str, Any] = journal.load(kind, type_)
        known = self.disk[who]
        if known is not None:
            other = [key for key in {**there, **known} if there.get(key) != known.get(key)]
            self.judge.require(not other, "I11", "", f"{journal.path}: other than it was written: {other}")
        self.disk[who] = there

    def committed(self, who: str, changes: list[Change]) -> None:
        """All this is on that disk, at once."""
        known = self.disk[who]
        if known is None:
            return
        lines = [change.line for change in changes if change.line]
        for change in changes:
            if change.kind != RECORDS[who][0] or change.line:
                continue
            before = known.get(change.key)
            if change.record is None:
                known.pop(change.key, None)
                continue
            known[change.key] = change.record
            if before is None or before.phase is not change.record.phase:
                self._is_told(change.record, lines)

    def _is_told(self, record: Any, lines: list[str]) -> None:
        subject = record.key if isinstance(record, Vm) else str(record.run)
        cause = record.text if record.phase in CAUSED else "-"
        told = any(subject in line and record.phase in line and (cause == "-" or cause in line) for line in lines)
        text = f"{subject} is {record.phase}, which the history does not tell, or not why: {lines}"
        self.judge.require(told and bool(cause), "I14", "", text)

    def told(self, who: str, record: Any) -> None:
        """A daemon acts on a record: it must be on the disk (R1)."""
        known = self.disk[who]
        key = str(record.generation if who == "host" else record.lease)
        if known is not None:
            self.judge.require(known.get(key) == record, "R1", "", f"{who}: {key} {record.phase} is not on the disk")

    # --- I13: what is touched ---

    def touches(self, verb: str, subject: str, now: float) -> None:
        """The bait asks the batch system to change a node or a job."""
        if verb in OWN_JOB:
            self._touches_job(verb, subject, now)
        elif verb in {"close", "open"}:
            self.judge.require(subject == self.site.bait_name, "I13", "", f"{self.site.bait_name}: {verb} {subject}")
        else:  # of another host's VMs the rescue removes nodes that are down
            node = self.site.cluster.lrms.all_nodes.get(subject)
            down = verb == "remove node" and (node is None or not node.up)
            mine = subject in {slot.name for slot in self.site.config.slots}
            self.judge.require(mine or down, "I13", "", f"{self.site.bait_name}: {verb} {subject}")

    def _touches_job(self, verb: str, job_id: str, now: float) -> None:
        bait, job = self.site.bait, self.site.cluster.lrms.all_jobs.get(job_id)
        if bait is None or job is None or any(x.run.key == job_id for x in bait.follower.leases.values()):
            return
        written = note.read(job.note)
        # Others may have written a new note since this bait looked; what it wrote itself and has lost is its own.
        mine = written is None or now > written.until or written.bait == self.site.bait_name
        left_alone = verb == "give back" and (mine or "given back" in job.note)
        self.judge.require(left_alone, "I13", job_id, f"{self.site.bait_name}: {verb}, though it has no lease of it")

    # --- I8: what is said ---

    def hears(self, listener: Any, records: Callable[[], dict[Any, Any]]) -> None:
        """From now on some of what that daemon hears comes twice."""
        real = listener.received

        def received(peer: str, message: Any) -> None:
            answers = self._answers(real, peer, message)
            if self._rng.random() < TWICE:
                before = dict(records())
                again = self._answers(real, peer, message)
                what = f"{peer}: {type(message).__name__} comes twice"
                self.judge.require(before == records(), "I8", "", f"{what} and changes something")
                self.judge.require(answers == again, "I8", "", f"{what} and is answered {again}, not {answers}")

        listener.received = received

    def _answers(self, real: Callable[[str, Any], None], peer: str, message: Any) -> list[Any]:
        self._said = []
        real(peer, message)
        said, self._said = self._said, None
        asked = getattr(message, "id", None)
        return [answer for answer in said if asked is not None and getattr(answer, "id", None) == asked]

    def said(self, message: Any) -> None:
        """A daemon of this host says something."""
        if self._said is not None:
            self._said.append(message)
