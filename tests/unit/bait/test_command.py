"""Running an LRMS's commands: real processes, real time-outs."""

import os
import time
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from bait.lrms.base import LrmsUnavailable
from bait.lrms.command import Commands, Output


def script(directory: Path, text: str) -> Path:
    path = directory / "squeue"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest_twisted.ensureDeferred
async def test_arguments_output_and_exit_code_come_through(tmp_path: Path) -> None:
    script(tmp_path, 'printf "<%s>" "$@"; echo oops >&2; exit 3')
    output = await Commands(reactor, 10, str(tmp_path)).run(("squeue", "$(id)", "a b", "", "'\n"))
    assert output == Output(3, "<$(id)><a b><><'\n>", "oops\n")


@pytest_twisted.ensureDeferred
async def test_nothing_of_the_daemons_environment_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "x")
    script(tmp_path, "exec env")
    output = await Commands(reactor, 10, str(tmp_path), {"SLURM_CONF": "/x"}).run(("squeue",))
    names = {line.partition("=")[0] for line in output.out.splitlines()}
    assert names <= {"PATH", "LANG", "TZ", "SLURM_CONF", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "SLURM_CONF" in names


@pytest_twisted.ensureDeferred
async def test_a_silent_command_is_killed(tmp_path: Path) -> None:
    script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    began = time.monotonic()
    with pytest.raises(LrmsUnavailable, match=r"no answer in 0\.3 s"):
        await Commands(reactor, 0.3, str(tmp_path)).run(("squeue",))
    assert time.monotonic() - began < 5
    await _later(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest_twisted.ensureDeferred
async def test_a_command_killed_by_a_signal_did_not_succeed(tmp_path: Path) -> None:
    script(tmp_path, "kill -9 $$")
    assert (await Commands(reactor, 10, str(tmp_path)).run(("squeue",))).code == -9


@pytest_twisted.ensureDeferred
async def test_a_missing_command_says_nothing_about_the_lrms(tmp_path: Path) -> None:
    with pytest.raises(LrmsUnavailable, match="squeue: cannot be started"):
        await Commands(reactor, 10, str(tmp_path)).run(("squeue",))


@pytest_twisted.ensureDeferred
async def test_bytes_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    script(tmp_path, r"printf 'a\377b'")
    assert (await Commands(reactor, 10, str(tmp_path)).run(("squeue",))).out == "a\ufffdb"


@pytest_twisted.ensureDeferred
async def test_not_all_run_at_once(tmp_path: Path) -> None:
    script(tmp_path, f"mkdir {tmp_path}/$$; ls -d {tmp_path}/[0-9]* | wc -l; sleep 0.05; rmdir {tmp_path}/$$")
    commands = Commands(reactor, 10, str(tmp_path))
    outputs = await gatherResults([Deferred.fromCoroutine(commands.run(("squeue",))) for _ in range(12)])
    assert max(int(output.out) for output in outputs) <= 4


def _later(seconds: float) -> "Deferred[None]":
    waiting: Deferred[None] = Deferred()
    reactor.callLater(seconds, waiting.callback, None)  # type: ignore[attr-defined]
    return waiting
