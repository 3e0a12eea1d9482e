"""The node's first process as an ordinary process: it starts, reports and signals daemons over its socket."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab.layout import Layout
from deploy.lab.namespaces import LabError, NodeControl, kill_exactly, start_time, wait_for
from deploy.lab.nodeinit import NodeInit


@pytest.fixture
def control() -> Iterator[tuple[NodeControl, Path]]:
    # A short path: a socket's may have 107 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        layout = Layout(Path(name), Path(name))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(layout.control("n")))
        listener.listen()
        pid = os.fork()
        if pid == 0:
            try:
                NodeInit(listener).serve()
            finally:
                os._exit(1)
        listener.close()
        yield NodeControl(layout, "n"), Path(name)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def spawn(control: NodeControl, directory: Path, *argv: str) -> int:
    log = str(directory / "log")
    reply = control.ask(op="spawn", name="d", argv=list(argv), env={"PATH": os.environ["PATH"]}, log=log)
    return int(reply["pid"])


def status(control: NodeControl) -> int | None:
    found: int | None = control.ask(op="list")["children"]["d"]["status"]
    return found


def test_a_daemons_exit_code_and_output_are_kept(control: tuple[NodeControl, Path]) -> None:
    node, directory = control
    spawn(node, directory, "sh", "-c", "echo hello; echo oops >&2; exit 7")
    wait_for(lambda: status(node) is not None, 10, "did not end")
    assert status(node) == 7
    assert (directory / "log").read_text() == "hello\noops\n"


def test_a_running_daemon_is_not_started_twice_and_takes_signals(control: tuple[NodeControl, Path]) -> None:
    node, directory = control
    spawn(node, directory, "sleep", "60")
    with pytest.raises(LabError, match="already runs"):
        spawn(node, directory, "sleep", "60")
    node.ask(op="signal", name="d", signal=int(signal.SIGKILL))
    wait_for(lambda: status(node) is not None, 10, "did not die")
    assert status(node) == -signal.SIGKILL


def test_nonsense_is_answered_with_an_error(control: tuple[NodeControl, Path]) -> None:
    node, _ = control
    with pytest.raises(LabError, match="unknown op"):
        node.ask(op="dance")
    with pytest.raises(LabError, match="KeyError"):
        node.ask(nothing=1)
    assert node.alive()


def test_a_node_that_is_down_is_said_to_be_down(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is the lab up"):
        NodeControl(Layout(tmp_path, tmp_path), "h1").ask(op="list")


def test_only_the_very_process_is_killed() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    started = start_time(pid)
    assert started is not None
    kill_exactly(pid, started + 1)
    assert start_time(pid) == started
    reaper = threading.Thread(target=os.waitpid, args=(pid, 0))
    reaper.start()
    kill_exactly(pid, started)
    reaper.join()
    assert start_time(pid) is None
