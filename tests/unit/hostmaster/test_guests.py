"""The guest channels with hostile guests: bounded lines, bounded pace, the newest connection, the kernel's uid."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from hostmaster.edges.guests import LINES_PER_S, GuestChannels
from protocol.guest import MAX_LINE, FromGuest, GuestHello, credential, welcome
from protocol.ids import BootId, Generation
from wnod.journal import JournalFull

QEMU = 64055
BOOT = BootId("01234567-89ab-cdef-0123-456789abcdef")
HELLO = f"hello 1 {BOOT} vm1\n".encode()


class Transport(StringTransport):
    """A transport with a peer of some uid, which ends when it is aborted."""

    uid = QEMU
    aborted = False
    line: Any = None

    def abortConnection(self) -> None:
        self.aborted = True

    def lose(self) -> None:
        """The end of the connection reaches the protocol, as it does after an abort."""
        self.line.connectionLost(Failure(ConnectionAbortedError()))


class Port:
    listening = True

    def stopListening(self) -> None:
        self.listening = False


class GuestsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.heard: list[tuple[str, FromGuest | None]] = []
        self.factories: dict[str, Factory] = {}
        self.ports: list[Port] = []
        self.guests = GuestChannels(
            self.clock,
            "/nowhere",
            lambda name, said: self.heard.append((name, said)),
            lambda: frozenset({QEMU}),
            self.listen,  # type: ignore[arg-type]
            lambda transport: transport.uid,  # type: ignore[attr-defined]
        )
        self.guests.open("vm1-g1")

    def listen(self, path: str, factory: Factory) -> Port:
        self.factories[Path(path).stem] = factory
        self.ports.append(Port())
        return self.ports[-1]

    def connect(self, name: str = "vm1-g1", uid: int = QEMU) -> Transport:
        transport = Transport()
        transport.uid = uid
        line = self.factories[name].buildProtocol(None)  # type: ignore[arg-type]
        assert line is not None
        transport.line = line
        line.makeConnection(transport)
        return transport

    def said(self) -> list[FromGuest | None]:
        heard, self.heard = self.heard, []
        return [said for _, said in heard]

    # --- lines -----------------------------------------------------------------------------------

    def test_a_line_is_heard_whole_however_it_is_cut(self) -> None:
        transport = self.connect()
        for byte in HELLO * 2:
            transport.line.dataReceived(bytes([byte]))
        assert self.heard == [("vm1-g1", GuestHello(BOOT, "vm1"))] * 2

    def test_nonsense_is_ignored_counted_and_not_fatal(self) -> None:
        transport = self.connect()
        transport.line.dataReceived(b"\xff\xfe\nhello 2 x\n\n" + HELLO)
        assert self.said() == [GuestHello(BOOT, "vm1")]
        assert self.guests.ignored_lines("vm1-g1") == 3

    def test_a_line_that_the_daemon_cannot_act_on_now_costs_neither_the_connection_nor_the_next_line(self) -> None:
        def full(name: str, said: FromGuest | None) -> None:
            raise JournalFull("no space")

        transport = self.connect()
        self.guests.listener = full
        transport.line.dataReceived(HELLO)
        assert [type(error) for error in self.flushLoggedErrors(JournalFull)]
        assert not transport.disconnecting
        self.guests.listener = lambda name, said: self.heard.append((name, said))
        transport.line.dataReceived(HELLO)
        assert self.said() == [GuestHello(BOOT, "vm1")]

    def test_an_endless_line_is_skipped_to_its_end_and_needs_no_memory(self) -> None:
        transport = self.connect()
        for _ in range(1000):
            transport.line.dataReceived(b"x" * 4096)
            assert len(transport.line._buffer) <= MAX_LINE
        transport.line.dataReceived(b"hello 1\n" + HELLO)
        assert self.said() == [GuestHello(BOOT, "vm1")]
        assert self.guests.ignored_lines("vm1-g1") == 1

    def test_a_line_of_the_limit_is_heard_and_one_byte_more_is_not(self) -> None:
        transport = self.connect()
        start = f"failed {BOOT} mount ".encode()
        longest = start + b"a" * (MAX_LINE - 1 - len(start)) + b"\n"
        assert len(longest) == MAX_LINE
        transport.line.dataReceived(longest)
        assert len(self.said()) == 1
        transport.line.dataReceived(b"x" + longest)
        assert self.said() == []
        assert self.guests.ignored_lines("vm1-g1") == 1

    def test_a_guest_that_floods_is_read_only_at_the_allowed_pace(self) -> None:
        transport = self.connect()
        transport.line.dataReceived(HELLO * (3 * LINES_PER_S))
        assert len(self.said()) == LINES_PER_S
        assert transport.producerState == "paused"
        self.clock.advance(0.9)
        assert self.said() == []
        self.clock.advance(0.1)
        assert len(self.said()) == LINES_PER_S
        self.clock.advance(1)
        assert len(self.said()) == LINES_PER_S
        self.clock.advance(1)
        assert transport.producerState == "producing"

    def test_a_quiet_guest_costs_no_timer(self) -> None:
        transport = self.connect()
        transport.line.dataReceived(HELLO)
        self.clock.advance(1)
        assert self.clock.getDelayedCalls() == []

    # --- connections -----------------------------------------------------------------------------

    def test_the_newest_connection_wins_and_the_old_ones_end_means_nothing(self) -> None:
        old, new = self.connect(), self.connect()
        assert old.aborted
        assert not new.aborted
        old.line.dataReceived(HELLO)
        old.lose()
        assert self.said() == []
        assert self.guests.send("vm1-g1", b"go\n")
        assert (old.value(), new.value()) == (b"", b"go\n")
        new.lose()
        assert self.said() == [None]
        assert not self.guests.send("vm1-g1", b"go\n")

    def test_a_uid_that_is_not_qemus_is_dropped_unheard_and_does_not_disturb_the_guest(self) -> None:
        guest = self.connect()
        stranger = self.connect(uid=1000)
        assert stranger.aborted
        stranger.line.dataReceived(HELLO)
        stranger.lose()
        assert self.said() == []
        assert not guest.aborted
        assert self.guests.send("vm1-g1", b"go\n")
        assert stranger.value() == b""

    def test_two_guests_are_told_apart_by_their_socket_not_by_their_words(self) -> None:
        self.guests.open("vm2-g2")
        self.connect("vm2-g2").line.dataReceived(HELLO)
        assert self.heard == [("vm2-g2", GuestHello(BOOT, "vm1"))]

    def test_a_guest_that_does_not_read_is_not_sent_more(self) -> None:
        transport = self.connect()
        assert self.guests.send("vm1-g1", b"go\n")
        transport.producer.pauseProducing()  # the transport's buffer is full
        assert not self.guests.send("vm1-g1", b"go\n")
        transport.producer.resumeProducing()
        assert self.guests.send("vm1-g1", b"go\n")
        assert transport.value() == b"go\ngo\n"

    def test_a_flood_that_ends_leaves_no_timer(self) -> None:
        transport = self.connect()
        transport.line.dataReceived(HELLO * (2 * LINES_PER_S))
        transport.lose()
        assert self.clock.getDelayedCalls() == []

    def test_open_and_close_may_be_repeated(self) -> None:
        assert self.guests.open("vm1-g1") == "/nowhere/vm1-g1.sock"
        assert len(self.ports) == 1
        transport = self.connect()
        self.guests.close("vm1-g1")
        self.guests.close("vm1-g1")
        assert transport.aborted
        assert not self.ports[0].listening
        transport.line.dataReceived(HELLO)
        transport.lose()
        assert self.said() == []
        assert not self.guests.send("vm1-g1", b"go\n")

    def test_nothing_that_is_sent_or_heard_is_logged(self) -> None:
        logged: list[LogEvent] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        transport = self.connect()
        self.guests.send("vm1-g1", credential("munge.key", 0o400, b"canary"))
        transport.line.dataReceived(b"canary from the guest\n")
        self.connect(uid=1)
        self.connect()
        assert logged
        assert "canary" not in repr(logged)
        assert "Y2FuYXJ5" not in repr(logged)

    def test_a_name_that_is_no_name_and_a_path_that_is_too_long_are_refused(self) -> None:
        for name in ("../x", "a/b", "", "x\0", ".x", "a..b", "A"):
            with pytest.raises(ValueError, match="channel name"):
                self.guests.open(name)
        long = GuestChannels(self.clock, "/" + "d" * 100, lambda *_: None, frozenset)
        with pytest.raises(ValueError, match="shorter runtime directory"):
            long.open("vm1-g1")


def test_a_socket_that_cannot_be_made_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the runtime directory is full: it ended the bait's session, and a VM's step without a reason."""

    def full(_: object) -> None:
        raise CannotListenError("", "vm1-g1.sock", OSError(28, "No space left on device"))

    monkeypatch.setattr("hostmaster.edges.guests._Socket.startListening", full)
    guests = GuestChannels(Clock(), str(tmp_path), lambda *_: None, frozenset)
    with pytest.raises(OSError, match=r"vm1-g1\.sock.*No space left"):
        guests.open("vm1-g1")


# --- real sockets ------------------------------------------------------------------------------------


async def pause(seconds: float = 0.05) -> None:
    deferred: Deferred[None] = Deferred()
    reactor.callLater(seconds, deferred.callback, None)  # type: ignore[attr-defined]
    await deferred


def dial(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.setblocking(False)
    return client


@pytest_twisted.ensureDeferred
async def test_over_a_real_socket_the_kernel_says_who_connects(tmp_path: Path) -> None:
    heard: list[tuple[str, FromGuest | None]] = []
    allowed = {os.geteuid()}
    guests = GuestChannels(reactor, str(tmp_path / "s"), lambda n, m: heard.append((n, m)), lambda: frozenset(allowed))
    path = guests.open("vm1-g1")
    assert Path(path).stat().st_mode & 0o777 == 0o666
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o711
    client = dial(path)
    client.sendall(HELLO)
    await pause()
    assert heard == [("vm1-g1", GuestHello(BOOT, "vm1"))]
    assert guests.send("vm1-g1", welcome(Generation(1)))
    await pause()
    assert client.recv(100) == b"welcome 1 1\n"
    allowed.clear()
    stranger = dial(path)
    await pause()
    assert stranger.recv(1) == b""  # hung up on
    assert guests.send("vm1-g1", b"go\n")
    await pause()
    assert client.recv(100) == b"go\n"
    guests.close_all()
    await pause()
    assert not Path(path).exists()
    for each in (client, stranger):
        each.close()


@pytest_twisted.ensureDeferred
async def test_a_socket_left_by_a_crash_is_replaced_and_a_successors_is_not_removed(tmp_path: Path) -> None:
    heard: list[FromGuest | None] = []
    (tmp_path / "vm1-g1.sock").write_text("left over")
    guests = GuestChannels(reactor, str(tmp_path), lambda _, m: heard.append(m), lambda: frozenset({os.geteuid()}))
    guests.open("vm1-g1")
    guests.close("vm1-g1")
    path = guests.open("vm1-g1")
    await pause()
    with dial(path) as client:
        client.sendall(HELLO)
        await pause()
    assert heard == [GuestHello(BOOT, "vm1")]
    guests.close_all()
    await pause()


def test_sockets_of_a_killed_hostmaster_whose_vms_nobody_remembers_are_removed(tmp_path: Path) -> None:
    """Torture, seed 4: its journal was lost with the VM, and the socket stayed for ever."""
    for name in ("vm1-g1.sock", "vm1-g2.sock", "other"):
        (tmp_path / name).write_text("")
    guests = GuestChannels(Clock(), str(tmp_path), lambda *_: None, frozenset)
    guests.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    GuestChannels(Clock(), str(tmp_path / "not yet"), lambda *_: None, frozenset).sweep()
