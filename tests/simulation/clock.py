"""Virtual time: one queue of calls for the whole cluster, and for each daemon a clock that can jump and die."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

T = TypeVar("T")

SLICES = 16
"""Of a second. A power of two, so that no rounding puts a call on the wrong side."""
AT_ONCE = 20_000
"""So many calls at one moment of time mean that something runs in circles."""


def at_once(answer: Coroutine[Any, Any, T]) -> T:
    """What a fake answers that takes none of the clock's time: without the Deferred of somebody who waits."""
    try:
        answer.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("it waits for something")


class Crash(BaseException):
    """The daemon is gone, here and now. Not an Exception: nothing may survive it."""


@implementer(IDelayedCall)
class Call:
    """One planned call. `due` is the cluster's own time, whatever its owner's clock says."""

    __slots__ = ("args", "called", "cancelled", "due", "func", "kw", "life", "world")

    def __init__(
        self, world: "World", life: "Life | None", due: float, func: Callable[..., Any],
        args: tuple[Any, ...], kw: dict[str, Any],
    ) -> None:  # fmt: skip
        self.world = world
        self.life = life
        self.due = due
        self.func = func
        self.args = args
        self.kw = kw
        self.called = False
        self.cancelled = False

    def active(self) -> bool:
        return not (self.called or self.cancelled or (self.life is not None and self.life.dead))

    def cancel(self) -> None:
        self._must_be_active()
        self.drop()

    def drop(self) -> None:
        """It will not be made, whoever planned it."""
        self.cancelled = True
        self.func, self.args, self.kw = _nothing, (), {}

    def reset(self, secondsFromNow: float) -> None:  # noqa: N803 - Twisted's name
        self._must_be_active()
        self._move(self.world.now + secondsFromNow)

    def delay(self, secondsLater: float) -> None:  # noqa: N803 - Twisted's name
        self._must_be_active()
        self._move(self.due + secondsLater)

    def getTime(self) -> float:
        return self.due if self.life is None else self.due + self.life.offset

    def _move(self, due: float) -> None:
        earlier = due < self.due
        self.due = due
        if earlier:  # a later one is put back when its old time comes
            self.world.push(self)

    def _must_be_active(self) -> None:
        if self.life is not None and self.life.dead:
            raise Crash(self.life.name)  # the rest of what was on the stack when it died
        if self.called:
            raise AlreadyCalled
        if self.cancelled:
            raise AlreadyCancelled


def _nothing() -> None:
    """What a call that is over holds instead of its function."""


def _place(entry: tuple[float, float, Call]) -> tuple[float, float]:
    return entry[:2]


@implementer(IReactorTime)
class World:
    """The cluster's time. Calls at the same moment are made in the order of their planning."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self.now = start
        self.calls = 0
        self._present: deque[Call] = deque()
        """What was planned for this very moment: a third of all calls, which no heap need put in order."""
        self._heap: list[tuple[float, int, Call]] = []
        """What is due before `_later` begins."""
        self._later: dict[int, list[Call]] = {}
        """What is due from some slice of time on, in the order of planning; it is put in order when its slice comes. A
        large site plans much, most of which never comes to pass."""
        self._slices: list[int] = []
        """A heap of these slices."""
        self._near = start
        self._order = itertools.count()
        self._burst = 0

    def seconds(self) -> float:
        return self.now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> Call:
        return self.plan(None, delay, callable, args, kw)

    def getDelayedCalls(self) -> list[Call]:
        return [call for _, _, call in self._all() if call.active()]

    def plan(
        self, life: "Life | None", delay: float, func: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]
    ) -> Call:
        call = Call(self, life, self.now + delay if delay > 0.0 else self.now, func, args, kw)
        self.push(call)
        return call

    def push(self, call: Call) -> None:
        due = call.due
        if due <= self.now:
            self._present.append(call)
            return
        if due < self._near:
            heapq.heappush(self._heap, (due, next(self._order), call))
            return
        part = int(due * SLICES)
        if part in self._later:
            self._later[part].append(call)
        else:
            self._later[part] = [call]
            heapq.heappush(self._slices, part)

    def _all(self) -> Iterator[tuple[float, float, Call]]:
        yield from ((self.now, math.inf, call) for call in self._present)
        yield from self._heap
        for calls in self._later.values():
            yield from ((call.due, place, call) for place, call in enumerate(calls))

    def _opens(self, until: float) -> bool:
        """Take the next slice that has something to do, if there is one by `until`."""
        if not self._slices or self._slices[0] > until * SLICES:
            return False
        part = heapq.heappop(self._slices)
        self._near = (part + 1) / SLICES
        heap, near, order = self._heap, self._near, self._order
        for call in self._later.pop(part):
            if call.active():
                if call.due < near:
                    heap.append((call.due, next(order), call))
                else:  # it was put back meanwhile
                    self.push(call)
        heapq.heapify(heap)
        return True

    def run(self, until: float, trouble: Sequence[object] = ()) -> None:
        """Make the calls that are due by `until`, and no more as soon as there is any trouble."""
        heap, present, take = self._heap, self._present, heapq.heappop
        while not trouble:
            if present and not (heap and heap[0][0] <= self.now):
                due, call = self.now, present.popleft()
            elif heap:
                due = heap[0][0]
                if due > until:
                    break
                call = take(heap)[2]
            elif self._opens(until):
                continue
            else:
                break
            life = call.life
            if call.called or call.cancelled or (life is not None and life.dead):
                continue
            if call.due > due:
                self.push(call)
                continue
            if due > self.now:
                self.now = due
                self._burst = 0
            self._burst += 1
            assert self._burst < AT_ONCE, "time stands still: something runs in circles"
            call.called = True
            self.calls += 1
            func, args, call.func, call.args = call.func, call.args, _nothing, ()  # who keeps the call keeps no more
            try:  # noqa: SIM105 - a context manager for each of millions of calls is felt
                func(*args, **call.kw)
            except Crash:
                pass
        if not trouble:
            self.now = max(self.now, until)

    def end(self) -> None:
        """Nothing planned will happen any more."""
        self._present.clear()
        self._heap.clear()
        self._later.clear()
        self._slices.clear()

    def shift(self, life: "Life", seconds: float) -> None:
        """The clock of that daemon jumps ahead by so much (back, if negative): its calls keep their time of day."""
        for call in self.of(life):
            call._move(max(self.now, call.due - seconds))

    def of(self, life: "Life") -> list[Call]:
        """That life's calls, once each, in the order of the queue."""
        return list(dict.fromkeys(c for _, _, c in sorted(self._all(), key=_place) if c.life is life and c.active()))


class Loop:
    """Stands where LoopingCall stands: the same beat, without three Deferreds for each of a million beats."""

    clock: "Life"

    def __init__(self, call: Callable[[], object]) -> None:
        self.running = False
        self._call = call
        self._next: Call | None = None
        self._ended: Deferred[None] = Deferred()

    def start(self, seconds: float, now: bool) -> "Deferred[None]":
        assert not now
        self.running = True
        self._seconds, self._since = seconds, self.clock.seconds()
        self._plan()
        return self._ended

    def stop(self) -> None:
        self.running = False
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _plan(self) -> None:
        left = self._seconds - (self.clock.seconds() - self._since) % self._seconds
        self._next = self.clock.callLater(left, self._beat)

    def _beat(self) -> None:
        try:
            self._call()
        except Exception:
            self.running = False
            self._ended.errback(Failure())  # type: ignore[no-untyped-call]
        if self.running:
            self._plan()


@implementer(IReactorTime)
class Life:
    """One life of one daemon: its clock, and the fuse that ends it at a chosen point."""

    def __init__(self, world: World, name: str, died: Callable[["Life"], None], offset: float = 0.0) -> None:
        self.world = world
        self.name = name
        self.offset = offset
        self.dead = False
        self.armed = False
        self.fuse: tuple[str, int] | None = None
        """(kind of point, how many of them to pass): the daemon dies at that point."""
        self.points: dict[str, int] = {}
        self._died = died
        self._calls: list[Call] = []

    def seconds(self) -> float:
        return self.world.now + self.offset

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> Call:
        world = self.world
        call = Call(world, self, world.now + delay if delay > 0.0 else world.now, callable, args, kw)
        world.push(call)
        if self.dead:
            call.drop()
        return call

    def getDelayedCalls(self) -> list[Call]:
        return self.world.of(self)

    def jump(self, seconds: float) -> None:
        """Somebody sets this machine's clock."""
        if seconds:
            self.offset += seconds
            self.world.shift(self, seconds)

    def point(self, kind: str) -> None:
        """A place where a daemon may die. A dead one gets no further than the next of them."""
        if self.dead:
            raise Crash(self.name)
        if not self.armed:
            return
        self.points[kind] = self.points.get(kind, 0) + 1
        if self.fuse is None or self.fuse[0] != kind:
            return
        if self.fuse[1] > 0:
            self.fuse = (kind, self.fuse[1] - 1)
            return
        self.fuse = None
        self._died(self)
        raise Crash(f"{self.name} at {kind}")

    def die(self) -> None:
        """Nothing planned will happen any more: `World.run` passes over what dead ones have planned."""
        self.dead = True

    # --- what protocol.link needs of a reactor; set by the network ---

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self.net.listen(self, interface, port, factory)

    net: Any = None
