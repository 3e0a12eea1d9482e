"""A bait without its link and its sockets, over the LRMS in memory; the test plays the host and the starters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bait.follower import Follower
from bait.hookserver import Answer, HookCall
from bait.interception import Interception
from bait.rules.hostview import HostView
from bait.rules.lease import Lease, Times
from protocol.ids import Generation, RequestId
from protocol.messages import (
    Bind,
    Bound,
    Finished,
    FromBait,
    FromHost,
    Granted,
    HostInventory,
    Release,
    Released,
    RequestVm,
    Started,
    VmPhase,
    VmReady,
    VmStatus,
)
from tests.fakes.lrms import FakeLrms
from tests.fakes.wire import MortalClock
from tests.unit.bait.records import BAIT, BOOT, VM, a_capacity
from wnod.config import Rule
from wnod.journal import Journal

M = TypeVar("M")
OWNER = 1000


class BaitCase:
    """One life of a bait; `sent` is what it asked of its host."""

    def __init__(self, path: Path, clock: Clock, lrms: FakeLrms, ids: list[int], rules: tuple[Rule, ...] = ()) -> None:
        self.clock, self.lrms, self.ids = clock, lrms, ids
        self.mortal = MortalClock(clock)
        self.journal = Journal(str(path), "bait", BAIT)
        self.view = HostView()
        self.sent: list[FromBait] = []
        self.over: list[Lease] = []
        self.follower = Follower(
            clock=self.mortal, bait=BAIT, journal=self.journal, lrms=lrms, view=self.view, times=Times(),
            new_id=self._id, observer=self,
        )  # fmt: skip
        self.follower.link = self
        self.interception = Interception(self.mortal, "fake", BAIT, lrms, self.follower, rules, self._id)
        self.follower.load()

    def _id(self) -> str:
        self.ids.append(len(self.ids) + 1)
        return f"{self.ids[-1]:032x}"

    # --- edges ---

    def send(self, message: FromBait) -> None:
        self.sent.append(message)

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """Nobody counts here."""

    def forgotten(self, lease: Lease) -> None:
        self.over.append(lease)

    # --- for tests ---

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass in small steps."""
        for _ in range(20):
            self.clock.advance(0)
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)

    def link(self, *messages: FromHost) -> None:
        """The host is there, and says so."""
        self.view.connected(False)
        for message in messages or (a_capacity(), HostInventory(vms=(), complete=True)):
            self.hear(message)

    def hear(self, message: FromHost) -> None:
        """One message of the host, as `bait.daemon` takes it."""
        lease = self.follower.leases.get(getattr(message, "lease", ""))  # type: ignore[arg-type]
        for touched in self.view.heard(message, lease.target if lease is not None else None):
            self.follower.kick(touched)
        self.run()

    def hear_status(self, *vms: VmStatus) -> None:
        """The host's whole inventory."""
        self.hear(HostInventory(vms=vms, complete=True))

    def take(self, kind: type[M]) -> M:
        """The last message sent, which is of that kind."""
        message, self.sent = self.sent[-1], []
        assert isinstance(message, kind), message
        return message

    def start(self, of: str, uid: int = OWNER, **claim: Any) -> tuple[HookCall, list[Answer]]:
        """The job runs at the bait and its starter asks; the answers it gets."""
        run = self.lrms.all_jobs[of].run
        call = HookCall(**{"job": run.job, "task": run.task, "restart": run.restart, "uid": uid, **claim})
        answers: list[Answer] = []
        Deferred.fromCoroutine(self.interception.intercepted(call)).addCallback(answers.append)
        self.run()
        return call, answers

    def intercepted(self, **wishes: Any) -> tuple[str, list[Answer]]:
        """A new job that has just come to the bait."""
        job = self.lrms.submit(owner=OWNER, **wishes)
        self.lrms.tick()
        return job, self.start(job)[1]

    def grant(self) -> None:
        """The host grants and binds what it is asked for."""
        ask = self.take(RequestVm)
        self.hear(Granted(id=ask.id, lease=ask.lease, generation=Generation(1), vm=VM, ttl_s=90.0))
        bind = self.take(Bind)
        self.hear(Bound(id=bind.id, lease=bind.lease, generation=bind.generation, run=bind.run))

    def ready(self) -> None:
        """The VM is a node."""
        self.lrms.add_node(VM, vm=True)
        self.hear(VmReady(lease=self.lease.lease, generation=Generation(1), vm=VM, boot_id=BOOT))  # type: ignore[arg-type]

    def started(self) -> None:
        """The gate lets the run start."""
        run = self.lease.target
        self.hear(Started(lease=self.lease.lease, generation=Generation(1), run=run, boot_id=BOOT))  # type: ignore[arg-type]

    def finished(self, status: int = 0) -> None:
        """The guest has said that the run is over."""
        lease = self.lease
        self.hear(Finished(lease=lease.lease, generation=Generation(1), run=lease.target, status=status))

    def released(self) -> None:
        """The host confirms the release it was asked for."""
        release = self.take(Release)
        self.hear(Released(id=RequestId(release.id), lease=release.lease))

    @property
    def lease(self) -> Lease:
        """The only lease."""
        (lease,) = self.follower.leases.values()
        return lease


@contextmanager
def bait_case(path: Path, rules: tuple[Rule, ...] = ()) -> Iterator[BaitCase]:
    """A bait that has just started, its host there, at time 100."""
    clock = Clock()
    clock.advance(100)
    lrms = FakeLrms(clock)
    lrms.add_node(BAIT, cpus=16)
    case = BaitCase(path, clock, lrms, [], rules)
    case.link()
    yield case
    case.journal.close()


def a_status(lease: Lease, **changes: Any) -> VmStatus:
    """The VM of that lease as the host's inventory shows it."""
    status = VmStatus(
        lease=lease.lease, generation=Generation(1), vm=VM, phase=VmPhase.BOOTING, owner=OWNER,
        environment=lease.environment, shape=lease.shape, run=lease.target,
    )  # fmt: skip
    return replace(status, **changes)


def again(case: BaitCase) -> BaitCase:
    """The daemon dies and starts again over the same disk, LRMS and clock. Its host is not there yet."""
    case.journal.close()
    case.mortal.die()
    return BaitCase(Path(case.journal.path), case.clock, case.lrms, case.ids)
