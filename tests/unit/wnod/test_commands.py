"""The command line, asking real servers on real sockets."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.wnod.test_config import CATALOGUE
from wnod.ask import DaemonUnreachable, ask
from wnod.cli import COMMANDS, main

HOSTMASTER = """\
host: h1
baits: [bait-h1]
tls: {{ca: /t/ca.pem, certificate: /t/h1.pem, key: /t/h1.key}}
capacity: {{cpus: 4, memory_mib: 8192, disk_mib: 9000}}
slots: [{{name: vm1, mac: "52:54:00:12:34:56", address: 10.7.0.21/24}}]
hypervisor: {{bridge: br0}}
lrms: {{controller: "ctl:6817", munge_key: /etc/munge.key}}
runtime: {runtime}
catalogue: {etc}/catalogue.yaml
"""
BAIT = """\
bait: bait-h1
hostmaster: {{name: h1, address: "h1:9610"}}
tls: {{ca: /t/ca.pem, certificate: /t/b.pem, key: /t/b.key}}
lrms: {{cluster: site}}
runtime: {runtime}
"""
ROOM = {"cpus": 4, "memory_mib": 8192, "disk_mib": 9000}
HOST_SNAPSHOT: dict[str, Any] = {
    "role": "hostmaster",
    "host": "h1",
    "epoch": 3,
    "accelerator": "tcg",
    "accelerator_reason": "KVM hangs",
    "hypervisor": "ok",
    "capacity": {"total": ROOM, "free": {"cpus": 2, "memory_mib": 512, "disk_mib": 8000}},
    "slots": 2,
    "vms": [
        {"vm": "vm1", "generation": 7, "phase": "ready", "lease": "ab" * 16, "run": "site/12.1", "owner": 0,
         "environment": "debian12", "shape": {"cpus": 2, "memory_mib": 1024, "disk_mib": 512}, "since": 1.0,
         "way": "restore"},
        {"vm": "vm2\x1b[31m", "generation": 8, "phase": "booting", "lease": "cd" * 16, "run": None, "owner": 4000000,
         "environment": "debian12", "shape": None, "since": None},
    ],
    "spares": [
        {"vm": "vm3", "generation": 9, "phase": "paused", "environment": "debian12", "shape": None, "since": 1.0,
         "way": "boot", "purpose": "pool", "text": ""},
    ],
    "golden": [{"name": "vm1-0", "vm": "vm1", "environment": "debian12", "shape": None, "mib": 120, "made_at": 1.0}],
    "environments": [
        {"name": "debian12", "available": True, "text": "", "image": "ab" * 32, "largest": ROOM},
        {"name": "sci", "available": False, "text": "root.squashfs is missing", "image": "cd" * 32, "largest": ROOM},
    ],
}  # fmt: skip
BAIT_SNAPSHOT: dict[str, Any] = {
    "role": "bait",
    "bait": "bait-h1",
    "epoch": 2,
    "host": "h1",
    "link": True,
    "lrms": "away",
    "open": False,
    "reason": "wnod: no room",
    "jobs": [
        {"job": "12", "run": "site/12.0", "user": "alice", "environment": "debian12", "phase": "running", "vm": "vm1",
         "generation": 7, "since": 1.0, "text": "runs in vm1", "stages": {"intercepted": 1.0}},
    ],
}  # fmt: skip
BAIT_STORY = {"job": "12", "text": "runs in vm1", "steps": [{"at": 1.0, "text": "caught"}, {"at": 3.5, "text": "sent"}]}
HOST_STORY = {"job": "12", "text": "vm1 is started", "steps": [{"at": 2.0, "text": "vm1 made"}]}


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A directory with etc/ and two daemons that answer."""
    with tempfile.TemporaryDirectory(prefix="wnod-") as name:
        place = Path(name)
        write_configs(place, place / "etc")
        told = {
            str(place / "h"): {"snapshot": HOST_SNAPSHOT, "jobs": {"12": HOST_STORY}},
            str(place / "b"): {"snapshot": BAIT_SNAPSHOT, "jobs": {"12": BAIT_STORY}},
            str(place / "buggy"): {"snapshot": None, "jobs": {}},
        }
        (place / "told.json").write_text(json.dumps(told))
        argv = [sys.executable, str(Path(__file__).parent / "serving.py"), str(place / "told.json")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield place
            child.terminate()


def write_configs(place: Path, etc: Path, *, hostmaster: str = "h", bait: str = "b") -> None:
    etc.mkdir(exist_ok=True)
    (etc / "hostmaster.yaml").write_text(HOSTMASTER.format(runtime=place / hostmaster, etc=etc))
    (etc / "bait.yaml").write_text(BAIT.format(runtime=place / bait))
    (etc / "catalogue.yaml").write_text(CATALOGUE)


class Result:
    """What a command said and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def wnod(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> Result:
        try:
            code = main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        return Result(code, *capsys.readouterr())

    return call


# --- both daemons answer ------------------------------------------------------------------------------------


def test_status_shows_both_daemons(wnod: Any, site: Path) -> None:
    shown = wnod("status", "--etc", f"{site}/etc")
    assert shown.code == 0, shown.err
    assert "hostmaster h1\n  hypervisor    ok, tcg: KVM hangs\n" in shown.out
    assert "free: 2 of 4 cpus, 512 MiB of 8.0 GiB memory" in shown.out
    assert "1 ready, 1 booting" in shown.out
    assert "refused       sci (wnod env list says why)" in shown.out
    assert "bait bait-h1\n  bait        closed: wnod: no room\n  hostmaster  h1 connected\n" in shown.out
    assert "  LRMS        does not answer\n" in shown.out  # with slurmctld away for 40 s all looked well
    assert "jobs        1 running" in shown.out
    assert "  spares        1 paused\n  golden        1 states, 120 MiB of disk\n" in shown.out


def test_status_for_programs(wnod: Any, site: Path) -> None:
    shown = wnod("status", "--json", "--etc", f"{site}/etc")
    assert (shown.code, shown.json) == (0, {"hostmaster": HOST_SNAPSHOT, "bait": BAIT_SNAPSHOT})


def test_vms(wnod: Any, site: Path) -> None:
    shown = wnod("vms", "--etc", f"{site}/etc")
    header, first, second, third = shown.out.splitlines()
    columns = ["VM", "GEN", "PHASE", "WAY", "FOR", "ENVIRONMENT", "SHAPE", "OWNER", "RUN", "LEASE", "NOTE"]
    assert header.split() == columns
    assert re.match(r"vm3 +9 +spare, paused +boot .* waits for a lease", third)
    size = "2 cpus, 1.0 GiB, 512 MiB disk"
    assert re.match(rf"vm1 +7 +ready +restore +\d+ d +debian12 +{size} +root +site/12.1 +abab", first)
    assert first.index("ready") == header.index("PHASE") == second.index("booting")
    assert "vm2\\x1b[31m" in second, "what a daemon says must not reach the terminal as commands"
    assert wnod("vms", "--json", "--etc", f"{site}/etc").json == HOST_SNAPSHOT["vms"]


def test_jobs(wnod: Any, site: Path) -> None:
    shown = wnod("jobs", "--etc", f"{site}/etc")
    assert re.search(r"^12 +alice +debian12 +running +\d+ d +vm1 +7 +runs in vm1$", shown.out, re.MULTILINE)
    assert wnod("jobs", "--json", "--etc", f"{site}/etc").json == BAIT_SNAPSHOT["jobs"]


def test_env_list(wnod: Any, site: Path) -> None:
    shown = wnod("env", "list", "--etc", f"{site}/etc")
    assert re.search(r"^debian12 +available .* abababababab +-$", shown.out, re.MULTILINE)
    assert re.search(r"^sci +refused .* root.squashfs is missing$", shown.out, re.MULTILINE)
    assert wnod("env", "list", "--json", "--etc", f"{site}/etc").json == HOST_SNAPSHOT["environments"]


def test_explain_tells_one_story_of_both_daemons(wnod: Any, site: Path) -> None:
    shown = wnod("explain", "12", "--etc", f"{site}/etc")
    assert shown.code == 0
    first, *steps = shown.out.splitlines()
    assert first == "job 12: runs in vm1"
    assert [re.split(r"  +", step.strip())[-2:] for step in steps] == [
        ["bait", "caught"],
        ["hostmaster", "vm1 made"],
        ["bait", "sent"],
    ]
    assert "+1.50 s" in steps[2]
    assert [s["who"] for s in wnod("explain", "12", "--json", "--etc", f"{site}/etc").json["steps"]] == [
        "bait",
        "hostmaster",
        "bait",
    ]


def test_explain_a_job_nobody_has_met(wnod: Any, site: Path) -> None:
    shown = wnod("explain", "13_4", "--etc", f"{site}/etc")
    assert (shown.code, shown.out) == (1, "")
    assert "h1 and bait-h1 have never met job 13_4" in shown.err
    assert "squeue" in shown.err


@pytest.mark.parametrize("job", ["a'b", 'a"b', "a\nb", "../12", "пример", "1" * 10_000, "", "12 13", "$(id)", "-x"])
def test_a_job_id_that_is_none_is_refused_before_anybody_is_asked(wnod: Any, job: str) -> None:
    shown = wnod("explain", "--etc", "/nowhere", "--", job)
    assert (shown.code, shown.out) == (2, "")
    assert "is not a job id: write it as 12 or 12_3" in shown.err
    assert all(line.isprintable() and len(line) < 400 for line in shown.err.splitlines())


# --- they do not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("status",), ("vms",), ("jobs",), ("env", "list"), ("explain", "12")])
def test_a_daemon_that_is_not_there_is_exit_code_3_with_a_remedy(wnod: Any, tmp_path: Path, command: Any) -> None:
    write_configs(tmp_path, tmp_path / "etc")
    shown = wnod(*command, "--etc", f"{tmp_path}/etc")
    assert shown.code == 3
    assert "no such socket: is the daemon running?" in shown.out + shown.err
    assert "systemctl status" in shown.err


def test_status_shows_the_one_that_answers(wnod: Any, site: Path, tmp_path: Path) -> None:
    write_configs(site, tmp_path / "etc", bait="nobody")
    shown = wnod("status", "--etc", f"{tmp_path}/etc")
    assert shown.code == 3
    assert "1 ready, 1 booting" in shown.out
    assert "bait bait-h1\n  unreachable" in shown.out
    assert set(wnod("status", "--json", "--etc", f"{tmp_path}/etc").json["bait"]) == {"role", "name", "error"}


def test_explain_tells_what_it_can(wnod: Any, site: Path, tmp_path: Path) -> None:
    write_configs(site, tmp_path / "etc", bait="nobody")
    shown = wnod("explain", "12", "--etc", f"{tmp_path}/etc")
    assert shown.code == 3
    assert "vm1 made" in shown.out
    assert "no such socket" in shown.err


def test_env_list_falls_back_to_the_catalogue(wnod: Any, tmp_path: Path) -> None:
    write_configs(tmp_path, tmp_path / "etc")
    shown = wnod("env", "list", "--etc", f"{tmp_path}/etc")
    assert re.search(r"^debian12 +unknown +2 cpus", shown.out, re.MULTILINE)
    assert "this is the catalogue" in shown.err


@pytest.mark.parametrize("command", [("status",), ("vms",), ("jobs",), ("env", "list"), ("explain", "12")])
def test_no_configuration_is_wrong_usage(wnod: Any, tmp_path: Path, command: Any) -> None:
    shown = wnod(*command, "--etc", str(tmp_path))
    assert shown.code == 2
    assert "--etc" in shown.err


def test_a_wrong_configuration_is_explained(wnod: Any, tmp_path: Path) -> None:
    write_configs(tmp_path, tmp_path / "etc")
    (tmp_path / "etc" / "bait.yaml").write_text("bait: B1\n")
    shown = wnod("status", "--etc", f"{tmp_path}/etc")
    assert shown.code == 1
    assert "bait.yaml:1: bait: 'B1'" in shown.err


def test_a_bug_in_the_daemon_is_a_sentence_not_a_crash(wnod: Any, site: Path, tmp_path: Path) -> None:
    write_configs(site, tmp_path / "etc", hostmaster="buggy")
    shown = wnod("vms", "--etc", f"{tmp_path}/etc")
    assert shown.code == 3
    assert "answered 500: " in shown.err
    assert "see the daemon's log" in shown.err


def test_the_sockets_are_for_the_group_only(site: Path) -> None:
    assert os.stat(site / "h" / "status.sock").st_mode & 0o777 == 0o660


def test_the_numbers_are_there_too(site: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(site / "b" / "status.sock"))
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert b"wnod_bait_open NaN" in answer


def test_a_silent_daemon_is_given_up_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with pytest.raises(DaemonUnreachable, match="no answer in time"):
            ask(path, "/status", timeout_s=0.05)
    with pytest.raises(DaemonUnreachable, match="nobody listens"):
        ask(path, "/status")


@pytest.mark.parametrize("said", [b"", b"garbage\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n{", b"HTTP/1.0 200 OK\r\n\r\n\xff"])
def test_nonsense_on_the_socket_is_said_to_be_that(tmp_path: Path, said: bytes) -> None:

    def answer() -> None:
        connection, _ = listening.accept()
        connection.recv(4096)
        connection.sendall(said)
        connection.close()

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DaemonUnreachable, match="no sensible answer"):
            ask(str(tmp_path / "s"), "/status")
        thread.join()


def test_check_config_tells_all_mistakes_of_all_files(wnod: Any, tmp_path: Path) -> None:
    write_configs(tmp_path, tmp_path / "etc")
    good, bad, worse = (tmp_path / "etc" / f"{kind}.yaml" for kind in ("catalogue", "bait", "hostmaster"))
    bad.write_text(bad.read_text().replace("bait-h1", "B!").replace("site", "a b"))
    worse.write_text(worse.read_text().replace("cpus: 4", "cpus: four").replace("bridge", "brigde"))
    shown = wnod("check-config", str(good), str(bad), str(worse))
    assert shown.code == 1
    assert shown.out == f"{good}: fine\n"
    lines = shown.err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "bait", "lrms.cluster", "capacity.cpus", "hypervisor.bridge", "hypervisor.brigde",
    ]  # fmt: skip
    fields = [m["field"] for m in wnod("check-config", "--json", str(bad)).json]
    assert fields == ["bait", "lrms.cluster"]


def test_check_config_without_files_takes_those_that_are_there(wnod: Any, tmp_path: Path) -> None:
    write_configs(tmp_path, tmp_path / "etc")
    (tmp_path / "etc" / "bait.yaml").unlink()
    shown = wnod("check-config", "--etc", f"{tmp_path}/etc")
    assert (shown.code, len(shown.out.splitlines()), shown.err) == (0, 2, "")
    assert wnod("check-config", "--etc", f"{tmp_path}/nothing").code == 2


def test_check_config_without_files_takes_the_catalogue_that_the_hostmaster_would(wnod: Any, tmp_path: Path) -> None:
    """`wnod check-config` said that all was fine, and the daemon did not start with it."""
    write_configs(tmp_path, etc := tmp_path / "etc")
    host, site = etc / "hostmaster.yaml", tmp_path / "site.yaml"
    named = host.read_text().replace(f"{etc}/catalogue.yaml", str(site))
    host.write_text(named if str(site) in named else f"{named}catalogue: {site}\n")
    (etc / "catalogue.yaml").rename(site)
    assert f"{site}: fine" in wnod("check-config", "--etc", str(etc)).out
    site.write_text(site.read_text().replace("cpus", "cups"))
    assert f"{site}:" in wnod("check-config", "--etc", str(etc)).err
    site.unlink()
    shown = wnod("check-config", "--etc", str(etc))
    assert (shown.code, f"{site}:1: cannot be read" in shown.err) == (1, True)


def test_check_config_reads_a_daemons_own_file_as_that_daemon_does(wnod: Any, tmp_path: Path) -> None:
    write_configs(tmp_path, etc := tmp_path / "etc")
    (etc / "bait.yaml").write_text((etc / "hostmaster.yaml").read_text())
    shown = wnod("check-config", "--etc", str(etc))
    assert (shown.code, f"{etc}/bait.yaml: fine" in shown.out) == (1, False)


@pytest.mark.parametrize("kind", ["hostmaster", "bait", "catalogue"])
def test_check_config_sees_what_a_file_is(wnod: Any, tmp_path: Path, kind: str) -> None:
    write_configs(tmp_path, tmp_path / "etc")
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "etc" / f"{kind}.yaml").read_text())
    assert wnod("check-config", str(other)).code == 0
    assert wnod("check-config", "--kind", "bait", str(other)).code == (0 if kind == "bait" else 1)


def test_check_config_touches_nothing_but_the_file_it_is_given(tmp_path: Path) -> None:
    """Seen by Python's audit events, the second time, when nothing has to be imported any more."""
    write_configs(tmp_path, tmp_path / "etc")
    program = (
        "import json, sys\nseen = []\n"
        "from wnod.cli import main\n"
        "main(sys.argv[1:])\n"
        "sys.addaudithook(lambda name, args: seen.append([name, str(args[0]) if args else '']))\n"
        "main(sys.argv[1:])\n"
        "acts = ('open', 'os.', 'socket.', 'subprocess.', 'shutil.', 'sqlite3.')\n"
        "print(json.dumps([act for act in seen if act[0].startswith(acts)]))\n"
    )
    path = f"{tmp_path}/etc/hostmaster.yaml"
    argv = [sys.executable, "-c", program, "check-config", path]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    first, second, acts = done.stdout.splitlines()
    assert first == second == f"{path}: fine"
    assert {tuple(act) for act in json.loads(acts)} == {("open", path)}


@pytest.mark.parametrize("name", ["a'b", "a\nb", "../../x", "пример", "x" * 10_000, "\x1b[2J", "nul\0", "\udcff"])
def test_check_config_of_a_file_with_a_nasty_name(wnod: Any, tmp_path: Path, name: str) -> None:
    shown = wnod("check-config", f"{tmp_path}/{name}")
    assert (shown.code, shown.out) == (1, "")
    (line,) = shown.err.splitlines()
    assert "cannot be read" in line
    assert line.isprintable()


# --- usage -----------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_the_exit_codes(wnod: Any) -> None:
    shown = wnod("--help")
    assert shown.code == 0
    assert all(name in shown.out for name in COMMANDS)
    assert "3 a" in shown.out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(wnod: Any, name: str) -> None:
    shown = wnod(name, "--help")
    assert shown.code == 0
    assert COMMANDS[name][1] in " ".join(shown.out.split())


@pytest.mark.parametrize(
    "words",
    [
        *((name,) for name in COMMANDS),
        *(("vm", action) for action in ("pause", "resume", "keep", "kept", "drop")),
        *(("pki", action) for action in ("init", "issue", "renew", "show")),
        ("env", "list"), ("image", "build"), ("image", "verify"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_help_tells_the_exit_codes(wnod: Any, words: tuple[str, ...]) -> None:
    assert "exit codes: 0 fine, 1 a problem" in " ".join(wnod(*words, "--help").out.split())


@pytest.mark.parametrize("words", [(), ("stauts",), ("status", "--jason"), ("x" * 10_000,), ("a\nb\x1b[2J",), ("env",)])
def test_wrong_usage_is_one_clear_line(wnod: Any, words: tuple[str, ...]) -> None:
    shown = wnod(*words)
    assert (shown.code, shown.out) == (2, "")
    assert "--help" in shown.err
    assert all(line.isprintable() and len(line) < 400 for line in shown.err.splitlines())


def test_the_installed_command_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "wnod", "--version"], capture_output=True, text=True, check=True)
    assert re.match(r"wnod \d", done.stdout)
