"""Time in single steps, daemons that can die at any of them, and the link between the two as a queue of bytes."""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from protocol.messages import FromBait, FromHost

AT_ONCE = 500
"""So many calls at one moment of time mean that something runs in circles."""


class Crash(BaseException):
    """The daemon is gone, here and now. Not an Exception: nothing may survive it."""


class StepClock(Clock):
    """A Clock that makes one call at a time, so that whoever watches sees the world between any two of them."""

    def __init__(self) -> None:
        super().__init__()
        self._busy_since = (0.0, 0)

    def due(self) -> float | None:
        """When the next call is; None if there is none."""
        return min((call.getTime() for call in self.calls), default=None)

    def step(self) -> None:
        """Go to the next call and make it."""
        call = min(self.calls, key=DelayedCall.getTime)
        self.calls.remove(call)
        self.rightNow = max(self.rightNow, call.getTime())
        since, count = self._busy_since
        self._busy_since = (since, count + 1) if since == self.rightNow else (self.rightNow, 1)
        call.called = 1
        assert count < AT_ONCE, f"time stands still: {call}"
        call.func(*call.args, **call.kw)


@implementer(IReactorTime)
class MortalClock:
    """The time as one daemon sees it; what it has planned dies with it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[IDelayedCall] = []
        self.dead = False

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> IDelayedCall:
        planned = self._clock.callLater(delay, callable, *args, **kwargs)
        if self.dead:
            planned.cancel()
        else:
            self._calls = [known for known in self._calls if known.active()] + [planned]
        return planned

    def getDelayedCalls(self) -> list[IDelayedCall]:
        return [call for call in self._calls if call.active()]

    def die(self) -> None:
        """Nothing planned will happen any more."""
        self.dead = True
        for call in self.getDelayedCalls():
            call.cancel()


class Wire:
    """The link: what is sent arrives later, in order, encoded and decoded as on the real one.

    `twice`: every message arrives two times, as if the session did not drop repetitions.
    """

    def __init__(self, clock: Clock, to_host: Callable[[FromBait], None], to_bait: Callable[[FromHost], None]) -> None:
        self.clock = clock
        self.up = False
        self.session = False
        self.twice = False
        self.sent: list[str] = []
        """Kinds of all messages, for counting."""
        self._ways = {"host": _Way(FromBait, to_host), "bait": _Way(FromHost, to_bait)}

    def send(self, to: str, message: object) -> None:
        """Queue for that end; dropped if there is no session."""
        if not self.session:
            return
        self.sent.append(type(message).__name__)
        self._ways[to].queue.extend([msgspec.json.encode(message)] * (2 if self.twice else 1))
        self._plan(to)

    def connect(self) -> bool:
        """The link is there; True if the session goes on."""
        resumed, self.session, self.up = self.session, True, True
        for to in self._ways:
            self._plan(to)
        return resumed

    def cut(self, *, forget: bool) -> None:
        """The link is lost, and (forget) one end has forgotten the session, so that what waits is dropped."""
        self.up = False
        if forget:
            self.session = False
            for way in self._ways.values():
                way.queue.clear()

    def _plan(self, to: str) -> None:
        self.clock.callLater(0.001, self._deliver, to)

    def _deliver(self, to: str) -> None:
        way = self._ways[to]
        while self.up and way.queue:
            way.arrived(msgspec.json.decode(way.queue.popleft(), type=way.kind))


class _Way:
    def __init__(self, kind: Any, arrived: Callable[[Any], None]) -> None:
        self.kind = kind
        self.arrived = arrived
        self.queue: deque[bytes] = deque()
