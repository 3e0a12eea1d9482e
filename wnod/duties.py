"""Runs the deeds: one at a time per key, again until nothing is left to do, never losing a failure.

`kick(key)` says "something about this key may have changed". The `step` coroutine then looks at the world,
decides, journals and performs a deed; its answer says whether to go on at once, when to look again, or that all
is well. Kicks that arrive meanwhile are not lost and not doubled. A step that fails is tried again
with back-off: an exception is a missing fact, never a reason to drop the key.
"""

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0


class Now(enum.Enum):
    """What a step wants next, when that is not a time."""

    AGAIN = "again"
    REST = "rest"


Next = Now | float
"""AGAIN: step once more at once. REST: until kicked. A number: seconds until the next look."""


@dataclass(slots=True)
class _Duty:
    begun: bool = False
    """A step is under way, from before its first line on: what that kicks must not begin another beside it."""
    running: "Deferred[None] | None" = None
    """To cancel it by."""
    queued: bool = False
    """It is among those that the next sweep begins."""
    kicked: bool = False
    """While it ran: it has to run once more."""
    failures: int = 0
    timer: IDelayedCall | None = None


@dataclass
class Duties:
    """All keys of one kind. `step(key)` must be safe to run at any time, any number of times."""

    clock: IReactorTime
    step: Callable[[str], Awaitable[Next]]
    name: str
    failed: Callable[[str, BaseException], None] = lambda key, error: None
    log: Logger = field(default_factory=lambda: Logger("wnod.duties"))
    _duties: dict[str, _Duty] = field(default_factory=dict)
    _due: list[str] = field(default_factory=list)
    _planned: IDelayedCall | None = None
    _stopping: bool = False

    def kick(self, key: str) -> None:
        """See to this key as soon as possible."""
        if self._stopping:
            return
        duty = self._duties.get(key)
        if duty is None:
            duty = self._duties[key] = _Duty()
        self._disarm(duty)
        if duty.begun:
            duty.kicked = True
        elif not duty.queued:
            # Through the clock, never directly: a kick from inside another step must not nest. One call for all.
            if not self._due:
                self._planned = self.clock.callLater(0, self._sweep)
            self._due.append(key)
            duty.queued = True

    def busy(self) -> bool:
        """True while a step is under way or about to be."""
        return any(d.begun or d.queued or d.kicked for d in self._duties.values())

    async def stop(self) -> None:
        """Start nothing more; cancel what runs and return when all have ended."""
        self._stopping = True
        if self._planned is not None and self._planned.active():
            self._planned.cancel()
        running = []
        for duty in tuple(self._duties.values()):
            self._disarm(duty)
            if duty.running is not None:
                running.append(duty.running)
                duty.running.cancel()
        await DeferredList(running, consumeErrors=True)

    def _sweep(self) -> None:
        due, self._due = self._due, []
        for key in due:
            if not self._stopping:  # one of them may have ended the daemon
                self._begin(key)

    def _begin(self, key: str) -> None:
        duty = self._duties[key]
        duty.timer = None
        duty.queued = duty.kicked = False
        duty.begun = True
        duty.running = Deferred.fromCoroutine(self._once(key, duty))
        duty.running.addBoth(self._ended, key, duty)

    async def _once(self, key: str, duty: _Duty) -> None:
        try:
            wanted = await self.step(key)
        except CancelledError:
            raise
        except Exception as error:
            duty.failures += 1
            self.log.failure("{name} {key}: step failed, will try again", name=self.name, key=key)
            self.failed(key, error)
            self._arm(key, duty, min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** (duty.failures - 1)))
            return
        duty.failures = 0
        if wanted is Now.AGAIN:
            duty.kicked = True
        elif wanted is Now.REST:
            pass
        else:
            self._arm(key, duty, wanted)

    def _ended(self, _: object, key: str, duty: _Duty) -> None:
        duty.begun, duty.running = False, None
        if duty.kicked and not self._stopping:
            duty.kicked = False
            self.kick(key)
        elif duty.timer is None and not duty.queued:
            self._duties.pop(key, None)

    def _arm(self, key: str, duty: _Duty, delay_s: float) -> None:
        if not self._stopping:
            self._disarm(duty)
            duty.timer = self.clock.callLater(max(0.0, delay_s), self._begin, key)

    @staticmethod
    def _disarm(duty: _Duty) -> None:
        if duty.timer is not None and duty.timer.active():
            duty.timer.cancel()
        duty.timer = None
