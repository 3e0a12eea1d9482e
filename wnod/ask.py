"""Asking a daemon of this machine how it is, over the Unix socket of `wnod.status`.

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
