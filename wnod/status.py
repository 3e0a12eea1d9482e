"""The daemons' window for people: a read-only HTTP server on a Unix socket, and the client that asks it.

Whoever may open the socket (mode 0660: root and the group wnod) may read; nothing can be changed through it.
"""

import http.client
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort, IReactorUNIX

from wnod.metrics import Metrics, metrics_page
from wnod.pages import Answer, Page, serve_pages

SOCKET = "status.sock"
MAX_ANSWER = 64 << 20

Snapshot = Callable[[], Mapping[str, Any]]
Explain = Callable[[str], Mapping[str, Any] | None]


class DaemonUnreachable(Exception):
    """Nobody answers on the socket. The text says which socket, why, and what to do."""


class StatusServer:
    """Answers GET /status /vms /jobs /past /environments /explain?job=ID /metrics with what the daemon gives it."""

    def __init__(
        self,
        reactor: IReactorUNIX,
        runtime: str,
        snapshot: Snapshot,
        explain: Explain = lambda job: None,
        metrics: Metrics | None = None,
    ) -> None:
        """`snapshot` and `explain` are called per question and return plain JSON values; None: no such job."""
        self.path = socket_path(runtime)
        self._reactor = reactor
        self._pages = _pages(snapshot, explain, metrics)
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Listen, replacing the socket a crashed predecessor left."""
        os.makedirs(os.path.dirname(self.path), mode=0o750, exist_ok=True)
        remove_socket(self.path)
        endpoint: Any = UNIXServerEndpoint(self._reactor, self.path, mode=0o660)  # type: ignore[no-untyped-call]
        self._port = await serve_pages(endpoint, self._pages)

    async def stop(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()  # type: ignore[misc] # None only for ports that need no waiting
            remove_socket(self.path)


def socket_path(runtime: str) -> str:
    """Where a daemon with that `runtime` directory answers."""
    return f"{runtime}/{SOCKET}"


def remove_socket(path: str) -> None:
    """Remove a socket file; anything else of that name is left alone and raises FileExistsError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path}: in the way, and not a socket: remove it")
    os.unlink(path)


def _pages(snapshot: Snapshot, explain: Explain, metrics: Metrics | None) -> dict[str, Page]:
    def part(name: str) -> Page:
        return lambda arguments: _json(snapshot().get(name, []))

    def explanation(arguments: Mapping[str, str]) -> Answer:
        answer = explain(arguments.get("job", ""))
        return _json({"error": "unknown job"}, 404) if answer is None else _json(answer)

    pages: dict[str, Page] = {name: part(name) for name in ("vms", "jobs", "past", "environments")}
    pages["status"] = lambda arguments: _json({k: v for k, v in snapshot().items() if k != "past"})
    pages["explain"] = explanation
    if metrics is not None:
        pages["metrics"] = metrics_page(metrics)
    return pages


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value, ensure_ascii=True).encode("ascii"), status=status)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, question: str, timeout_s: float = 5.0, **arguments: str) -> Any:
    """Ask the daemon at that socket, as in `ask(path, "/explain", job="12")`; None if it does not know the thing.

    Blocks up to `timeout_s`; for the command line. Raises DaemonUnreachable.
    """
    connection = _UnixConnection(path, timeout_s)
    target = question + (f"?{urlencode(arguments)}" if arguments else "")
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise DaemonUnreachable(f"{path}: answered {answer.status}: {body[:200].decode('utf-8', 'replace')}")
        return json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DaemonUnreachable(f"{path}: {_why(error)}") from error
    finally:
        connection.close()


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such socket: is the daemon running?"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens: the daemon has died; see its log"
    if isinstance(error, PermissionError):
        return "permission denied: be root or a member of the group wnod"
    if isinstance(error, TimeoutError):
        return "no answer in time: the daemon hangs or the machine is overloaded"
    return f"no sensible answer: {error}"
