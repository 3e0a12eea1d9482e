"""Run a daemon: options, configuration, logs, readiness, signals, orderly stop, exit code.

    sys.exit(run("bait", load_bait, lambda context, config: BaitDaemon(context.reactor, config)))

Exit codes (systemd's unit files know them):
    0   stopped in order (SIGTERM or SIGINT)
    1   could not start, or had to give up; starting again may help
    2   wrong options
    78  wrong configuration: starting again does not help
"""

import argparse
import gc
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wnod import wnod_version
from wnod.config import ConfigMistakes
from wnod.journal import JournalError, JournalNewer, JournalNotOurs, JournalOld
from wnod.logs import LEVELS, start_logs
from wnod.notify import Notify

OK, FAILED, USAGE, CONFIG = 0, 1, 2, 78
_CODES = "exit codes: 0 stopped in order, 1 could not start or gave up, 2 wrong usage, 78 wrong configuration"
SETTLED_S = 10.0
"""So long after a start, what it has made is there to stay."""
YOUNG = 50_000
"""Objects made between two looks of the collector (700 if nobody says so); some 12 MiB.
A burst of 500 starters holds 33 000 at a time."""
STOP_LIMIT_S = 20.0
"""A stop that takes longer is cut off: a daemon may die at any instant anyway."""

C = TypeVar("C")
_log = Logger(namespace="wnod.service")


class Daemon(Protocol):
    """What `run` runs."""

    async def start(self) -> None:
        """Return when serving. An exception ends the process with exit code 1 and its text in the log."""

    async def stop(self) -> None:
        """Stop serving; leave VMs and jobs as they are. Called once, also when start failed half-way."""

    def reload(self) -> None:
        """SIGHUP: read again what may change while running (certificates, the catalogue)."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a daemon gets from its surroundings."""

    reactor: Any
    """The Twisted reactor: the only place it comes from."""
    status: Callable[[str], None]
    """One line for `systemctl status`."""
    fatal: Callable[[str], None]
    """Give up, for instance when the journal cannot be written: log the reason, stop, exit code 1."""
    config_path: str
    """The file the configuration came from, for `reload`."""


class Service:
    """One daemon on one reactor, from `begin` to the end of the reactor's run."""

    def __init__(self, reactor: Any, notify: Notify) -> None:
        self.code = OK
        self._reactor = reactor
        self._notify = notify
        self._daemon: Daemon | None = None
        self._stopping = False
        self._started: Deferred[None] | None = None
        self._watchdog = LoopingCall(notify.alive)
        self._watchdog.clock = reactor
        self._settling: Any = None

    def context(self, config_path: str = "") -> Context:
        """What the daemon is built with."""
        return Context(self._reactor, self._notify.status, self.fatal, config_path)

    def begin(self, daemon: Daemon) -> None:
        """Start the daemon as soon as the reactor runs, and stop it before the reactor does."""
        self._daemon = daemon
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        self._reactor.callWhenRunning(self._start)

    def fatal(self, reason: str) -> None:
        """Stop with exit code 1. The first reason counts."""
        if not self._stopping:
            _log.critical("giving up: {reason}", reason=reason)
            self._fail()

    def _start(self) -> None:
        assert self._daemon is not None
        if self._notify.watchdog_s is not None:
            self._watchdog.start(self._notify.watchdog_s)
        self._started = ensureDeferred(self._daemon.start())
        self._started.addCallbacks(self._ready, self._not_started)

    def _ready(self, _: None) -> None:
        _log.info("serving")
        self._notify.ready()
        self._settling = self._reactor.callLater(SETTLED_S, spare_the_collector)

    def _not_started(self, failure: Failure) -> None:
        if not self._stopping:
            _log.failure("cannot start: {reason}", failure, reason=failure.getErrorMessage())
            self._notify.status(f"cannot start: {failure.getErrorMessage()}")
            self._fail()

    def _fail(self) -> None:
        self.code = FAILED
        if not self._stopping:
            self._stopping = True
            self._reactor.callLater(0, self._reactor.stop)

    def _stop(self) -> "Deferred[None]":
        self._stopping = True
        self._notify.stopping()
        if self._settling is not None and self._settling.active():
            self._settling.cancel()
        if self._started is not None:
            self._started.cancel()
        return ensureDeferred(self._stopped())

    async def _stopped(self) -> None:
        assert self._daemon is not None
        try:
            await ensureDeferred(self._daemon.stop()).addTimeout(STOP_LIMIT_S, self._reactor)
        except Exception:
            _log.failure("the orderly stop failed; stopping all the same")
        if self._watchdog.running:
            self._watchdog.stop()
        _log.info("stopped")

    def hang_up(self) -> None:
        """SIGHUP: reload; a failing reload changes nothing."""
        assert self._daemon is not None
        try:
            self._daemon.reload()
        except ConfigMistakes as mistakes:
            _log.error("reload failed, going on as before: {mistakes}", mistakes=str(mistakes))
        except Exception:
            _log.failure("reload failed: going on as before")


def spare_the_collector() -> None:
    """Python's collector need not look again at what stays: with a thousand VMs it stopped all else for 30 ms.

    Nor need it look in the middle of a burst: 500 starters at once make some 100 000 objects, nearly all in no cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def run(
    role: Literal["hostmaster", "bait"],
    load: Callable[[str], C],
    build: Callable[[Context, C], Daemon],
    argv: Sequence[str] | None = None,
) -> int:
    """Run the daemon until it is told to stop; the process's exit code. `load` raises ConfigMistakes."""
    options = _parser(role).parse_args(argv)
    try:
        config = load(options.config)
    except ConfigMistakes as mistakes:
        print(mistakes, file=sys.stderr)
        return CONFIG
    if options.check:
        print(f"{options.config}: fine")
        return OK
    start_logs(options.log_level, options.log_format)
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it: only now, and only here

    service = Service(reactor, Notify())
    try:
        service.begin(build(service.context(options.config), config))
    except Exception as error:
        return _cannot_start(error)
    _install_hang_up(reactor, service)
    reactor.run()
    return service.code


def _cannot_start(error: Exception) -> int:
    """The exit code for an error in building a daemon: its text is for people, a traceback only for surprises."""
    if isinstance(error, ConfigMistakes | JournalError):
        _log.critical("cannot start: {reason}", reason=str(error))
        return CONFIG if isinstance(error, ConfigMistakes | JournalNotOurs | JournalNewer | JournalOld) else FAILED
    _log.failure("cannot start: {reason}", reason=str(error))
    return FAILED


def _install_hang_up(reactor: Any, service: Service) -> None:
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(service.hang_up))


def _parser(role: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {role}", description=f"The wnod {role}. docs/operate.md tells more.", epilog=_CODES
    )
    parser.add_argument("--config", default=f"/etc/wnod/{role}.yaml", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--log-level", default="info", choices=LEVELS, help="default: %(default)s")
    parser.add_argument("--log-format", default="json", choices=("json", "text"), help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="read the configuration, say what is wrong, and stop")
    parser.add_argument("--version", action="version", version=f"wnod {wnod_version()}")
    return parser
