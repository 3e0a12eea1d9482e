"""The first process (PID 1) of one lab node: makes the node's private file system, starts daemons, reaps everything.

Only the standard library, because it is the root of the lab: when it dies, the kernel ends every process of the node.
It is driven over a Unix socket by one JSON line per request (see `namespaces.py` for the other end).
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from deploy.lab import mounts

MAX_REQUEST = 1 << 20


@dataclasses.dataclass
class Child:
    """A daemon that was asked for by name."""

    pid: int
    argv: list[str]
    started: float
    status: int | None = None


class NodeInit:
    """Answers spawn, signal and list; reaps every process of the node at once."""

    def __init__(self, listener: socket.socket) -> None:
        self._children: dict[str, Child] = {}
        self._listener = listener
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Runs until the process is killed."""
        # A wake-up pipe, not a poll: libvirt waits for a dead QEMU to be reaped, so reaping must not wait for a tick.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.set_blocking(reader, False)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        self._selector.register(reader, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    os.read(reader, 4096)
            self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children.values():
                if child.pid == pid:
                    child.status = os.waitstatus_to_exitcode(status)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(5)
            try:
                reply = self._answer(_receive(connection))
            except (OSError, ValueError, KeyError, TypeError) as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            try:
                connection.sendall(json.dumps(reply).encode() + b"\n")
            except OSError:
                return

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "spawn":
                return self._spawn(request)
            case "signal":
                return self._signal(request["name"], int(request["signal"]))
            case "list":
                return {"children": {name: dataclasses.asdict(child) for name, child in self._children.items()}}
        raise ValueError(f"unknown op {request['op']!r}")

    def _spawn(self, request: dict[str, Any]) -> dict[str, Any]:
        known = self._children.get(request["name"])
        if known is not None and known.status is None:
            raise ValueError(f"{request['name']} already runs as pid {known.pid}")
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            pid = os.posix_spawnp(
                request["argv"][0],
                request["argv"],
                request["env"],
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE),
                setsigmask=(),
            )
        finally:
            os.close(log)
        self._children[request["name"]] = Child(pid, request["argv"], time.time())
        return {"pid": pid}

    def _signal(self, name: str, number: int) -> dict[str, Any]:
        child = self._children[name]
        if child.status is None:
            os.kill(child.pid, number)
        return {"pid": child.pid, "status": child.status}


def _receive(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n") and len(data) < MAX_REQUEST:
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
    request = json.loads(data)
    if not isinstance(request, dict):
        raise TypeError("a request is a JSON object")
    return request


def main(argv: list[str]) -> None:
    """`argv[0]` is the node's specification file (JSON: name, control, mounts)."""
    specification = json.loads(Path(argv[0]).read_text())
    socket.sethostname(specification["name"])
    mounts.build(mounts.Plan(**specification["mounts"]))
    control = specification["control"]
    Path(control).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        # Under another name first: whoever sees the final name can connect.
        listener.bind(control + ".new")
        os.chmod(control + ".new", 0o600)
        listener.listen(64)
        os.rename(control + ".new", control)
        NodeInit(listener).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
