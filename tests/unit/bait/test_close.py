"""`python -m bait.close`: an open node without a daemon is closed, and no other node is ever touched."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bait.close import AGAIN_S, LIMIT_S, NOT_RUNNING, Result, close, main
from tests.fakes.lrms import FakeLrms
from tests.unit.bait.records import BAIT
from wnod.journal import Journal

ROOT = Path(__file__).resolve().parents[3]
STUB = f"""#!{sys.executable}
import pathlib, re, sys
node = pathlib.Path(__file__).parent / "node"
if sys.argv[0].endswith("sinfo"):
    mark = re.search(r"NodeList:0(\\w+),", sys.argv[-1])[1]
    print(mark.join([*node.read_text().splitlines(), ""]))
else:
    name, reason = (sys.argv[2].split("=")[1], sys.argv[4].split("=", 1)[1])
    node.write_text(f"{{name}}\\nidle+drain\\n{{reason}}\\n")
"""
"""sinfo and scontrol of a cluster of one node."""


class Case:
    def __init__(self) -> None:
        self.clock = Clock()
        self.lrms = FakeLrms(self.clock)
        self.lrms.add_node(BAIT)

    def close(self, seconds: float = 0.0) -> Result | None:
        """What came of it, once so much time has passed."""
        got: list[Result] = []
        Deferred.fromCoroutine(close(self.clock, self.lrms, BAIT)).addCallback(got.append)
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
        return got[0] if got else None

    @property
    def closed(self) -> str | None:
        return self.lrms.all_nodes[BAIT].closed


@pytest.fixture
def case() -> Case:
    return Case()


def test_an_open_node_without_a_daemon_is_closed_with_our_word(case: Case) -> None:
    assert case.close() == Result(True, f"{BAIT} is closed: wnod: the bait daemon is not running", 0)
    assert case.closed == NOT_RUNNING
    assert NOT_RUNNING.startswith("wnod:")  # so that the daemon opens it again


@pytest.mark.parametrize("reason", ["disk broken", "wnod: the bait daemon is stopped"])
def test_a_node_that_is_closed_already_keeps_its_reason(case: Case, reason: str) -> None:
    case.lrms.drain(BAIT, reason)
    assert case.close() == Result(True, f"{BAIT} was closed already: {reason}", 0)
    assert case.closed == reason


def test_a_node_that_is_down_is_left_so_and_not_called_closed(case: Case) -> None:
    case.lrms.all_nodes[BAIT].up = False
    result = case.close()
    assert result is not None
    assert (result.closed, result.code, case.closed) == (False, 1, None)


def test_a_node_that_the_lrms_does_not_know_is_named(case: Case) -> None:
    del case.lrms.all_nodes[BAIT]
    result = case.close()
    assert result is not None
    assert (result.closed, result.code) == (False, 1)
    assert repr(BAIT) in result.text


def test_an_lrms_that_is_away_for_a_moment_is_asked_again(case: Case) -> None:
    case.lrms.away = True
    case.clock.callLater(3.5, setattr, case.lrms, "away", False)
    result = case.close(5)
    assert result is not None
    assert result.closed
    assert case.closed == NOT_RUNNING


def test_an_lrms_that_is_away_holds_nobody_up_for_long(case: Case) -> None:
    case.lrms.away = True
    result = case.close(LIMIT_S + AGAIN_S + 0.1)
    assert result is not None
    assert (result.closed, result.code) == (False, 1)
    assert "does not answer" in result.text


def test_an_lrms_that_hangs_holds_nobody_up_for_long(case: Case) -> None:
    case.lrms.latency_s = 1000.0
    assert case.close(LIMIT_S - 0.5) is None
    result = case.close(LIMIT_S + 0.1)
    assert result is not None
    assert (result.closed, result.code) == (False, 1)


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, for sockets; with a batch system."""
    with tempfile.TemporaryDirectory(prefix="wnod-") as name:
        for command in ("sinfo", "scontrol"):
            (Path(name) / command).write_text(STUB)
            (Path(name) / command).chmod(0o755)
        (Path(name) / "node").write_text("bait-h1\nidle\nnone\n")
        yield Path(name)


def write(place: Path, more: str = "", lrms: str = "", bait: str = "bait-h1") -> str:
    """A bait.yaml."""
    commands = f"lrms: {{commands: {place}{lrms}}}\nstate: {place}\nruntime: {place}\n"
    (place / "bait.yaml").write_text(f"bait: {bait}\n{commands}{more}")
    return str(place / "bait.yaml")


def command(config: str, *more: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "bait.close", "--config", config, *more]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)


def node(place: Path) -> list[str]:
    return (place / "node").read_text().splitlines()


def test_a_node_is_closed_though_other_fields_of_the_configuration_are_wrong(place: Path) -> None:
    config = write(place, "gate: [wrong]\nno_such_field: 1\ntls: nothing\n", ", poll_s: never")
    done = command(config, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()  # one, as of a log
    said = json.loads(line)
    assert (said["bait"], said["closed"], said["level"], said["where"]) == ("bait-h1", True, "info", "bait.close")
    assert said["text"] == f"bait-h1 is closed: {NOT_RUNNING}"
    assert node(place) == ["bait-h1", "idle+drain", NOT_RUNNING]
    again = command(config)
    assert (again.returncode, again.stdout) == (0, f"bait-h1 was closed already: {NOT_RUNNING}\n")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "No such file"),
        ("bait: [", "not YAML"),
        ("lrms: {}\n", "bait: missing"),
        ("bait: '*'\n", "bait"),
        ("bait: bait-h1\nlrms: {commands: bin}\n", "lrms.commands"),
        ("bait: bait-h1\nlrms: {kind: pbs}\n", "lrms.kind"),
    ],
)
def test_without_the_nodes_name_nothing_is_done_and_what_is_missing_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], content: str | None, named: str
) -> None:
    if content is not None:
        (place / "bait.yaml").write_text(content)
    assert main(["--config", str(place / "bait.yaml")]) == 78
    said = capsys.readouterr()
    assert said.out == ""
    assert "nothing was done" in said.err
    assert named in said.err


def refused(place: Path, capsys: pytest.CaptureFixture[str], config: str) -> str:
    """The command does nothing; what it says."""
    assert main(["--config", config, "--json"]) == 1
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (said["closed"], said["level"]) == (False, "warn")
    assert node(place)[1] == "idle"
    return str(said["text"])


def test_the_node_of_another_host_is_not_closed_by_a_copied_configuration(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Journal(str(place / "journal.sqlite"), "bait", "bait-h2").close()
    assert "of bait bait-h2" in refused(place, capsys, write(place))


def test_a_bait_whose_daemon_answers_is_not_closed(
    place: Path, capsys: pytest.CaptureFixture[str], serving: Callable[[Path], None]
) -> None:
    serving(place)
    assert "the daemon of bait-h1 answers" in refused(place, capsys, write(place))


@pytest.fixture
def serving(place: Path) -> Iterator[Callable[[Path], None]]:
    """A daemon's status socket, in a process of its own."""
    running: list[subprocess.Popen[str]] = []

    def serve(runtime: Path) -> None:
        told = place / "served.json"
        told.write_text(json.dumps({str(runtime): {"snapshot": {"role": "bait"}, "jobs": {}}}))
        argv = [sys.executable, "-m", "tests.unit.wnod.serving", str(told)]
        running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        assert running[-1].stdout is not None
        assert running[-1].stdout.readline() == "ready\n"

    yield serve
    for process in running:
        process.kill()
        process.communicate()
