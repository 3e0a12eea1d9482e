"""A slurmd that is started at standby and woken when the guest goes; its stand-in sleeps as slurmd does."""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.image.guest import GUEST, Guest, shells

SEED = "seed " + base64.b64encode(bytes(range(32))).decode()
GO = (SEED, "credential munge.key 0400 c2VjcmV0", "go")
# A thread sleeps in the C library; a signal to that thread ends its sleep, one to the other thread does not.
SLURMD = """#!{python}
import ctypes, os, signal, sys, threading
note = open("{log}", "a", buffering=1)
note.write(" ".join(sys.argv[1:]) + "\\n")
if "-V" in sys.argv:
    sys.exit()
print("slurmd: error: this is said at each start", flush=True)
conf = open(sys.argv[sys.argv.index("-f") + 1]).read() if "-f" in sys.argv else "fetched"
if conf == "dies":
    sys.exit(1)
def registering():
    libc, long = ctypes.CDLL(None), (ctypes.c_long * 2)(600, 0)
    while conf != "fetched" and (libc.nanosleep(long, None) == 0 or conf == "deaf"):
        pass
    note.write("registered\\n")
    print("slurmd: debug: slurmctld sent back 8 TRES", flush=True)
signal.signal(signal.SIGUSR2, lambda *_: None)
threading.Thread(target=registering, daemon=True).start()
while True:
    signal.pause()
"""
OTHERS = """
make_cgroups() { :; }
start_munge() { :; }
key_of_the_moment() { :; }
forget_key_of_the_moment() { :; }
read_with_libraries() { :; }
"""


@pytest.fixture(params=shells())
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    slurmd, log = tmp_path / "slurmd", tmp_path / "log"
    slurmd.write_text(SLURMD.format(python=sys.executable, log=log))
    slurmd.chmod(0o755)
    with Guest(tmp_path, request.param) as guest:
        script = (GUEST / "lrms-slurm.sh").read_text()
        for real, stand_in in (
            ("/usr/sbin/slurmd", str(slurmd)),
            ("CONF=/run/slurm/conf", f"CONF={tmp_path}/slurm/conf"),
            ("EARLY_LIMIT_S=5", "EARLY_LIMIT_S=2"),
            ("{ awk ", "{ busybox awk "),  # mawk waits for a full buffer; the image's shell has an awk of its own
        ):
            assert real in script
            script = script.replace(real, stand_in)
        (tmp_path / "lib" / "lrms-slurm.sh").write_text(script + OTHERS)
        yield guest


def file(content: str, name: str = "slurm.conf") -> str:
    return f"file {name} 1 1 {base64.b64encode(content.encode()).decode()}"


def at_standby(guest: Guest, conf: str) -> None:
    guest.send("set lrms slurm", "set controller ctl%3A6817", "set cpus 2", file(conf), "standby")
    guest.line("standby")


def go(guest: Guest, *more: str) -> list[str]:
    """The guest goes; how its slurmds were called from then on, and which of them registered."""
    before = started(guest)
    guest.send(guest.time(), *more, *GO)
    guest.line("ready")
    return started(guest)[len(before) :]


def started(guest: Guest) -> list[str]:
    log = guest.run.parent / "log"
    return [line for line in log.read_text().splitlines() if line != "-V"] if log.exists() else []


def test_files_that_are_just_being_told_again_are_not_in_the_way_of_slurmds_start(guest: Guest, tmp_path: Path) -> None:
    guest.send(file("whole"), "file slurm.conf 1 2 " + base64.b64encode(b"half").decode())
    guest.send("set lrms slurm", "set controller ctl%3A6817", "set cpus 2", "standby")
    guest.line("standby")
    assert {each.name: each.read_text() for each in (tmp_path / "slurm" / "conf").iterdir()} == {"slurm.conf": "whole"}


def test_a_slurmd_with_files_stands_still_at_standby_and_registers_when_the_guest_goes(guest: Guest) -> None:
    at_standby(guest, "good")
    (start,) = started(guest)
    assert start.startswith("-D -vv -Z -N vm7 --conf CPUs=2 -f ")
    pid = (guest.run / "early").read_text().split()[0]
    assert Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("T")
    assert go(guest) == ["registered"]


def test_what_slurmd_says_at_standby_is_no_failure_and_not_on_the_console(guest: Guest) -> None:
    at_standby(guest, "good")
    assert "said at each start" not in guest.said()
    assert not (guest.run / "lrms-error").exists()


@pytest.mark.parametrize("conf", ["dies", "deaf"])
def test_a_slurmd_that_died_or_does_not_wake_is_followed_by_one_that_fetches(guest: Guest, conf: str) -> None:
    at_standby(guest, conf)
    assert ("slurmd is not up at standby: slurmd: error: this is said" in guest.said()) == (conf == "dies")
    assert go(guest) == ["-D -vv -Z -N vm7 --conf CPUs=2 --conf-server ctl:6817", "registered"]
    assert not (guest.run.parent / "slurm" / "conf").exists()


def test_a_slurmd_that_offers_something_else_than_the_guest_is_told_when_it_goes_is_not_used(guest: Guest) -> None:
    at_standby(guest, "good")
    pid = (guest.run / "early").read_text().split()[0]
    assert go(guest, "set cpus 4")[0] == "-D -vv -Z -N vm7 --conf CPUs=4 --conf-server ctl:6817"
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")


def test_without_files_no_slurmd_is_started_at_standby(guest: Guest) -> None:
    guest.send("set lrms slurm", "set controller ctl%3A6817", "standby")
    guest.line("standby")
    assert started(guest) == []


def test_a_files_parts_are_put_together_also_when_they_come_again(guest: Guest) -> None:
    parts = [base64.b64encode(text).decode() for text in (b"one ", b"two ", b"three")]
    lines = [f"file a.conf {number} 3 {part}" for number, part in enumerate(parts, 1)]
    guest.send(*lines[:2], *lines, "file empty 1 1 -", "set lrms none")
    guest.settle()
    assert (guest.run / "files" / "a.conf").read_bytes() == b"one two three"
    assert (guest.run / "files" / "empty").read_bytes() == b""


@pytest.mark.parametrize("line", ["file ../a 1 1 eA==", "file a 2 2 eA==", "file a 1 100 eA==", "file a x 1 eA=="])
def test_what_is_no_part_of_a_file_is_refused(guest: Guest, line: str) -> None:
    guest.send(line, "set lrms none")
    guest.settle()
    assert "ignored line: file" in guest.said()
    assert [path.name for path in (guest.run / "files").iterdir() if not path.name.startswith(".")] == []
