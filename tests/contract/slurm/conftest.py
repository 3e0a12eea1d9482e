"""A lab of its own with a stand-in for the job starter, and a node that plays the VM."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.lab import Lab
from deploy.lab.layout import Layout
from deploy.lab.slurmconf import FRAGMENT
from tests.turns import in_turn

HERE = Path(__file__).parent
LAYOUT = Layout(Path("/var/lib/wnod-lab-spank"), Path("/run/wnod-lab-spank"))
SHOW_WHO_RUNS = """
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void show(void)
{
    char host[64] = "";
    FILE *file = fopen(EVIDENCE, "a");
    gethostname(host, 63);
    if (file) { fprintf(file, "%s\\n", host); fclose(file); }
}
"""


class Cluster:
    """Submits as alice and looks at jobs as Slurm sees them."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        self.lab = lab
        self.scratch = scratch
        self.evidence = scratch / "evidence"

    def command(self, *argv: str, user: str | None = None) -> str:
        """stdout and stderr of a command on the head."""
        done = self.lab.run("head", argv, user=user)
        return (done.stdout + done.stderr).strip()

    def submit(self, *options: str, plan: str = "exit 199", env: str = "", program: str = "hostname") -> str:
        export = ",".join(filter(None, ["ALL", f"PLAN={plan}", env]))
        words = ["sbatch", "--parsable", "-o", f"{self.scratch}/out.%j", f"--export={export}", *options]
        return self.command(*words, "--wrap", program, user="alice")

    def job(self, job: str) -> dict[str, str]:
        words = self.command("scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, condition: Callable[[], bool], seconds: float = 15) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def wait_state(self, job: str, state: str) -> dict[str, str]:
        self.wait(lambda: self.job(job).get("JobState") == state)
        return self.job(job)

    def back_in_the_queue(self, job: str) -> bool:
        """Whether the job pends for its second run. Slurm counts the restart while the first run still completes."""

        def pends() -> bool:
            shown = self.job(job)
            return (shown["Restarts"], shown["JobState"]) == ("1", "PENDING")

        return self.wait(pends)

    def seen(self, job: str, restart: int = 0) -> dict[str, Any]:
        """What the starter saw, once it was called for that run."""
        path = self.lab.layout.home / "alice" / f"seen.{job}.{restart}"
        assert self.wait(path.exists), f"the starter was never called: {self.job(job)}"
        seen: dict[str, Any] = json.loads(path.read_text())
        return seen

    def go(self, job: str) -> None:
        (self.lab.layout.home / "alice" / f"go.{job}").touch()

    def user_code_ran_on(self) -> set[str]:
        return set(self.evidence.read_text().split()) if self.evidence.exists() else set()

    def move(self, job: str) -> None:
        """What the bait does: to the VM's node and released."""
        target = ("Partition=vwn", "ReqNodeList=vm1", "StartTime=now")
        assert self.command("scontrol", "update", f"JobId={job}", *target) == ""
        assert self.command("scontrol", "release", job) == ""


def vm_node(lab: Lab) -> None:
    """Turns h2 into a VM: its bait leaves, a dynamic node with the VM's plugstack.conf comes."""
    lab.run("head", ["scontrol", "update", "NodeName=bait-h2", "State=DRAIN", "Reason=test"])
    lab.kill("h2", "slurmd")
    shutil.copy(FRAGMENT / "plugstack-vm.conf", lab.layout.private("h2", "etc") / "slurm" / "plugstack.conf")
    node = "CPUs=2 RealMemory=1500 Feature=vwn,debian12"
    lab.spawn("h2", "vm1", ["slurmd", "-D", "-Z", "-N", "vm1", "--conf", node])


@pytest.fixture(scope="module")
def _turn() -> Iterator[None]:
    with in_turn(LAYOUT):
        yield


@pytest.fixture(scope="module")
def cluster(_turn: None) -> Iterator[Cluster]:
    scratch = Path(tempfile.mkdtemp(prefix="wnod-spank-", dir="/tmp"))
    scratch.chmod(0o777)
    lab = Lab(LAYOUT)
    lab.down()
    lab.up()
    try:
        lab.install_starter(HERE / "stand_in_starter.py")
        vm_node(lab)
        made = Cluster(lab, scratch)
        assert made.wait(lambda: "idle" in made.command("sinfo", "-a", "-h", "-n", "vm1", "-o", "%T"))
        yield made
    finally:
        lab.purge()
        shutil.rmtree(scratch)


@pytest.fixture
def preload(cluster: Cluster) -> str:
    """A library that writes down each host where it is loaded."""
    library = cluster.scratch / "who.so"
    flags = [f'-DEVIDENCE="{cluster.evidence}"', "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(["gcc", *flags], input=SHOW_WHO_RUNS, text=True, check=True)
    cluster.evidence.unlink(missing_ok=True)
    return str(library)
