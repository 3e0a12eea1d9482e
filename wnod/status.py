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
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from wnod.metrics import Metrics, MetricsPage

SOCKET = "status.sock"
MAX_ANSWER = 64 << 20

Snapshot = Callable[[], Mapping[str, Any]]
Explain = Callable[[str], Mapping[str, Any] | None]

_log = Logger(namespace="wnod.status")


class DaemonUnreachable(Exception):
    """Nobody answers on the socket. The text says which socket, why, and what to do."""


class StatusServer:
    """Answers GET /status /vms /jobs /environments /explain?job=ID /metrics with what the daemon gives it."""

    def __init__(
        self,
        reactor: IReactorUNIX,
        runtime: str,
        snapshot: Snapshot,
        explain: Explain = lambda job: None,
        metrics: Metrics | None = None,
    ) -> None:
        """`snapshot` and `explain` are called per question and return plain JSON values; explain's None: unknown job."""
        self.path = socket_path(runtime)
        self._reactor = reactor
        self._root = _pages(snapshot, explain, metrics)
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Listen, replacing the socket a crashed predecessor left."""
        os.makedirs(os.path.dirname(self.path), mode=0o750, exist_ok=True)
        remove_socket(self.path)
        endpoint = UNIXServerEndpoint(self._reactor, self.path, mode=0o660)
        site = Site(self._root)
        site.log = lambda request: None  # type: ignore[method-assign] # there is no address to write into an access log
        self._port = await endpoint.listen(site)

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


class _Page(Resource):
    """One path: calls `answer` with the request's `job` and writes what it returns as JSON."""

    isLeaf = True

    def __init__(self, answer: Callable[[str], Any]) -> None:
        super().__init__()
        self._answer = answer

    def render_GET(self, request: Request) -> bytes:
        """Answer, or say that it went wrong: a question must never harm the daemon."""
        request.setHeader(b"content-type", b"application/json")
        job = request.args.get(b"job", [b""])[0].decode("utf-8", "replace")
        try:
            answer = self._answer(job)
        except Exception:
            _log.failure("cannot answer {uri}", uri=ascii(request.uri))
            request.setResponseCode(500)
            return b'{"error": "internal error: see the daemon\'s log"}'
        if answer is None:
            request.setResponseCode(404)
            answer = {"error": "unknown job"}
        return json.dumps(answer, ensure_ascii=True).encode("ascii")


def _pages(snapshot: Snapshot, explain: Explain, metrics: Metrics | None) -> Resource:
    root = Resource()
    root.putChild(b"status", _Page(lambda job: snapshot()))
    for name in ("vms", "jobs", "environments"):
        root.putChild(name.encode(), _Page(lambda job, name=name: snapshot().get(name, [])))  # type: ignore[misc]
    root.putChild(b"explain", _Page(explain))
    if metrics is not None:
        root.putChild(b"metrics", MetricsPage(metrics))
    return root


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
