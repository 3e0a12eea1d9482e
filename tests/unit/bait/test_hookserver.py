"""The bait's end of the starter's question: in memory, on a test's clock; the last tests use a real socket."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bait.hookserver import Answer, HookCall, HookServer
from wnod.logs import MOST_SAID

LINE = b'{"version":1,"job":"12","task":null,"restart":0,"step":"batch"}\n'


class Decisions:
    """Decides when the test says so."""

    def __init__(self) -> None:
        self.calls: list[HookCall] = []
        self.pending: list[Deferred[Answer]] = []
        self.cancelled = 0

    async def intercepted(self, call: HookCall) -> Answer:
        self.calls.append(call)
        self.pending.append(Deferred())
        try:
            return await self.pending[-1]
        except CancelledError:
            self.cancelled += 1
            raise


class Transport(StringTransport):
    """Of a socket: what is written at once is written."""

    writeSomeData = StringTransport.write  # noqa: N815 (Twisted's name)


class Starter:
    """One connection, and what it was told."""

    def __init__(self, server: HookServer, uid: int = 1000) -> None:
        self.transport = Transport()
        self.transport.uid = uid  # type: ignore[attr-defined]
        self.clock = server.reactor
        self.protocol: Any = server.factory().buildProtocol(None)  # type: ignore[arg-type]
        self.protocol.makeConnection(self.transport)

    def say(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def answer(self) -> Answer | None:
        """None: not told anything yet."""
        told = self.transport.value()
        if not told:
            return None
        assert told.endswith(b"\n")
        assert told.count(b"\n") == 1
        self.clock.advance(0)
        assert self.transport.disconnecting
        return msgspec.json.decode(told, type=Answer)

    def leave(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))


class HookServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.decisions = Decisions()
        self.server = HookServer(
            self.clock,
            "/unused",
            self.decisions.intercepted,
            limit_s=15.0,
            per_uid=3,
            in_all=5,
            line_s=5.0,
            uid_of=lambda transport: transport.uid,
        )

    def starter(self, uid: int = 1000, line: bytes = LINE) -> Starter:
        starter = Starter(self.server, uid)
        starter.say(line)
        return starter

    def word(self, starter: Starter) -> str:
        told = starter.answer()
        return "nothing" if told is None else told.answer

    def test_the_decision_is_told(self) -> None:
        starter = self.starter(line=LINE.replace(b"null", b"7"))
        call = self.decisions.calls[0]
        assert (call.job, call.task, call.restart, call.uid) == ("12", 7, 0, 1000)
        assert starter.answer() is None
        self.decisions.pending[0].callback(Answer("park", "on its way"))
        assert starter.answer() == Answer("park", "on its way")

    def test_of_many_who_are_answered_at_once_nobody_is_hung_up_on_before_all_are_told(self) -> None:
        starters = [self.starter(), self.starter()]
        for decided in self.decisions.pending:
            decided.callback(Answer("park"))
        assert [bool(one.transport.value()) for one in starters] == [True, True]
        assert [one.transport.disconnecting for one in starters] == [False, False]
        assert [self.word(one) for one in starters] == ["park", "park"]

    def test_the_uid_is_the_kernels_even_if_the_line_claims_another(self) -> None:
        self.starter(uid=7701)
        assert self.decisions.calls[0].uid == 7701
        liar = self.starter(uid=7701, line=LINE.replace(b'"step"', b'"uid":0,"step"'))
        assert self.word(liar) == "hand-back"
        assert len(self.decisions.calls) == 1

    def test_malformed_questions_are_handed_back_undecided(self) -> None:
        for line in (
            b"\n",
            b"null\n",
            b"{}\n",
            b"\xff\n",
            b"[" * 900 + b"\n",
            LINE.replace(b"1", b"2", 1),
            LINE.replace(b'"12"', b'"../x"'),
            LINE.replace(b'"12"', b'"1\\n2"'),
            LINE.replace(b'"12"', b"12"),
            LINE.replace(b"null", b"-1"),
            LINE.replace(b":0,", b":99999999999,"),
            LINE.replace(b"batch", b"step"),
        ):
            starter = self.starter(line=line)
            assert self.word(starter) == "hand-back", line
            starter.leave()
        assert self.decisions.calls == []

    def test_an_endless_question_is_handed_back(self) -> None:
        starter = self.starter(line=b"x" * 5000)
        assert self.word(starter) == "hand-back"

    def test_a_question_in_pieces_is_one_question(self) -> None:
        starter = Starter(self.server)
        for byte in LINE:
            starter.say(bytes([byte]))
        assert len(self.decisions.calls) == 1

    def test_a_second_question_ends_the_first(self) -> None:
        starter = self.starter()
        starter.say(LINE)
        assert self.word(starter) == "hand-back"
        assert (len(self.decisions.calls), self.decisions.cancelled) == (1, 1)

    def test_no_question_in_time(self) -> None:
        starter = self.starter(line=b'{"version"')
        self.clock.advance(4.9)
        assert starter.answer() is None
        self.clock.advance(0.2)
        assert self.word(starter) == "hand-back"

    def test_no_decision_in_time_cancels_it(self) -> None:
        starter = self.starter()
        self.clock.advance(14.9)
        assert starter.answer() is None
        self.clock.advance(0.2)
        assert self.word(starter) == "hand-back"
        assert self.decisions.cancelled == 1
        starter.leave()
        assert self.clock.getDelayedCalls() == []

    def test_a_decision_after_the_limit_is_not_told(self) -> None:
        async def stubborn(call: HookCall) -> Answer:
            with contextlib.suppress(CancelledError):
                await Deferred()
            return Answer("park")

        self.server.intercepted = stubborn
        starter = self.starter()
        self.clock.advance(16)
        assert self.word(starter) == "hand-back"

    def test_an_exception_hands_back_and_is_logged(self) -> None:
        starter = self.starter()
        self.decisions.pending[0].errback(ValueError("a bug"))
        assert self.word(starter) == "hand-back"
        assert len(self.flushLoggedErrors(ValueError)) == 1

    def test_gone_fires_when_the_starter_leaves_and_the_clock_is_clean(self) -> None:
        starter = self.starter()
        call = self.decisions.calls[0]
        assert not call.gone.called
        starter.leave()
        assert call.gone.called
        assert (self.clock.getDelayedCalls(), self.server.waiting()) == ([], 0)
        self.decisions.pending[0].callback(Answer("park"))  # decided for nobody: no error

    def test_what_a_user_does_wrong_is_said_some_times_in_a_minute_and_not_as_often_as_he_likes(self) -> None:
        """A loop around the socket would fill the log, and journald would leave out what others have to say."""
        said: list[Any] = []
        observer = said.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

        def rubbish(uid: int, line: bytes) -> None:
            starter = self.starter(uid, line)
            assert self.word(starter) == "hand-back"
            starter.leave()

        for number in range(500):
            rubbish(1000, b"rubbish %d\n" % number)
        assert len(said) == MOST_SAID
        rubbish(1001, b"rubbish\n")
        assert len(said) == MOST_SAID + 1, "another user"
        self.clock.advance(60)
        rubbish(1000, b"rubbish\n")
        assert len(said) == MOST_SAID + 2

    def test_one_users_connections_are_bounded_and_do_not_hurt_others(self) -> None:
        crowd = [self.starter(uid=1) for _ in range(4)]
        assert [self.word(one) for one in crowd] == ["nothing"] * 3 + ["hand-back"]
        assert self.word(self.starter(uid=2)) == "nothing"
        for one in crowd:
            one.leave()
        assert self.word(self.starter(uid=1)) == "nothing"

    def test_all_connections_are_bounded(self) -> None:
        crowd = [self.starter(uid=uid) for uid in range(6)]
        assert [self.word(one) for one in crowd] == ["nothing"] * 5 + ["hand-back"]

    def test_stopping_hands_everybody_back(self) -> None:
        starters = [self.starter(uid=uid) for uid in (1, 2)]
        self.successResultOf(Deferred.fromCoroutine(self.server.stop()))
        assert [self.word(one) for one in starters] == ["hand-back"] * 2

    def test_a_long_text_is_cut_to_what_a_starter_reads(self) -> None:
        starter = self.starter()
        self.decisions.pending[0].callback(Answer("refuse", "é" * 100_000))
        assert len(starter.transport.value()) < 4096
        assert self.word(starter) == "refuse"


def _ask(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(LINE)
        return connection.recv(4096)


@pytest_twisted.ensureDeferred
async def test_the_kernel_names_the_uid_on_a_real_socket(tmp_path: Path) -> None:
    seen: list[int] = []

    async def intercepted(call: HookCall) -> Answer:
        seen.append(call.uid)
        return Answer("park")

    path = tmp_path / "hook.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # as a killed daemon leaves it
    server = HookServer(reactor, str(path), intercepted)
    await server.start()
    try:
        assert path.stat().st_mode & 0o777 == 0o666
        assert await deferToThread(_ask, str(path)) == b'{"answer":"park","text":""}\n'
        assert seen == [os.getuid()]
    finally:
        await server.stop()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_a_file_at_the_path_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "hook.sock"
    path.write_text("precious")
    server = HookServer(reactor, str(path), Decisions().intercepted)
    with pytest.raises(FileExistsError, match="not a socket"):
        await server.start()
    assert path.read_text() == "precious"
