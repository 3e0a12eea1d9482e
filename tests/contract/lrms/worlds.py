"""What the contract suite needs of a batch system beside its adapter: users, administrators, machines, time."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from twisted.internet.task import Clock

from bait.lrms.base import JobState, JobView, Lrms, NodeView
from protocol.ids import Run
from tests.fakes.lrms import FakeLrms

BAIT = "bait-h1"
VM = "vm-h1-1"
FEATURES = ("vwn", "debian12")


class World(Protocol):
    """One batch system with one bait, where the test decides what happens."""

    lrms: Lrms

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def submit(self, **wishes: Any) -> str:
        """A job of an ordinary user; keywords as in FakeLrms.submit."""

    async def exits(self, job: str, code: int) -> None:
        """The program that runs for the job now ends with this code."""

    def start_vm(self) -> None:
        """The node VM registers itself."""

    def stop_vm(self) -> None:
        """It is switched off."""

    def cancel(self, job: str) -> None: ...

    def release(self, job: str) -> None:
        """By the job's user."""

    def hold(self, job: str) -> None:
        """By the job's user."""

    def move(self, job: str, partition: str) -> None:
        """By an administrator, to another partition."""

    def require(self, job: str, nodes: str) -> None:
        """By an administrator: the job needs this node; none if empty."""

    def reserve(self, name: str) -> None:
        """By an administrator: a reservation of BAIT, for the user."""

    def drain(self, node: str, reason: str) -> None:
        """By a human."""

    def undrain(self, node: str) -> None: ...

    def told(self, job: str) -> str:
        """All that the job's user can read of us about his job."""

    def away(self) -> None:
        """The batch system stops answering."""

    def back(self) -> None: ...

    def restart(self) -> None:
        """The batch system stops and starts again; nothing is forgotten."""

    def now(self) -> float:
        """The world's time in seconds."""

    async def later(self, seconds: float) -> None:
        """Let time pass."""


class FakeWorld:
    """The fake, and a clock that moves when the test waits."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fake = FakeLrms(self.clock)
        self.lrms: Lrms = self.fake
        self.submit, self.cancel, self.release = self.fake.submit, self.fake.cancel, self.fake.release
        self.drain, self.undrain = self.fake.drain, self.fake.undrain

    async def open(self) -> None:
        self.fake.add_node(BAIT, features=FEATURES)
        self.fake.start()

    async def close(self) -> None:
        self.fake.stop()

    async def exits(self, job: str, code: int) -> None:
        self.fake.exits(job, code)

    def start_vm(self) -> None:
        self.fake.add_node(VM, vm=True, cpus=2, features=FEATURES)

    def stop_vm(self) -> None:
        self.fake.all_nodes[VM].up = False

    def hold(self, job: str) -> None:
        self.fake.hold(job)

    def move(self, job: str, partition: str) -> None:
        self.fake.all_jobs[job].partition = partition

    def require(self, job: str, nodes: str) -> None:
        self.fake.all_jobs[job].required_nodes = (nodes,) if nodes else ()

    def reserve(self, name: str) -> None:
        """The fake keeps no job away from a node for its sake."""

    def told(self, job: str) -> str:
        found = self.fake.all_jobs[job]
        return f"{found.comment} {found.told}"

    def away(self) -> None:
        self.fake.away = True

    def back(self) -> None:
        self.fake.away = False

    def restart(self) -> None:
        self.fake.up_since = self.clock.seconds()

    def now(self) -> float:
        return self.clock.seconds()

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)


async def until(world: World, what: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Wait until it is so; fails after so many seconds of the world's time."""
    passed = 0.0
    while not await what():
        assert passed < seconds, "did not happen"
        await world.later(0.1)
        passed += 0.1


async def node(world: World, name: str) -> NodeView:
    """A node that must be there."""
    view = await world.lrms.node(name)
    assert view is not None
    return view


async def seen(world: World, job: str, **facts: object) -> JobView:
    """The job, once all these fields of its view are as given."""
    last: list[JobView] = []

    async def so() -> bool:
        views = await world.lrms.jobs([job])
        last[:] = views.values()
        return bool(last) and all(getattr(last[0], name) == value for name, value in facts.items())

    try:
        await until(world, so)
    except AssertionError as error:
        raise AssertionError(f"{job} never was {facts}: {last}") from error
    return last[0]


async def intercepted(world: World, **wishes: Any) -> Run:
    """A job that a bait holds back now."""
    job = world.submit(**wishes)
    return (await seen(world, job, state=JobState.RUNNING, node=BAIT)).run


async def parked(world: World, **wishes: Any) -> Run:
    """A job that a bait has parked."""
    run = await intercepted(world, **wishes)
    await world.exits(run.job, 199)
    return (await seen(world, run.job, state=JobState.PENDING, held=True)).run
