"""One TLS connection between a bait and a hostmaster: frames in and out, and every time limit.

It knows nothing of who may speak: its owner in protocol.link decides that. The owner is told of each event once,
and `ended` is always the last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Interface

from OpenSSL import SSL
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from protocol.errors import TheirMistake
from protocol.framing import MAX_LENGTH, Frames, frame
from protocol.messages import Code, Error, Hello, SrvMsg, Welcome
from protocol.session import Session, opening_body
from protocol.tls import Identity, peer_identity

ACK_AT_ONCE = 64
"""So many messages are acknowledged without waiting for Times.ack_s."""


@dataclass(frozen=True, slots=True)
class Times:
    """Limits of a connection, in seconds. Both ends use the same."""

    handshake_s: float = 10.0
    """From the TCP connection to the end of the opening frames."""
    heartbeat_s: float = 10.0
    """An end that has written nothing for so long writes an acknowledgement."""
    silence_s: float = 30.0
    """A peer that sends no whole frame, or takes nothing, for so long is gone."""
    ack_s: float = 0.2
    """How long an acknowledgement waits for a message that carries it."""
    farewell_s: float = 5.0
    """From the closing Error to cutting the connection."""


class Owner(Interface):
    """Who decides about a connection."""

    def secured(self, connection: "Connection") -> None:
        """TLS is up and `identity` is proven. May raise TheirMistake."""

    def opened(self, connection: "Connection", body: bytes) -> None:
        """The first frame's body. May raise TheirMistake; calls join() when the peer is let in."""

    def said(self, connection: "Connection", message: SrvMsg) -> None:
        """One message in order. May raise TheirMistake."""

    def mistaken(self, connection: "Connection", mistake: TheirMistake) -> None:
        """The peer broke the protocol; the connection closes."""

    def ended(self, connection: "Connection", why: str) -> None:
        """The connection is gone."""


class _Timer:
    """Calls `action` once, `seconds` after the last restart()."""

    def __init__(self, clock: IReactorTime, seconds: float, action: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._action = action
        self._call: IDelayedCall | None = None

    @property
    def running(self) -> bool:
        return self._call is not None

    def restart(self) -> None:
        if self._call is not None:
            self._call.reset(self._seconds)
        else:
            self._call = self._clock.callLater(self._seconds, self._fire)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _fire(self) -> None:
        self._call = None
        self._action()


@implementer(IHandshakeListener, IPushProducer)
class Connection(Protocol):
    """See the module. `identity` is set once TLS is up, `session` once the peer is let in."""

    def __init__(self, clock: IReactorTime, times: Times, owner: Owner, first_length: int) -> None:
        self.address = "?"
        self.identity: Identity | None = None
        self.session: Session | None = None
        self.closing = False
        self._owner = owner
        self._frames = Frames(first=first_length, limit=MAX_LENGTH)
        self._paused = False
        self._why = ""
        self._opening_limit = _Timer(clock, times.handshake_s, lambda: self.abort("opening took too long"))
        self._silence = _Timer(clock, times.silence_s, lambda: self.abort("silent for too long"))
        self._stuck = _Timer(clock, times.silence_s, lambda: self.abort("takes no data"))
        self._beat = _Timer(clock, times.heartbeat_s, self._acknowledge)
        self._ack = _Timer(clock, times.ack_s, self._acknowledge)
        self._farewell = _Timer(clock, times.farewell_s, lambda: self.abort("closed"))
        self._timers = (self._opening_limit, self._silence, self._stuck, self._beat, self._ack, self._farewell)

    # --- what the owner does ---

    def open(self, message: Hello | Welcome) -> None:
        """Write this end's first frame."""
        self._write(opening_body(message))

    def join(self, session: Session) -> None:
        """The peer is let in: from now on this connection carries the session."""
        self.session = session
        self._opening_limit.stop()
        self._silence.restart()
        self._beat.restart()
        self.flush()

    def flush(self) -> None:
        """Write what the session has for the peer, as far as the peer takes it."""
        while self.session is not None and not self._paused and not self.closing:
            body = self.session.next_body()
            if body is None:
                return
            self._write(body)

    def acknowledge(self) -> None:
        """Write an acknowledgement now."""
        self._acknowledge()

    def close(self, code: Code, text: str) -> None:
        """Say why, then close; cut after Times.farewell_s. Later calls do nothing."""
        if self.closing:
            return
        error = Error(code=code, text=text[:1000])
        self._write(self.session.farewell_body(code, text) if self.session else opening_body(error))
        self.leave(f"{code}: {text}")

    def leave(self, why: str) -> None:
        """Close without a word; cut after Times.farewell_s."""
        if self.closing:
            return
        self._stop(why)
        self._farewell.restart()
        self._lower().loseConnection()

    def abort(self, why: str) -> None:
        """Cut the connection at once."""
        self._stop(why)
        self._lower().abortConnection()

    # --- what Twisted calls ---

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """TCP is up, TLS is not."""
        self._opening_limit.restart()
        self.address = str(getattr(self._lower().getPeer(), "host", "?"))
        self._lower().registerProducer(self, True)

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted's name
        """TLS is up."""
        if self.closing:
            return
        try:
            self.identity = peer_identity(self.transport)
            self._owner.secured(self)
        except TheirMistake as e:
            self._owner.mistaken(self, e)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Read frames until there are no more or the connection closes."""
        try:
            for body in self._frames.feed(data) if not self.closing else ():
                self._read(body)
                if self.closing:
                    return
        except TheirMistake as e:
            self._owner.mistaken(self, e)
        else:
            self._plan_acknowledgement()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        """The end, for whatever reason."""
        self._halt(_reason(reason))
        self._owner.ended(self, self._why)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The peer reads slower than we write: keep the rest in the session."""
        if not self._paused and not self.closing:
            self._paused = True
            self._stuck.restart()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The peer has caught up."""
        self._paused = False
        self._stuck.stop()
        self.flush()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The transport is gone; connectionLost says so too."""

    # --- inside ---

    def _read(self, body: bytes) -> None:
        if self.session is None:
            self._owner.opened(self, body)
            return
        self._silence.restart()
        message = self.session.receive(body)
        if message is not None:
            self._owner.said(self, message)

    def _plan_acknowledgement(self) -> None:
        owed = 0 if self.session is None or self.closing else self.session.owed
        if owed >= ACK_AT_ONCE:
            self._acknowledge()
        elif owed > 0 and not self._ack.running:
            self._ack.restart()

    def _acknowledge(self) -> None:
        if self.session is None or self.closing:
            return
        self._beat.restart()
        if not self._paused:
            self._write(self.session.ack_body())

    def _write(self, body: bytes) -> None:
        if self.session is not None:
            self._beat.restart()
            self._ack.stop()
        self._lower().write(frame(body))

    def _stop(self, why: str) -> None:
        if not self.closing:
            self._lower().unregisterProducer()
        self._halt(why)

    def _halt(self, why: str) -> None:
        self.closing = True
        self._why = self._why or why
        for timer in self._timers:
            timer.stop()

    def _lower(self) -> "_Transport":
        transport = self.transport
        assert transport is not None
        return transport  # type: ignore[return-value]  # ITransport lacks what every TLS transport has


def _reason(failure: Failure) -> str:
    if isinstance(failure.value, SSL.Error) and failure.value.args:
        return "TLS: " + "; ".join(str(part[-1]) for part in failure.value.args[0] or [("", "", "closed early")])
    return failure.getErrorMessage()


class _Transport(Interface):
    """What a TLS transport offers."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...  # noqa: N802
    def abortConnection(self) -> None: ...  # noqa: N802
    def getPeer(self) -> object: ...  # noqa: N802
    def registerProducer(self, producer: object, streaming: bool) -> None: ...  # noqa: N802
    def unregisterProducer(self) -> None: ...  # noqa: N802
