"""libvirt's thread of events, and one connection that is kept open: all that is asynchronous about libvirt.

libvirt wants an event loop registered before the first connection is opened; it is one per process and calls
back on the thread that runs it. Here that is a thread of its own, which may do nothing but translate and hand
over (docs/decisions/0003). Three things arrive on the reactor thread: a domain's life changed, the connection was
closed, and nothing else.
"""

import contextlib
import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import libvirt
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from hostmaster.world import HypervisorUnavailable

T = TypeVar("T")

_BROKEN_CODES = frozenset({libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_NO_CONNECT})
_TRANSPORT = frozenset({libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_RPC})

HEARTBEAT_MS = 500
"""libvirt's loop returns only when something happens; the heartbeat is what lets it be stopped."""

KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
"""A libvirtd that hangs as a whole is noticed after 5 s * 3 and its pending calls fail."""


def _nothing(*_arguments: object) -> None:
    """The callback of nobody, and the heartbeat's: returning is all it has to do."""


class Happening(enum.Enum):
    """What a domain event says, as far as anybody here cares."""

    ENDED_ITSELF = "the guest shut itself down"
    ENDED = "the domain has ended"
    CHANGED = "something else changed"


class EventThread:
    """libvirt's native loop. One per process, started before the first connection, stopped after the last."""

    _running: threading.Lock = threading.Lock()  # libvirt's loop belongs to the process, and so does this lock

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer = -1

    def start(self) -> None:
        """Register the loop and run it. RuntimeError if this process runs one already."""
        if not self._running.acquire(blocking=False):
            raise RuntimeError("libvirt's event loop is running already; a process has only one")
        libvirt.registerErrorHandler(_quiet, None)
        libvirt.virEventRegisterDefaultImpl()
        self._timer = libvirt.virEventAddTimeout(HEARTBEAT_MS, _nothing, None)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended, after at most one heartbeat. Idempotent."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        libvirt.virEventRemoveTimeout(self._timer)
        self._running.release()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError as e:
                # Without events only time-outs and polling are left: slow, not wrong. Say so and go on.
                Logger("hostmaster.edges.events").error("libvirt's event loop failed: {error}", error=str(e))
                self._stop.wait(HEARTBEAT_MS / 1000)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. A call that takes longer has an unknown outcome."""

    call: float = 30.0
    create: float = 60.0
    save: float = 120.0
    probe_kvm: float = 10.0
    probe_tcg: float = 60.0
    first_retry: float = 0.5
    last_retry: float = 10.0


class _Pool(ThreadPool):
    """Daemon threads: one that hangs inside libvirt must not keep the process from ending."""

    threadFactory = staticmethod(partial(threading.Thread, daemon=True))  # type: ignore[assignment]  # noqa: N815


@dataclass(eq=False, slots=True)
class _Open:
    """An open connection. It is closed when it is lost *and* unused: closing under a running call crashes libvirt."""

    connection: Any
    capabilities: str
    unsubscribe: Callable[[], None]
    users: int = 0
    lost: bool = False


class Connection:
    """One connection to one URI, opened again for ever with back-off. Lives on the reactor thread."""

    def __init__(self, reactor: Any, uri: str, limits: Limits) -> None:
        self.uri = uri
        self.trouble = "not started"
        """Why there is no connection; empty while there is one."""
        self.capabilities = ""
        self.changed: Callable[[], None] = _nothing
        self.happened: Callable[[str, Happening], None] = _nothing
        self._reactor, self._limits = reactor, limits
        self._pool = _Pool(1, 4, "libvirt")
        self._current: _Open | None = None
        self._retry: IDelayedCall | None = None
        self._retry_s = limits.first_retry
        self._busy = 0
        self._stopped = False
        self._log = Logger("hostmaster.edges.hypervisor")

    def start(self) -> None:
        """Begin to connect; `changed` is called each time it was opened or lost."""
        self._pool.start()
        self.trouble = "connecting"
        self._open()

    async def stop(self) -> None:
        """Close, and wait a few seconds for calls under way; one that hangs is left to its daemon thread."""
        self._stopped = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        if self._current is not None:
            self._lose(self._current, "stopped")
        for _ in range(100):
            if not self._busy:
                self._pool.stop()
                return
            await _later(self._reactor, 0.05)

    async def call(self, what: str, work: Callable[[Any], T], limit_s: float) -> T:
        """`work(connection)` on the pool. HypervisorUnavailable without an answer, libvirtError with one."""
        current = self._current
        if current is None:
            raise HypervisorUnavailable(f"{what}: no connection to libvirt at {self.uri}: {self.trouble}")
        given_up = threading.Event()
        current.users += 1
        deferred = self._defer(
            partial(_unless, given_up, partial(work, current.connection)), partial(self._used, current)
        )
        deferred.addTimeout(limit_s, self._reactor)
        try:
            return await deferred
        except TimeoutError:
            raise HypervisorUnavailable(f"{what}: no answer from libvirt within {limit_s:g} s") from None
        except libvirt.libvirtError as e:
            if is_broken(e):
                self._lose(current, str(e))
                raise HypervisorUnavailable(f"{what}: connection to libvirt lost: {e}") from e
            raise
        finally:
            given_up.set()

    def _defer(self, work: Callable[[], T], done: Callable[[], None] = _nothing) -> "Deferred[T]":
        """On the pool; `done` is called on the reactor thread when the thread is free, however long that takes."""
        self._busy += 1

        def finished() -> None:
            self._busy -= 1
            done()

        def counted() -> T:
            try:
                return work()
            finally:
                self._reactor.callFromThread(finished)

        return deferToThreadPool(self._reactor, self._pool, counted)

    def _open(self) -> None:
        # No time limit: while libvirtd hangs one thread waits for it, and a second attempt would not help.
        self._defer(self._open_in_thread).addCallbacks(self._is_open, self._not_open)

    def _open_in_thread(self) -> _Open:
        connection = libvirt.open(self.uri)
        try:
            # libvirt's first answer to this takes seconds; asked now, no VM waits for it.
            opened = _Open(connection, connection.getCapabilities(), _nothing)
            closed = partial(self._lose, opened)
            opened.unsubscribe = subscribe(connection, self._reactor, self._happened, closed)
        except libvirt.libvirtError:
            connection.close()
            raise
        return opened

    def _is_open(self, opened: _Open) -> None:
        self._current, self.capabilities = opened, opened.capabilities
        if self._stopped:
            self._lose(opened, "stopped")
            return
        self.trouble, self._retry_s = "", self._limits.first_retry
        self._log.info("connected to libvirt at {uri}", uri=self.uri)
        self.changed()

    def _happened(self, uuid: str, happening: Happening) -> None:
        self.happened(uuid, happening)

    def _not_open(self, failure: Failure) -> None:
        text = failure.getErrorMessage()
        if text != self.trouble:
            self._log.error("libvirt at {uri} is away, will keep trying: {text}", uri=self.uri, text=text)
        self.trouble = text
        self._again()

    def _again(self) -> None:
        if not self._stopped:
            self._retry = self._reactor.callLater(self._retry_s, self._open)
            self._retry_s = min(self._retry_s * 2, self._limits.last_retry)

    def _lose(self, lost: _Open, why: str) -> None:
        if lost is not self._current:
            return
        self._current, self.trouble, lost.lost = None, why, True
        self._close_unused(lost)
        if not self._stopped:
            self._log.error("connection to libvirt at {uri} lost: {why}", uri=self.uri, why=why)
            self._again()
            self.changed()

    def _used(self, opened: _Open) -> None:
        opened.users -= 1
        if opened.lost:
            self._close_unused(opened)

    def _close_unused(self, opened: _Open) -> None:
        if opened.users == 0:
            self._defer(partial(_close, opened)).addErrback(
                lambda f: self._log.warn("closing a libvirt connection: {text}", text=f.getErrorMessage())
            )


def subscribe(
    connection: Any,
    reactor: IReactorFromThreads,
    happened: Callable[[str, Happening], None],
    closed: Callable[[str], None],
) -> Callable[[], None]:
    """Have `happened(uuid, what)` and `closed(why)` called on the reactor thread from now on.

    Call it from a pool thread, once per new connection. Returns what ends the subscriptions: without that a
    connection is never really closed, because each holds a reference. Raises libvirtError if the connection
    cannot be subscribed to. Callbacks must not raise.
    """

    def lifecycle(_connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        reactor.callFromThread(happened, domain.UUIDString(), _happening(event, detail))

    def io_error(_c: Any, domain: Any, _source: str, _device: str, _action: int, _opaque: Any) -> None:
        reactor.callFromThread(happened, domain.UUIDString(), Happening.CHANGED)

    def close(_connection: Any, reason: int, _opaque: Any) -> None:
        reactor.callFromThread(closed, _close_reason(reason))

    ids: list[int] = []
    try:
        for kind, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR, io_error),
        ):
            ids.append(connection.domainEventRegisterAny(None, kind, callback, None))
        _where_supported(lambda: connection.registerCloseCallback(close, None))
        _where_supported(lambda: connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT))
    except libvirt.libvirtError:
        _unsubscribe(connection, ids)
        raise
    return lambda: _unsubscribe(connection, ids)


def _unsubscribe(connection: Any, ids: list[int]) -> None:
    ends = [partial(connection.domainEventDeregisterAny, callback) for callback in ids]
    for end in (*ends, connection.unregisterCloseCallback):
        with contextlib.suppress(libvirt.libvirtError):  # each removes its own reference, even if libvirtd is gone
            end()


def _happening(event: int, detail: int) -> Happening:
    if event in (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED):
        itself = event == libvirt.VIR_DOMAIN_EVENT_STOPPED and detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN
        return Happening.ENDED_ITSELF if itself else Happening.ENDED
    return Happening.CHANGED


def _close_reason(reason: int) -> str:
    words = {
        libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "input/output error",
        libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "libvirtd went away",
        libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "libvirtd does not answer keep-alives",
        libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "closed by us",
    }
    return words.get(reason, f"reason {reason}")


def _where_supported(call: Callable[[], Any]) -> None:
    """The test driver and in-process drivers have no transport that could close or hang."""
    try:
        call()
    except libvirt.libvirtError as e:
        if e.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INTERNAL_ERROR):
            raise


def _quiet(_context: Any, _error: Any) -> None:
    """libvirt prints every error to stderr otherwise, including those that are answers (no such domain)."""


def is_broken(error: libvirt.libvirtError) -> bool:
    """True if the error says that the connection is gone; all other errors are answers."""
    code, domain = error.get_error_code(), error.get_error_domain()
    return code == libvirt.VIR_ERR_INVALID_CONN or (code in _BROKEN_CODES and domain in _TRANSPORT)


def _close(opened: _Open) -> None:
    opened.unsubscribe()
    with contextlib.suppress(libvirt.libvirtError):
        opened.connection.close()


def _unless(given_up: threading.Event, work: Callable[[], T]) -> T:
    # Nobody waits any more: beginning now would do what the caller believes undone.
    if given_up.is_set():
        raise HypervisorUnavailable("given up before it began")
    return work()


def _later(reactor: Any, seconds: float) -> "Deferred[None]":
    deferred: Deferred[None] = Deferred()
    reactor.callLater(seconds, deferred.callback, None)
    return deferred
