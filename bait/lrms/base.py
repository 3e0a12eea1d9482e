"""What a bait needs of an LRMS: about a dozen verbs. docs/adding-an-lrms.md explains how to write an adapter."""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from protocol.ids import Run, Shape

NO_REQUEUE = "wnod:no-requeue"
"""How the note begins of a job whose user asked for no requeue, and that the site's submission hook or a bait made
requeueable: what befalls it before it starts is no reason to end it. The wish is put back once a run has started."""


OUR_NOTE = "wnod:lease="
"""How the note begins that a bait puts on a job before it parks or sends it (`bait.rules.note`)."""


class LrmsUnavailable(Exception):
    """The LRMS did not answer, not in time, or not understandably: nothing is known (R13)."""


class LrmsRefused(Exception):
    """The LRMS answered and said no; the text is the LRMS's own."""


class JobState(enum.StrEnum):
    """All that a decision needs of an LRMS's job states."""

    PENDING = "pending"
    RUNNING = "running"
    LEAVING = "leaving"  # still being cleaned up or requeued: wait
    ENDED = "ended"


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class JobView:
    """One job as the LRMS sees it now."""

    run: Run
    owner: int
    user: str
    state: JobState
    word: str
    """The LRMS's own word for the state, for people (COMPLETED, CANCELLED, ...)."""
    held: bool
    node: str | None
    """The node it runs on, if it runs."""
    partition: str
    account: str
    wishes: str
    """The user's environment wish as the LRMS stores it (Slurm: the features expression)."""
    cpus: int
    memory_mib: int | None
    disk_mib: int | None
    time_limit_s: int | None
    nodes: int
    batch: bool
    requeue: bool
    required_nodes: tuple[str, ...]
    note: str
    """Our own note on the job (Slurm: AdminComment)."""
    exit_code: int | None = None
    signal: int | None = None
    gave_back: bool = False
    """It waits because its last run ended with the code by which a starter hands a job back (Slurm: RequeueExit)."""
    reservation: str = ""
    """The reservation its user asked for. It is one of baits' nodes: no VM's node is in it."""


class NodeState(enum.StrEnum):
    """All that a decision needs of an LRMS's node states."""

    READY = "ready"
    BUSY = "busy"
    CLOSED_BY_US = "closed-by-us"
    CLOSED_BY_OTHERS = "closed-by-others"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as the LRMS sees it now."""

    name: str
    state: NodeState
    word: str
    reason: str = ""
    occupied: bool = False
    """Jobs are on it, be it that they are only being cleaned up; also true of a closed one."""


@dataclass(frozen=True, slots=True)
class Home:
    """What we change on a job and must be able to put back (R11)."""

    partition: str
    requeue: bool
    required_nodes: tuple[str, ...] = ()
    """The nodes its user asked for, as `JobView` showed them before it was sent."""
    vm: str = ""
    """The node that `send` names, if there was a VM: required nodes with it among them are ours, others are not."""
    reservation: str = ""
    """As `JobView` showed it before the job was sent."""


class Lrms(Protocol):
    """One LRMS. Every call may raise LrmsUnavailable; then look again, never guess. All verbs are idempotent.

    A job is named by `Run`: adapters build the LRMS's own form (Slurm: `A_T` for array tasks, never the raw id of
    an array) and touch only the run they were given: a job whose restart count differs is left alone (LrmsRefused).
    """

    async def jobs(self, ids: Collection[str]) -> Mapping[str, JobView]:
        """The jobs of these LRMS ids. A missing key is a fact: the LRMS does not know it (any more).
        Calls made in the same reactor turn share one query."""

    async def node(self, name: str) -> NodeView | None:
        """That node; None is a fact: the LRMS does not know it. Costs the same however many nodes there are."""

    async def up_for_s(self) -> float:
        """For how many seconds it has been up, by its own clock and within a second or two. What it did shortly before
        it came up it may have forgotten, until its nodes have told it (`bait.rules.grace`)."""

    async def waiting(self) -> Mapping[str, JobView]:
        """Jobs that may need a rescue, of every bait: parked ones, all that wait in the VMs' partition, and those that
        wait for a node with our note on them, wherever they have been moved. May hold others too."""

    async def dead_nodes(self) -> tuple[str, ...]:
        """Nodes of VMs that the LRMS cannot reach: of every bait, and none that the site itself configured."""

    async def make_requeueable(self, run: Run, note: str) -> None:
        """Put our note on the job, and let the LRMS requeue it though its user asked it not to. Empty note: whatever
        note there is stays."""

    async def send(self, run: Run, node: str, shape: Shape, note: str) -> None:
        """Target the parked job at the VM's node, then release it (retarget + release). It stays requeueable: a node
        that fails before the job has started must not end it. Its reservation, which let it onto the bait, is taken
        off: the VM's node is in none."""

    async def forbid_requeue(self, run: Run) -> None:
        """The user's wish for no requeue holds again, because his job has started."""

    async def give_back(self, run: Run, home: Home, note: str, delay_s: int = 0, told: str = "") -> None:
        """Undo all we did: its own required nodes and reservation, home partition (each unless somebody has changed it
        since), eligible in `delay_s` seconds, released if held by us (R11, R12). Ours is a hold that the LRMS set for
        an exit code or that `refuse` set, not a human's. At home, where baits are, it stays requeueable, and the note
        says what its user wished; elsewhere the wish holds again. If the LRMS does not know its own nodes or its
        reservation any more, it may run on any, and the note says so: it must not be stuck on a VM's node. `told`:
        for its user, as by `tell`; empty: what he was told stays."""

    async def refuse(self, run: Run, home: Home, text: str) -> None:
        """Leave the job held such that its user sees `text`, can change the job and can release it himself. What we
        did to it is undone as by `give_back`."""

    async def tell(self, run: Run, text: str) -> None:
        """Show the user why the job waits (Slurm: Comment). Best effort."""

    async def close_node(self, node: str, reason: str) -> None:
        """No more jobs for the bait. The reason starts with `wnod:`; a node a human closed is left alone."""

    async def open_node(self, node: str) -> None:
        """Undo our own close; a node a human closed is left alone."""

    async def fail_node(self, node: str, reason: str) -> None:
        """Tell the LRMS that a VM's node is dead, so that it sees to its job now and not after its own time-out.
        Only ever called for a VM that is positively gone, be it that another has its slot and name. A node the LRMS
        does not know is a success."""

    async def remove_node(self, node: str) -> None:
        """Forget a VM's node; one already gone is a success. LrmsRefused while a job is on it or waits for it: an LRMS
        that starts anew may end a job that waits for a node it does not know."""
