"""The starter as the LRMS runs it: a process of its own, judged by its exit code."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bait import starter

BATCH = ("batch", "12", "-", "0", "1000", "--", "/var/spool/slurmd/job12/slurm_script")
Answer = bytes | Callable[[socket.socket], None]


class Bait:
    """A bait that gives one fixed answer to every starter and keeps what it was asked."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.asked: list[bytes] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096))
                if callable(self._answer):
                    self._answer(connection)
                else:
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[Callable[[Answer], Bait]]:
    made: list[Bait] = []

    def make(answer: Answer) -> Bait:
        made.append(Bait(tmp_path / "hook.sock", answer))
        return made[-1]

    yield make
    for one in made:
        with contextlib.suppress(OSError):
            one.close()


def start(
    tmp_path: Path, *arguments: str, limit: float = 5.0, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The starter's own file, isolated as on a bait; only the settings' path is a test's."""
    settings = tmp_path / "starter.conf"
    if not settings.exists():
        settings.write_text(f"socket={tmp_path / 'hook.sock'}\nlimit={limit}\n")
        settings.chmod(0o644)
    program = (
        f"import runpy,sys; sys.argv[0]={starter.__file__!r};"
        f"code=open(sys.argv[0]).read().replace({starter.SETTINGS!r},{str(settings)!r});"
        "exec(compile(code,sys.argv[0],'exec'),{'__name__':'__main__'})"
    )
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program, *arguments], stderr=subprocess.PIPE, cwd=tmp_path, env=env
    )


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, error = process.communicate(timeout=30)
    return process.returncode, error.decode()


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("the starter reads settings of root's only")


def test_park_is_the_only_way_to_199(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    one = bait(b'{"answer":"park","text":""}\n')
    assert finish(start(tmp_path, *BATCH)) == (199, "")
    assert one.asked == [b'{"version":1,"job":"12","task":null,"restart":0,"step":"batch"}\n']


def test_an_array_task_and_its_restart_are_told(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    one = bait(b'{"answer":"park","text":""}\n')
    start(tmp_path, "batch", "7", "3", "2", "1000", "--", "x").wait(30)
    assert one.asked == [b'{"version":1,"job":"7","task":3,"restart":2,"step":"batch"}\n']


@pytest.mark.parametrize(
    "answer",
    [
        b'{"answer":"hand-back","text":"no room"}\n',
        b'{"answer":"parked"}\n',
        b'{"answer":["park"]}\n',
        b'["park"]\n',
        b'"park"\n',
        b"park\n",
        b"\xff\xfe\n",
        b'{"answer":"park"',
        b"{" * 5000,
        b"[" * 4000 + b"\n",
    ],
)
def test_every_other_answer_hands_back(tmp_path: Path, bait: Callable[[Answer], Bait], answer: bytes) -> None:
    bait(answer)
    assert finish(start(tmp_path, *BATCH)) == (198, "")


def test_a_refusal_is_told_to_the_user_in_one_line(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    bait('{"answer":"refuse","text":"no environment \\u001b[2J\\n naïve"}\n'.encode())
    assert finish(start(tmp_path, *BATCH)) == (198, "wnod: no environment  [2J  na\\xefve\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("batch",),
        ("batch", "x", "-", "0", "1000", "--"),
        ("batch", '1"}', "-", "0", "1000"),
        ("batch", "1", "x", "0", "1000", "--"),
        ("batch", "1", "-", "", "1000", "--"),
    ],
)
def test_unusable_arguments_hand_back(
    tmp_path: Path, bait: Callable[[Answer], Bait], arguments: tuple[str, ...]
) -> None:
    one = bait(b'{"answer":"park","text":""}\n')
    assert finish(start(tmp_path, *arguments))[0] == 198
    assert one.asked == []


def test_a_step_ends_with_a_clear_line(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    one = bait(b'{"answer":"park","text":""}\n')
    code, text = finish(start(tmp_path, "step", "12", "-", "0", "1000", "--", "hostname"))
    assert code == 1
    assert "batch" in text
    assert one.asked == []


def test_nobody_listens_hands_back(tmp_path: Path) -> None:
    assert finish(start(tmp_path, *BATCH, limit=0.5))[0] == 198
    (tmp_path / "hook.sock").write_text("not a socket")
    assert finish(start(tmp_path, *BATCH, limit=0.5))[0] == 198


def test_a_bait_without_a_daemon_keeps_its_job_until_the_limit_and_so_takes_no_others_out_of_the_queue(
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    assert finish(start(tmp_path, *BATCH, limit=1.5))[0] == 198
    assert time.monotonic() - began > 1.0  # the limit but for one pause: giving up at once takes a tenth of it


def test_a_bait_that_ends_without_a_word_is_asked_again_until_the_limit(
    tmp_path: Path, bait: Callable[[Answer], Bait]
) -> None:
    one = bait(b"")
    assert finish(start(tmp_path, *BATCH, limit=1.0))[0] == 198
    assert len(one.asked) > 1


def test_a_bait_that_starts_anew_is_asked_again(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    """A crash of the daemon costs the jobs at the bait nothing but its restart."""
    first = bait(b"")
    process = start(tmp_path, *BATCH)
    while not first.asked:
        assert process.poll() is None
    first.close()
    (tmp_path / "hook.sock").unlink()
    second = bait(b'{"answer":"park","text":""}\n')
    assert finish(process)[0] == 199
    assert second.asked == first.asked[:1]


def test_a_silent_bait_hands_back_within_the_limit(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    over = threading.Event()
    bait(lambda _: over.wait(30) and None)
    began = time.monotonic()
    assert finish(start(tmp_path, *BATCH, limit=0.3))[0] == 198
    assert 0.25 < time.monotonic() - began < 5
    over.set()


def test_a_bait_that_drips_does_not_stretch_the_limit(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        while not over.wait(0.05):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    bait(drip)
    assert finish(start(tmp_path, *BATCH, limit=0.4))[0] == 198
    over.set()


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """500 jobs at once fill the listen queue: connect() must wait, not fail."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "hook.sock"))
    listener.listen(0)
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(tmp_path / "hook.sock"))  # the queue is full now
    process = start(tmp_path, *BATCH)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    listener.accept()[0].close()
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b'{"answer":"park","text":""}\n')
    assert finish(process)[0] == 199
    for one in (connection, first, listener):
        one.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU])
def test_a_signal_that_ends_the_job_hands_back(
    tmp_path: Path, bait: Callable[[Answer], Bait], number: signal.Signals
) -> None:
    asked, over = threading.Event(), threading.Event()
    bait(lambda _: asked.set() or (over.wait(30) and None))  # type: ignore[func-returns-value]
    process = start(tmp_path, *BATCH)
    assert asked.wait(10)
    process.send_signal(number)
    assert finish(process)[0] == 198
    over.set()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGRTMIN])
def test_a_users_own_signals_change_nothing(
    tmp_path: Path, bait: Callable[[Answer], Bait], number: signal.Signals
) -> None:
    asked, over = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        asked.set()
        over.wait(30)
        connection.sendall(b'{"answer":"park","text":""}\n')

    bait(answer)
    process = start(tmp_path, *BATCH)
    assert asked.wait(10)
    process.send_signal(number)
    over.set()
    assert finish(process)[0] == 199


def test_the_users_environment_is_not_read(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    bait(b'{"answer":"park","text":""}\n')
    (tmp_path / "json.py").write_text("import os; os._exit(0)")
    (tmp_path / "socket.py").write_text("import os; os._exit(0)")
    hostile = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "json.py"), "PYTHONHOME": "/nonexistent"}
    assert finish(start(tmp_path, *BATCH, env=hostile))[0] == 199


def test_settings_others_could_have_written_are_ignored(tmp_path: Path) -> None:
    settings = tmp_path / "starter.conf"
    settings.write_text("# ours\nsocket = /somewhere\n\nlimit=3\n")
    settings.chmod(0o644)
    assert starter.read_settings(str(settings)) == {"socket": "/somewhere", "limit": "3"}
    settings.chmod(0o666)
    assert starter.read_settings(str(settings)) == {}
    settings.chmod(0o644)
    os.chown(settings, 65534, 0)
    assert starter.read_settings(str(settings)) == {}
    assert starter.read_settings(str(tmp_path / "missing")) == {}


def test_settings_behind_a_link_or_pipe_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe", 0o644)
    assert starter.read_settings(str(tmp_path / "pipe")) == {}
    assert starter.run(["starter", *BATCH], str(tmp_path / "link")) == 198


def test_it_starts_fast(tmp_path: Path, bait: Callable[[Answer], Bait]) -> None:
    bait(b'{"answer":"park","text":""}\n')
    best = 9.0
    for _ in range(5):
        began = time.monotonic()
        assert finish(start(tmp_path, *BATCH))[0] == 199
        best = min(best, time.monotonic() - began)
    assert best < 0.06


def test_it_needs_the_standard_library_only() -> None:
    source = Path(starter.__file__).read_text()
    for line in source.splitlines():
        if line.lstrip().startswith(("import ", "from ")):
            assert line.split()[1].split(".")[0] in sys.stdlib_module_names
