"""Starting a node's first process and talking to it; running commands inside a node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.lab.layout import PROJECT, Layout

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENTER = ("--mount", "--net", "--uts", "--ipc", "--pid")


class LabError(Exception):
    """The lab cannot do what was asked; the text says what to do about it."""


def unshare_argv(specification: Path) -> list[str]:
    """The command that becomes a node: new namespaces, then `nodeinit` as process 1; killing it ends the node."""
    return [
        "unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--uts", "--ipc", "--propagation", "private",
        "--", sys.executable, "-m", "deploy.lab.nodeinit", str(specification),
    ]  # fmt: skip


def user_environment(user: str | None, home: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A login-like environment that holds nothing of the caller's own."""
    name = user or "root"
    base = {"PATH": PATH, "HOME": home, "USER": name, "LOGNAME": name, "LANG": "C.UTF-8", "SHELL": "/bin/bash"}
    return {**base, **(extra or {})}


def as_user(user: str | None, argv: Sequence[str]) -> list[str]:
    """`argv` run as `user`; names are looked up in the node's own passwd file."""
    if user in (None, "root"):
        return list(argv)
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *argv]


class NodeControl:
    """The other end of a node's control socket."""

    def __init__(self, layout: Layout, name: str) -> None:
        self._path = layout.control(name)
        self.name = name

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one reply; LabError when the node is down or refuses."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(self._path))
                connection.sendall(json.dumps(request).encode() + b"\n")
                data = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError as error:
            raise LabError(f"node {self.name} does not answer ({error}); is the lab up?") from error
        reply: dict[str, Any] = json.loads(data)
        if "error" in reply:
            raise LabError(f"{self.name}: {reply['error']}")
        return reply

    def alive(self) -> bool:
        with contextlib.suppress(LabError):
            self.ask(op="list")
            return True
        return False

    def pid(self) -> int:
        """The node's process 1 as the machine numbers it (the kernel says so)."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._path))
            except OSError as error:
                raise LabError(f"node {self.name} does not answer ({error}); is the lab up?") from error
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            connection.sendall(b'{"op":"list"}\n')
        return int.from_bytes(credentials[:4], sys.byteorder)

    def wait(self, seconds: float = 15) -> None:
        """Returns when the node answers; LabError after `seconds`."""
        wait_for(self.alive, seconds, f"node {self.name} did not start")


def wait_for(condition: Any, seconds: float, failure: str, pause: float = 0.02) -> None:
    """Polls `condition` until it is true; LabError(`failure`) after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{failure} within {seconds:g} s")
        time.sleep(pause)


def start_first(specification: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts the lab's outermost process, detached from this one: the lab outlives the command that made it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            unshare_argv(specification),
            cwd=PROJECT,
            env={"PATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def enter_argv(pid: int, argv: Sequence[str], cwd: str) -> list[str]:
    """The command that runs `argv` inside the node whose process 1 is `pid`."""
    return ["nsenter", "--target", str(pid), *ENTER, "--", "env", "-C", cwd, *argv]


def start_time(pid: int) -> int | None:
    """The kernel's start time of a process: with the pid it names one process for ever. None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def kill_exactly(pid: int, started: int) -> None:
    """SIGKILL to that very process, nothing when it is another one by now; returns when it is gone."""
    if start_time(pid) != started:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: start_time(pid) != started, 30, f"process {pid} did not die")
