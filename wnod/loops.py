"""What a daemon does from time to time, and the end of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure


@dataclass
class Loops:
    """All loops of one life. `broken` hears of a loop that has failed, and has ended."""

    clock: Any
    broken: Callable[[Failure], None]
    _running: list[LoopingCall] = field(default_factory=list)

    def every(self, seconds: float, call: Callable[[], Any]) -> None:
        """Do it again and again, the first time after `seconds`, until `halt`."""
        loop = LoopingCall(call)
        loop.clock = self.clock
        loop.start(seconds, now=False).addErrback(self.broken)
        self._running.append(loop)

    def halt(self) -> None:
        """Nothing is begun any more. Idempotent."""
        for loop in self._running:
            if loop.running:
                loop.stop()
