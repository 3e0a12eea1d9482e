"""Running a daemon: ready when it serves, stopped in order, the right exit code in every other case."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from wnod.config.mistakes import ConfigMistakes, Mistake
from wnod.notify import Notify
from wnod.service import FAILED, OK, SETTLED_S, STOP_LIMIT_S, USAGE, YOUNG, Service, _parser


class Told(Notify):
    """Remembers what systemd would hear."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        super().__init__({})
        self.said: list[str] = []
        self.watchdog_s = watchdog_s

    def _send(self, text: str) -> None:
        self.said.append(text)


class FakeDaemon:
    """Starts and stops when the test says so."""

    def __init__(self) -> None:
        self.starting: Deferred[None] = Deferred()
        self.stopping: Deferred[None] = Deferred()
        self.events: list[str] = []
        self.broken: Exception | None = None

    async def start(self) -> None:
        self.events.append("start")
        await self.starting
        self.events.append("started")

    async def stop(self) -> None:
        self.events.append("stop")
        await self.stopping
        self.events.append("stopped")

    def reload(self) -> None:
        self.events.append("reload")
        if self.broken:
            raise self.broken


@pytest.mark.parametrize("role", ["hostmaster", "bait"])
def test_a_daemons_help_tells_the_exit_codes(role: Literal["hostmaster", "bait"]) -> None:
    shown = " ".join(_parser(role).format_help().split())
    assert f"exit codes: {OK} stopped in order, {FAILED} could" in shown
    assert f"{USAGE} wrong usage, 78 wrong configuration" in shown


class ServiceTests(SynchronousTestCase):
    """One service on a reactor made of memory."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.told = Told()
        self.daemon = FakeDaemon()
        self.service = self.begin()

    def begin(self) -> Service:
        service = Service(self.reactor, self.told)
        service.begin(self.daemon)
        for function, args, kw in self.reactor.whenRunningHooks:
            function(*args, **kw)
        return service

    def shut_down(self) -> Deferred[None]:
        (trigger,) = self.reactor.triggers["before"]["shutdown"]
        function, args, kw = trigger
        stopped: Deferred[None] = function(*args, **kw)
        return stopped

    def test_ready_only_when_start_has_returned(self) -> None:
        assert (self.daemon.events, self.told.said) == (["start"], [])
        self.daemon.starting.callback(None)
        assert (self.daemon.events, self.told.said) == (["start", "started"], ["READY=1"])

    def test_what_a_start_has_made_is_no_work_for_the_collector_any_more(self) -> None:
        self.addCleanup(gc.unfreeze)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.daemon.starting.callback(None)
        assert gc.get_freeze_count() == 0
        self.reactor.advance(SETTLED_S)
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] == YOUNG

    def test_the_reactor_waits_for_the_orderly_stop(self) -> None:
        self.daemon.starting.callback(None)
        stopped = self.shut_down()
        self.assertNoResult(stopped)
        self.daemon.stopping.callback(None)
        self.successResultOf(stopped)
        assert self.daemon.events == ["start", "started", "stop", "stopped"]
        assert (self.told.said, self.service.code) == (["READY=1", "STOPPING=1"], OK)
        assert self.reactor.getDelayedCalls() == []

    def test_a_stop_that_hangs_is_cut_off(self) -> None:
        self.daemon.starting.callback(None)
        stopped = self.shut_down()
        self.reactor.advance(STOP_LIMIT_S + 0.1)
        self.successResultOf(stopped)
        assert len(self.flushLoggedErrors()) == 1

    def test_a_stop_while_starting_ends_the_start(self) -> None:
        stopped = self.shut_down()
        self.daemon.stopping.callback(None)
        self.successResultOf(stopped)
        assert self.daemon.events == ["start", "stop", "stopped"]
        assert "READY=1" not in self.told.said
        assert self.service.code == OK

    def test_a_daemon_that_cannot_start_ends_the_process_with_code_1(self) -> None:
        self.daemon.starting.errback(OSError("port 9610 is taken"))
        assert len(self.flushLoggedErrors(OSError)) == 1
        self.reactor.advance(0)
        assert self.reactor.hasStopped
        assert self.service.code == FAILED
        assert self.told.said == ["STATUS=cannot start: port 9610 is taken"]

    def test_giving_up_stops_once_with_code_1(self) -> None:
        self.daemon.starting.callback(None)
        context = self.service.context("/etc/wnod/bait.yaml")
        context.fatal("the disk is full")
        context.fatal("again")
        self.reactor.advance(0)
        assert self.reactor.hasStopped
        assert self.service.code == FAILED
        assert context.config_path == "/etc/wnod/bait.yaml"

    def test_a_failing_reload_changes_nothing(self) -> None:
        self.daemon.starting.callback(None)
        self.daemon.broken = ValueError("no such file")
        self.service.hang_up()
        assert self.daemon.events[-1] == "reload"
        assert len(self.flushLoggedErrors(ValueError)) == 1
        assert not self.reactor.hasStopped

    def test_a_reload_of_a_wrong_file_says_what_to_mend_and_shows_no_code(self) -> None:
        self.daemon.starting.callback(None)
        told: list[str | None] = []
        globalLogPublisher.addObserver(observer := lambda event: told.append(formatEvent(event)))
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.daemon.broken = ConfigMistakes([Mistake("/c.yaml", 3, "a.b", "'two'", "expected a number", "mend it")])
        self.service.hang_up()
        assert told == ["reload failed, going on as before: /c.yaml:3: a.b: 'two': expected a number; mend it"]
        assert self.flushLoggedErrors(ConfigMistakes) == []


class WatchdogTests(SynchronousTestCase):
    """systemd hears regularly that the loop turns, from the first moment to the last."""

    def test_alive_until_stopped(self) -> None:
        reactor, told, daemon = MemoryReactorClock(), Told(watchdog_s=5.0), FakeDaemon()
        service = Service(reactor, told)
        service.begin(daemon)
        for function, args, kw in reactor.whenRunningHooks:
            function(*args, **kw)
        reactor.advance(5.0)
        assert told.said == ["WATCHDOG=1", "WATCHDOG=1"]
        ((function, args, kw),) = reactor.triggers["before"]["shutdown"]
        daemon.stopping.callback(None)
        self.successResultOf(function(*args, **kw))
        assert reactor.getDelayedCalls() == []


PROGRAM = """
import sys
from wnod.config import load_bait
from wnod.journal import Journal
from wnod.service import run

class Daemon:
    def __init__(self, context, config):
        if MODE == "unbuildable": raise ValueError("cannot be built")
        self.context = context
        self.journal = Journal(config.state + "/j", "bait", config.bait)
    async def start(self):
        print("started", flush=True)
        if MODE == "fatal": self.context.fatal("the journal cannot be written")
    async def stop(self): print("stopped", flush=True)
    def reload(self): print("reloaded", flush=True)

MODE = sys.argv.pop(1)
sys.exit(run("bait", load_bait, Daemon))
"""
CONFIG = """\
bait: {bait}
hostmaster: {{name: h1, address: "h1:9610"}}
tls: {{ca: /t/ca.pem, certificate: /t/b.pem, key: /t/b.key}}
lrms: {{cluster: site}}
state: {state}
"""


def daemon(tmp_path: Path, mode: str, *options: str, bait: str = "b1") -> "subprocess.Popen[str]":
    """The program above as a real process."""
    (tmp_path / "bait.yaml").write_text(CONFIG.format(bait=bait, state=tmp_path / "state"))
    argv = [sys.executable, "-c", PROGRAM, mode, "--config", str(tmp_path / "bait.yaml"), *options]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_real_process_reloads_and_stops_in_order(tmp_path: Path, number: int) -> None:
    with daemon(tmp_path, "serve") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        os.kill(child.pid, signal.SIGHUP)
        assert child.stdout.readline() == "reloaded\n"
        os.kill(child.pid, number)
        out, log = child.communicate(timeout=20)
    assert (out, child.returncode) == ("stopped\n", 0), log
    assert '"text": "serving"' in log


@pytest.mark.parametrize(
    ("mode", "options", "bait", "code", "words"),
    [
        ("fatal", (), "b1", 1, "the journal cannot be written"),
        ("unbuildable", (), "b1", 1, "cannot be built"),
        ("serve", ("--check",), "b1", 0, "fine"),
        ("serve", ("--check",), "B1", 78, "did you mean 'b1'?"),
        ("serve", (), "B1", 78, "did you mean 'b1'?"),
        ("serve", ("--config", "/nowhere/bait.yaml"), "b1", 78, "cannot be read"),
        ("serve", ("--log-level", "loud"), "b1", 2, "invalid choice"),
    ],
)
def test_exit_codes(tmp_path: Path, mode: str, options: tuple[str, ...], bait: str, code: int, words: str) -> None:
    with daemon(tmp_path, mode, *options, bait=bait) as child:
        out, log = child.communicate(timeout=20)
    assert child.returncode == code, log
    assert words in out + log


def test_another_daemons_journal_is_a_mistake_of_configuration_not_a_reason_to_try_again(tmp_path: Path) -> None:
    with daemon(tmp_path, "fatal") as child:
        child.communicate(timeout=20)
    with daemon(tmp_path, "serve", bait="b2") as child:
        _, log = child.communicate(timeout=20)
    assert child.returncode == 78
    assert "not of 'b2'" in log
    assert "Traceback" not in log
