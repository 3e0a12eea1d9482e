"""What a bait writes down of one run of one job, and what it can see of it. Types only; `bait.rules.job` decides."""

import enum
from dataclasses import dataclass

import msgspec

from bait.lrms.base import Home, JobView
from protocol.ids import BootId, EnvironmentName, Generation, LeaseId, Run, Shape, VmName
from protocol.messages import Code, VmPhase


class Phase(enum.StrEnum):
    """Where a lease stands. The words of `wnod jobs` and of the metrics."""

    REQUESTED = "requested"
    PARKING = "parking"
    PARKED = "parked"
    RELEASED = "released"
    STARTED = "started"
    RETURNING = "returning"
    REFUSING = "refusing"
    ENDED = "ended"


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this bait intends for one run. Times are seconds since 1970."""

    lease: LeaseId
    run: Run
    """The run the starter caught; `run.next()` is the one that may start in the VM."""
    owner: int
    user: str
    environment: EnvironmentName
    shape: Shape
    partition: str
    requeue: bool
    required_nodes: tuple[str, ...] = ()
    reservation: str = ""
    """The job's home, put back when it is given back (R11)."""
    phase: Phase
    since: float
    vm: VmName | None = None
    generation: Generation | None = None
    text: str = ""
    """Why the job waits, comes back or is refused: shown to its user."""
    delay_s: int = 0
    """How long a job that is given back waits in the queue."""
    marked: bool = False
    """Our note is on the job: from now on it can be parked, because others can give it back (R12)."""
    told: bool = False
    failed_node: bool = False
    failed: bool = False
    """The VM was to blame for the job's return to the queue."""
    refused_at: float | None = None
    """When the LRMS first refused to have the job sent to its VM."""
    stages: dict[str, float] = {}
    """Stage name to the time it was reached."""

    @property
    def home(self) -> Home:
        """What `give_back` must restore."""
        return Home(self.partition, self.requeue, self.required_nodes, self.vm or "", self.reservation)

    @property
    def target(self) -> Run:
        """The run that may start in the VM."""
        return self.run.next()


@dataclass(frozen=True, slots=True)
class Denial:
    """The host's no."""

    code: Code
    text: str
    permanent: bool
    retry_after_s: float | None


@dataclass(slots=True)  # not frozen: two are made for each job, and making a frozen one takes three times as long
class VmView:
    """A lease's VM as the host has told of it. Nobody changes one."""

    generation: Generation
    vm: VmName
    phase: VmPhase
    run: Run
    bound: bool = False
    boot_id: BootId | None = None


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class Facts:
    """What is seen now. Nobody changes one."""

    now: float
    known: bool
    """False: the LRMS could not be asked, `job` and `node` mean nothing."""
    job: JobView | None
    bait: str
    """The name of this bait's own node."""
    hook: bool
    """The starter of `Lease.run` waits for its answer."""
    linked: bool
    asking: bool
    """A request of this lease waits for the host's answer in this conversation."""
    host_known: bool
    """True if `vm` is the host's word of this conversation; None of it then means there is no such VM."""
    vm: VmView | None
    last: VmView | None = None
    """Its VM as the host told of it last, also if that VM is gone since."""
    denied: Denial | None = None
    lost: str = ""
    """Why the host says the VM is gone; empty if it does not say so."""
    ended: bool = False
    """The guest has said that the run that may start in the VM has ended; true of a VM that is gone since, too."""
    node: bool = False
    """The LRMS knows a node of the VM's name."""
    node_ready: bool = False
    """That node has registered and can take the job."""
    node_busy: bool = False
    """In the eyes of the LRMS that node has a job."""
    leaving_since: float | None = None
    """Since when the LRMS has been seen to clean up after the job's run."""
    up_for_s: float | None = None
    """For how long the LRMS had been up when it last said so, after the run was caught; None: it has not."""
    failures: int = 0
    """How many VMs of this job have failed before, as far as this bait remembers."""


@dataclass(frozen=True, slots=True)
class Times:
    """Limits in seconds."""

    answer_s: float = 10.0
    """How long a job may wait at the bait for the host's yes or no."""
    register_s: float = 60.0
    """How long a ready VM may take to become a node of the LRMS."""
    stale_s: float = 15.0
    """How long the LRMS may show a job on the node of a ready VM that nobody was sent to."""
    silence_s: float = 120.0
    """How long a parked job waits for a host that does not answer."""
    ended_s: float = 15.0
    """How long a guest that its host hears may take to say that a run has ended."""
    refused_s: float = 10.0
    """How long sending a job is tried that the LRMS refuses to have sent: its user may hold it."""
    start_s: float = 120.0
    """How long a job that was sent to its VM may stay in the queue."""
    soon_s: float = 0.1
    hasty_s: float = 2.0
    """For so long it is looked every `soon_s` for what is usually done in a moment; from then on every `poll_s`."""
    poll_s: float = 1.0
    running_s: float = 6.0
    """How often the LRMS is asked about a job in a VM whose guest is heard, which tells by itself when it ends. Half as
    much again may pass between two looks, which must be less than a requeued job waits in the queue: 10 s."""
    retry_s: float = 15.0
    """How long a job stays away after its VM failed; doubles with each failure of the same job."""
    longest_retry_s: float = 600.0
    restart_grace_s: float = 45.0
    """How long the LRMS must have been up before a job is sent that it started so lately (`bait.rules.grace`)."""
    longest_refused_s: float = 10.0
    """The longest pause between two tries of what the LRMS refuses to do for a lease that is over."""


class Deed(enum.StrEnum):
    """What may be done to the world. Each is idempotent; `done` says what its success means for the record."""

    ASK = "ask"
    BIND = "bind"
    MAKE_REQUEUEABLE = "make-requeueable"
    """... and put our note on it."""
    SAY_PARK = "say-park"
    SAY_BACK = "say-back"
    TELL = "tell"
    SEND = "send"
    FORBID_REQUEUE = "forbid-requeue"
    """The user's wish for no requeue holds again: his run has started."""
    GIVE_BACK = "give-back"
    REFUSE = "refuse"
    FAIL_NODE = "fail-node"
    REMOVE_NODE = "remove-node"
    RELEASE_VM = "release-vm"
    FORGET = "forget"


@dataclass(slots=True)  # not frozen: one is made at every look, and making a frozen one takes three times as long
class Step:
    """The record to journal, the deed to do after that, and in how many seconds to look again."""

    lease: Lease
    deed: Deed | None = None
    wake_s: float | None = None
