"""The lab leaves the machine as it found it, whatever ends it, and its hosts can lose power and cable."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab import cluster
from deploy.lab.lab import Lab
from deploy.lab.layout import PROJECT, Layout
from deploy.lab.namespaces import LabError, wait_for
from tests.turns import in_turn

pytestmark = pytest.mark.real
LAYOUT = Layout(Path("/var/lib/wnod-lab-life"), Path("/run/wnod-lab-life"), hosts=1)


def lab_processes() -> list[str]:
    """Processes of this lab, found by its run directory in their arguments or by their root."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(os.fsencode(LAYOUT.run) + b"/") for word in words):
            found.append(" ".join(os.fsdecode(word) for word in words))
    return found


def machine() -> dict[str, object]:
    """What the lab must not change on the machine."""
    accounts = [Path("/etc", name).read_bytes() for name in ("passwd", "group", "shadow", "hosts")]
    return {
        "accounts": hashlib.sha256(b"\0".join(accounts)).hexdigest(),
        "etc": sorted(path.name for path in Path("/etc").iterdir()),
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if "wnod-lab-life" in line],
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "homes": sorted(path.name for path in Path("/home").iterdir()),
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/wnod*")),
        "libexec": Path("/usr/libexec/wnod").exists(),
    }


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab(LAYOUT)
    with in_turn(LAYOUT):
        made.purge()
        yield made
        made.purge()


def test_down_leaves_nothing(lab: Lab) -> None:
    before = machine()
    lab.up()
    during = machine()
    lab.purge()
    assert during == before
    assert machine() == before
    assert lab_processes() == []
    assert not LAYOUT.run.exists()
    assert not LAYOUT.root.exists()


def test_killing_the_first_process_ends_everything_and_up_starts_anew(lab: Lab) -> None:
    before = machine()
    lab.up()
    os.kill(int(json.loads(LAYOUT.state_file.read_text())["pid"]), signal.SIGKILL)
    wait_for(lambda: lab_processes() == [], 10, "processes of the lab survived it")
    assert machine() == before
    assert not lab.status()["up"]
    lab.up()
    assert lab.status()["slurm"] == {"bait-h1": "idle"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(lab: Lab, number: int) -> None:
    environment = {
        **os.environ,
        "WNOD_LAB_ROOT": str(LAYOUT.root),
        "WNOD_LAB_RUN": str(LAYOUT.run),
        "WNOD_LAB_HOSTS": "1",
    }
    argv = [sys.executable, "-m", "deploy.lab", "up", "--bare"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a script starts with & ignores it, and so its heirs
    with subprocess.Popen(argv, cwd=PROJECT, env=environment, stderr=subprocess.DEVNULL) as up:
        wait_for(LAYOUT.control("head").exists, 20, "the lab did not begin")
        up.send_signal(number)
    assert up.returncode != 0
    assert lab_processes() == []
    assert not LAYOUT.run.exists()


def test_a_second_up_is_refused_and_disturbs_nothing(lab: Lab) -> None:
    lab.up()
    with pytest.raises(LabError, match="already up"):
        lab.up()
    assert lab.status()["slurm"] == {"bait-h1": "idle"}


def test_a_host_loses_power_and_cable(lab: Lab) -> None:
    def reaches_head() -> bool:
        connect = "exec 3<>/dev/tcp/10.77.0.1/6817"
        return lab.run("h1", ["timeout", "1", "bash", "-c", connect]).returncode == 0

    lab.up()
    assert reaches_head()
    lab.cut("h1")
    assert not reaches_head()
    lab.heal("h1")
    wait_for(reaches_head, 5, "no connection after heal")
    boot = lab.children("h1")["slurmd"]["started"]
    lab.reboot("h1")
    assert lab.children("h1")["slurmd"]["started"] > boot
    cluster.wait_for_baits(lab)
    assert reaches_head()


def test_users_and_daemons_live_in_the_lab_only(lab: Lab) -> None:
    lab.up()
    assert lab.run("head", ["id", "-un"], user="alice").stdout == "alice\n"
    assert lab.run("h1", ["hostname"]).stdout == "h1\n"
    with pytest.raises(subprocess.CalledProcessError):
        lab.run("h1", ["false"], check=True)
    pid = lab.spawn("h1", "nap", ["sleep", "60"], user="bob", env={"MARK": "1"})
    assert lab.run("h1", ["ps", "-o", "user=", "-p", str(pid)]).stdout.strip() == "bob"
    assert lab.kill("h1", "nap") == -signal.SIGTERM
    refused = lab.run("h1", ["sh", "-c", "cp /bin/true ~/p && ~/p"], user="alice")
    assert "Permission denied" in refused.stderr
