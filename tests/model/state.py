"""What the model's world is made of: one job, its LRMS, and hosts with a bait, a hostmaster and VMs. Values only."""

from typing import NamedTuple


class Job(NamedTuple):
    """The LRMS's record of the one job. `where`: -1 nowhere, else the host; `vm`: it runs in a VM there."""

    state: str = "pending"  # running, done
    restart: int = 0
    where: int = -1
    slot: int = -1
    """Slot of the VM it runs in; -1: at the bait."""
    held: bool = False
    target: tuple[int, int] | None = None
    """Host and slot whose node it must run on."""
    note: int = 0
    """The lease that our note on the job names; 0: none."""


class Starter(NamedTuple):
    """The job starter at a bait; `word`: what it was told."""

    restart: int
    word: str = ""


class Lease(NamedTuple):
    """A bait's record, without what no decision here depends on."""

    id: int
    restart: int
    phase: str
    slot: int = -1
    generation: int = 0
    told: bool = False
    marked: bool = False
    failed_node: bool = False
    refused: bool = False
    ready: bool = False


class View(NamedTuple):
    """What the bait has heard of one lease's VM."""

    lease: int
    word: str  # vm, lost, denied, released
    generation: int = 0
    slot: int = -1
    phase: str = ""
    bound: bool = False


class Vm(NamedTuple):
    """A hostmaster's record."""

    generation: int
    slot: int
    lease: int
    asked: int
    bound: int = -1
    phase: str = "reserved"
    booted: bool = False
    tries: int = 0
    released: bool = False
    fenced: bool = False
    found: bool = False
    """It was found paused: nobody knows since when."""
    spare: bool = False
    """It was one before the lease took it."""
    labelled: bool = True


class Domain(NamedTuple):
    """A VM that exists. `lease` -1: a spare's. `launch`: a run whose start is asked for; `told`: the gate said yes;
    `run`: user code."""

    generation: int
    slot: int
    lease: int
    asked: int
    ready: bool = False
    paused: bool = False
    launch: int = -1
    told: bool = False
    run: int = -1
    marker: int = -1
    """The guest's own mark of the last run that started in this boot: none starts twice."""


class Deed(NamedTuple):
    """What a bait has decided and not done yet: a crash, or anybody, may come in between."""

    lease: int
    deed: str
    restart: int
    """Of the run it was decided about: the LRMS refuses it for any other."""
    half: bool = False
    """The first of its two commands is through."""


class Host(NamedTuple):
    """One physical host: bait and hostmaster, each with its journal, and what exists."""

    starter: Starter | None = None
    leases: tuple[Lease, ...] = ()
    views: tuple[View, ...] = ()
    heard: bool = False
    deed: Deed | None = None
    dead: bool = False
    """The bait daemon never comes back."""
    bait_down: bool = False
    host_down: bool = False
    linked: bool = True
    vms: tuple[Vm, ...] = ()
    domains: tuple[Domain, ...] = ()
    nodes: tuple[tuple[int, int, bool], ...] = ()
    """What the LRMS knows: slot, generation that registered, up."""
    given: int = 0
    """Generations given so far, as the hostmaster knows."""
    most: int = 0
    """The same, in truth."""
    away: bool = False
    """libvirt does not answer."""
    cut: bool = False
    """Out of contact with the LRMS."""
    long: bool = False
    """The last silence was long."""


class World(NamedTuple):
    """Everything, and what happened so far as far as the promise counts it."""

    job: Job
    hosts: tuple[Host, ...]
    leases: int = 0
    ran: bool = False
    starts: int = 0
    """Starts of user code, less the failures after a start; the promise is: at most 1."""
    faults: int = 0
    forgot: bool = False
    """The LRMS has lost its last change."""
    cancelled: bool = False
    before: Job | None = None
    """The job one change ago: what an LRMS that lost its last seconds believes."""
    echo: tuple[int, int, int] | None = None
    """A Release that may arrive once more: host, lease, generation."""
    wrong: str = ""
    """A rule broken on the way here."""


def initial(hosts: int = 1, remember: bool = False) -> World:
    """A job in the queue, everybody there. `remember` the LRMS's last change, so that it can be lost."""
    return World(Job(), tuple(Host(heard=True) for _ in range(hosts)), before=Job() if remember else None)
