"""Runs an LRMS's own commands: argument lists, a fixed environment, a time limit, bounded output."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from bait.lrms.base import LrmsUnavailable

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_LIMIT = 64 * 1024 * 1024
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished command left. Bytes that are not UTF-8 read as U+FFFD."""

    code: int
    """Exit code; minus the signal's number if a signal ended it."""
    out: str
    err: str


class Commands:
    """Runs commands found in one directory (or on the system's PATH), at most four at a time.

    `timeout_s` counts from the start of each process; `environment` is added to PATH and LANG, and nothing of the
    daemon's own environment is passed on.
    """

    def __init__(
        self, reactor: Any, timeout_s: float, directory: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        path = SYSTEM_PATH if directory is None else f"{directory}:{SYSTEM_PATH}"
        self._reactor = reactor
        self._timeout_s = timeout_s
        self._directory = directory
        self._environment = {"PATH": path, "LANG": "C.UTF-8", "TZ": "UTC", **(environment or {})}
        self._places = DeferredSemaphore(AT_ONCE)

    async def run(self, argv: Sequence[str]) -> Output:
        """Run to the end. LrmsUnavailable on time-out (the process is killed), no such program, too much output."""
        await self._places.acquire()
        try:
            return await self._spawn(argv)
        finally:
            self._places.release()

    def _spawn(self, argv: Sequence[str]) -> "Deferred[Output]":
        watch = _Watch(argv[0])
        program = argv[0] if self._directory is None else os.path.join(self._directory, argv[0])
        timer = self._reactor.callLater(self._timeout_s, watch.fail, f"no answer in {self._timeout_s:g} s")
        watch.done.addBoth(_stop, timer)
        try:
            # No directory of its own: with one Twisted forks the whole daemon (10 ms), without it calls posix_spawn.
            self._reactor.spawnProcess(watch, program, list(argv), self._environment)
        except OSError as error:  # no memory or no process table entry: look again later
            watch.fail(f"cannot be started: {error}")
        return watch.done


class _Watch(ProcessProtocol):
    """Collects one process's output; `fail` kills it."""

    transport: IProcessTransport | None

    def __init__(self, name: str) -> None:
        self._name = name
        self._data: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.done: Deferred[Output] = Deferred(lambda _: self._kill())

    def connectionMade(self) -> None:  # noqa: N802 (Twisted's name)
        if self.transport is not None:
            self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803 (Twisted's)
        self._data[childFD] += data
        if len(self._data[childFD]) > OUTPUT_LIMIT:
            self.fail(f"more than {OUTPUT_LIMIT} bytes of output")

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 (Twisted's name)
        if self.done.called:
            return
        status = reason.value
        assert isinstance(status, ProcessDone | ProcessTerminated)  # Twisted promises one of the two
        code = -status.signal if status.signal else status.exitCode or 0
        out, err = (bytes(self._data[fd]).decode("utf-8", "replace") for fd in (1, 2))
        self.done.callback(Output(code, out, err))

    def fail(self, why: str) -> None:
        if not self.done.called:
            self._kill()
            self.done.errback(LrmsUnavailable(f"{self._name}: {why}"))

    def _kill(self) -> None:
        if self.transport is None:
            return
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:
            return
        self.transport.loseConnection()


def _stop(result: Any, timer: Any) -> Any:
    if timer.active():
        timer.cancel()
    return result
