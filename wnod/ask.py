"""Asking a daemon of this machine how it is, or to do something, over the Unix socket of `wnod.status`.

No Twisted in here: a command should be over before its user has noticed that it began.
"""

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

SOCKET = "status.sock"
MAX_ANSWER = 64 << 20


class DaemonUnreachable(Exception):
    """Nobody answers on the socket. The text says which socket, why, and what to do."""


class ActRefused(Exception):
    """The daemon answered, and will not do it. The text is for people and says what to do instead."""


def socket_path(runtime: str) -> str:
    """Where a daemon with that `runtime` directory answers."""
    return f"{runtime}/{SOCKET}"


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
    status, answer = _exchange(path, "GET", question, timeout_s, arguments)
    if status not in (200, 404):
        raise DaemonUnreachable(f"{path}: answered {status}: is it of another version?")
    return None if status == 404 else answer


def act(path: str, deed: str, arguments: dict[str, str], timeout_s: float = 5.0) -> Any:
    """Have the daemon at that socket do something, as in `act(path, "/pause", {"vm": "h1-vm1"})`; its answer.

    Blocks up to `timeout_s`. Raises ActRefused or DaemonUnreachable; after the latter it may have been done.
    """
    status, answer = _exchange(path, "POST", deed, timeout_s, arguments)
    if status != 200:
        text = answer.get("error") if isinstance(answer, dict) else None
        raise ActRefused(str(text or "this daemon does not know that: is it of another version?"))
    return answer


def _exchange(path: str, method: str, question: str, timeout_s: float, arguments: dict[str, str]) -> tuple[int, Any]:
    connection = _UnixConnection(path, timeout_s)
    target = question + (f"?{urlencode(arguments)}" if arguments else "")
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER)
        json_there = answer.headers.get_content_type() == "application/json"
        if answer.status == 200 or (400 <= answer.status < 500 and json_there):
            return answer.status, json.loads(body)
        if answer.status in (404, 405):
            return answer.status, None
        raise DaemonUnreachable(f"{path}: answered {answer.status}: {body[:200].decode('utf-8', 'replace')}")
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
