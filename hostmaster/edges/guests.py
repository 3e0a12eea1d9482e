"""The host ends of the guest channels: hostmaster.world.Guests on Unix sockets that QEMU connects to.

Which guest speaks is the path of the socket; that it is QEMU who connected, the kernel tells (SO_PEERCRED). All
that a guest sends is hostile until parsed: lines are bounded, counted and slowed down, and none is ever logged
whole, nor is anything that is sent, because credentials are.
"""
# ruff: noqa: N802 - Twisted's names are overridden here

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IConsumer, IListeningPort, IPushProducer, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Port as StreamPort
from twisted.internet.unix import Port
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from hostmaster.world import GuestListener
from protocol.errors import TheirMistake
from protocol.guest import MAX_LINE, FromGuest, parse
from wnod import unixsocket

LINES_PER_S = 50
"""A guest that says more is read no further until the second is over."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}\Z")
_MAX_PATH = 107  # sun_path holds 108 bytes with its end mark

Listen = Callable[[str, Factory], IListeningPort]
PeerUid = Callable[[ITransport], int]


class GuestChannels:
    """All channels of one host, one listening socket each in `directory`."""

    def __init__(
        self,
        reactor: Any,
        directory: str,
        listener: GuestListener,
        allowed_uids: Callable[[], frozenset[int]],
        listen: Listen | None = None,
        peer_uid: PeerUid | None = None,
    ) -> None:
        """`allowed_uids`: who QEMU runs as; any other connection is refused. The last two are for tests."""
        self.reactor, self.listener, self.allowed_uids = reactor, listener, allowed_uids
        self.peer_uid = peer_uid or kernel_peer_uid
        self._listen = listen or self._listen_unix
        self._directory = Path(directory)
        self._channels: dict[str, _Channel] = {}

    def open(self, name: str) -> str:
        """See hostmaster.world.Guests. OSError if the socket cannot be made, ValueError for a bad name."""
        path = self._path(name)
        if name not in self._channels:
            channel = _Channel(self, name)
            channel.port = self._listen(path, channel)
            self._channels[name] = channel
        return path

    def close(self, name: str) -> None:
        """See hostmaster.world.Guests."""
        channel = self._channels.pop(name, None)
        if channel is not None:
            channel.shut()
        Path(self._path(name)).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the sockets of a hostmaster that was killed: whose VM is on record is listened for anew by `open`.

        Call before the first `open`, and only while no other hostmaster can be running on this directory.
        """
        for left in self._directory.glob("*.sock"):
            left.unlink(missing_ok=True)

    def close_all(self) -> None:
        """Stop listening everywhere and remove the sockets; guests wait for the next hostmaster."""
        for name in tuple(self._channels):
            self.close(name)

    def send(self, name: str, lines: bytes) -> bool:
        """See hostmaster.world.Guests. False also while the guest does not read what it was sent before."""
        channel = self._channels.get(name)
        return channel is not None and channel.send(lines)

    def ignored_lines(self, name: str) -> int:
        """How many lines of this guest were not understood."""
        channel = self._channels.get(name)
        return 0 if channel is None else channel.ignored

    def _path(self, name: str) -> str:
        if not _NAME.match(name) or ".." in name:
            raise ValueError(f"channel name {name!r}: expected lower-case letters, digits, dots and hyphens")
        path = str(self._directory / f"{name}.sock")
        if len(os.fsencode(path)) > _MAX_PATH:
            raise ValueError(
                f"socket path {path} has more than {_MAX_PATH} bytes: configure a shorter runtime directory"
            )
        return path

    def _listen_unix(self, path: str, factory: Factory) -> IListeningPort:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o711)  # QEMU's user must reach its socket, and need not list the others
        Path(path).unlink(missing_ok=True)
        # Open to all users, because QEMU's is not ours; who really connected is asked of the kernel.
        port: Any = _Socket(os.fsencode(path), factory, 5, 0o666, self.reactor)
        try:
            port.startListening()
        except CannotListenError as error:
            raise OSError(f"cannot listen at {path}: {error.socketError}") from error
        return cast(IListeningPort, port)


class _Socket(Port):
    """A listening Unix socket that leaves its path to GuestChannels.close: a successor may be there already."""

    def connectionLost(self, reason: Failure) -> None:
        cast(Any, StreamPort).connectionLost(self, reason)


class _Channel(Factory):
    """One guest: at most one connection counts, the newest."""

    noisy = False

    def __init__(self, channels: GuestChannels, name: str) -> None:
        self.channels, self.name = channels, name
        self.ignored = 0
        self.port: IListeningPort | None = None
        self.log = Logger("hostmaster.edges.guests")
        self._current: _Line | None = None

    def buildProtocol(self, _address: Any) -> "_Line":
        return _Line(self)

    def connected(self, line: "_Line") -> bool:
        """False if this peer may not speak here."""
        assert line.transport is not None
        uid = self.channels.peer_uid(line.transport)
        if uid not in self.channels.allowed_uids():
            self.log.warn("{name}: refused a connection of uid {uid}, which is not QEMU's", name=self.name, uid=uid)
            return False
        previous, self._current = self._current, line
        if previous is not None:
            self.log.info("{name}: a newer connection takes the place of the old one", name=self.name)
            previous.drop()
        return True

    def disconnected(self, line: "_Line") -> None:
        """The current connection is gone; that of a predecessor means nothing."""
        if line is self._current:
            self._current = None
            self._tell(None)

    def heard(self, line: "_Line", text: bytes) -> None:
        """One line, possibly nonsense."""
        if line is not self._current:
            return
        try:
            said = parse(text)
        except TheirMistake:
            self.ignore()
            return
        self._tell(said)

    def _tell(self, said: FromGuest | None) -> None:
        """What goes wrong there (a full disk) costs this line and no connection: a guest says what matters again."""
        try:
            self.channels.listener(self.name, said)
        except Exception:
            self.log.failure("{name}: what the guest said could not be heard", name=self.name)

    def ignore(self) -> None:
        """Count a line that says nothing; the log gets the powers of two, so that it cannot be filled."""
        self.ignored += 1
        if self.ignored & (self.ignored - 1) == 0:
            self.log.warn("{name}: {n} lines not understood so far", name=self.name, n=self.ignored)

    def send(self, lines: bytes) -> bool:
        """Write, if somebody is there and reads."""
        return self._current is not None and self._current.send(lines)

    def shut(self) -> None:
        """Take no connection and hear nothing any more."""
        line, self._current = self._current, None
        if line is not None:
            line.drop()
        if self.port is not None:
            self.port.stopListening()


@implementer(IPushProducer)
class _Line(Protocol):
    """One connection: bytes to lines, at a bounded pace. Is told by its transport when the peer stops reading."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._reactor = channel.channels.reactor
        self._buffer = b""
        self._skipping = False
        self._blocked = False
        self._dropped = False
        self._budget = LINES_PER_S
        self._refill: Any = None

    def connectionMade(self) -> None:
        if not self._channel.connected(self):
            self.drop()
            return
        cast(IConsumer, self.transport).registerProducer(self, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._dropped = True
        if self._refill is not None and self._refill.active():
            self._refill.cancel()
        self._channel.disconnected(self)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        self._take_lines()

    def send(self, lines: bytes) -> bool:
        """False while the peer leaves unread what it was sent before."""
        if self._blocked or self._dropped or self.transport is None:
            return False
        self.transport.write(lines)
        return True

    def drop(self) -> None:
        """Close at once; nothing more is heard."""
        self._dropped = True
        cast(Any, self.transport).abortConnection()

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the guest does not read."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """The guest reads again."""
        self._blocked = False

    def stopProducing(self) -> None:
        """The transport is closing."""
        self._blocked = True

    def _take_lines(self) -> None:
        while self._budget > 0 and not self._dropped:
            text, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                self._bound_rest()
                return
            self._buffer = rest
            self._spend()
            self._one_line(text)
        if not self._dropped:
            cast(IPushProducer, self.transport).pauseProducing()

    def _one_line(self, text: bytes) -> None:
        if self._skipping or len(text) >= MAX_LINE:
            self._skipping = False
            self._channel.ignore()
        else:
            self._channel.heard(self, text)

    def _bound_rest(self) -> None:
        if self._skipping or len(self._buffer) >= MAX_LINE:
            self._skipping, self._buffer = True, b""

    def _spend(self) -> None:
        self._budget -= 1
        if self._refill is None:
            self._refill = self._reactor.callLater(1.0, self._new_second)

    def _new_second(self) -> None:
        exhausted, self._budget, self._refill = self._budget <= 0, LINES_PER_S, None
        if exhausted:
            cast(IPushProducer, self.transport).resumeProducing()
            self._take_lines()


def kernel_peer_uid(transport: ITransport) -> int:
    """The uid of the process at the other end of a Unix socket, as the kernel knows it."""
    return unixsocket.peer_uid(cast(Any, transport).socket)
