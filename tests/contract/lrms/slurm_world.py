"""Real Slurm: slurmctld and a bait in a lab of their own; the "VM" is a slurmd that registers itself.

It runs on the lab's second host, in place of that host's bait: Slurm has one port for all nodes, so one address is
one node.

The starter and the users' scripts wait for a file that says how they end, so that the test decides.
"""

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from bait import starter
from bait.lrms.slurm import slurm
from deploy.lab.lab import Lab
from deploy.lab.layout import Layout
from deploy.lab.namespaces import enter_argv, wait_for
from tests.contract.lrms.worlds import BAIT, FEATURES, VM

_USER = "alice"
_VM_HOST = "h2"
_STARTER = """#!/bin/sh
key=$2; [ "$3" = - ] || key=$2_$3
until [ -e {files}/$key.$4 ]; do sleep 0.05; done
exit "$(cat {files}/$key.$4)"
"""
_SCRIPT = """#!/bin/sh
key=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
until [ -e {files}/$key.end ]; do sleep 0.05; done
exit "$(cat {files}/$key.end)"
"""


class SlurmSite:
    """The lab, up once for all tests."""

    def __init__(self) -> None:
        self.lab = Lab(Layout(Path("/var/lib/wnod-lab-lrms"), Path("/run/wnod-lab-lrms"), hosts=2))
        self.files = Path(tempfile.mkdtemp(prefix="wnod-lrms-"))
        self.commands = self.files / "bin"

    def up(self) -> None:
        self.files.chmod(0o755)
        self.lab.up()
        self.lab.kill(_VM_HOST, "slurmd")
        # Not only down: the VM's slurmd answers at its address, and it would come back.
        name = self.lab.layout.node(_VM_HOST).bait
        self.lab.run("head", ["scontrol", "delete", f"nodename={name}"], check=True)
        self.test_starter()
        self._program(self.files / "script", _SCRIPT.format(files=self.files))
        self.commands.mkdir()
        head = self.lab.pid_on_machine("head")
        for name in ("squeue", "sinfo", "scontrol"):
            words = " ".join(enter_argv(head, [f"/usr/bin/{name}"], "/"))
            self._program(self.commands / name, f'#!/bin/sh\nexec {words} "$@"\n')

    def real_starter(self) -> Path:
        """Puts the bait's own starter in place; the socket it will ask at. `test_starter` undoes it."""
        self.lab.install_starter(Path(starter.__file__))
        settings = self.lab.layout.private("h1", "etc") / "wnod" / "starter.conf"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(f"socket={self.files}/hook.sock\n")
        settings.chmod(0o644)
        return self.files / "hook.sock"

    def test_starter(self) -> None:
        """The one that does what a test wrote into a file."""
        self.lab.install_starter(self._program(self.files / "starter", _STARTER.format(files=self.files)))

    def down(self) -> None:
        self.lab.purge()
        shutil.rmtree(self.files)

    def _program(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path


class SlurmWorld:
    """One test's use of the site; `close` leaves the site as it was."""

    def __init__(self, site: SlurmSite) -> None:
        self._site = site
        self._lab = site.lab
        self._vm_runs = False
        self._reserved: list[str] = []
        self.lrms = slurm(reactor, "wnod", "vwn", str(site.commands), timeout_s=2.0)

    async def open(self) -> None:
        await self.later(0)

    async def close(self) -> None:
        self.back()
        self._run("scancel", "-u", _USER)
        if "drain" in self._run("sinfo", "-h", "-a", "-n", BAIT, "-O", "StateComplete:0"):
            self.undrain(BAIT)
        for _ in range(150):
            unfinished = "pending,running,completing,suspended,configuring"
            if not self._run("squeue", "-h", "-a", "-t", unfinished):
                break
            await self.later(0.1)
        if self._vm_runs:
            self.stop_vm()
        self._lab.run("head", ["scontrol", "delete", f"nodename={VM}"])
        while self._reserved:
            self._run("scontrol", "delete", f"ReservationName={self._reserved.pop()}")

    def submit(self, **wishes: Any) -> str:
        options = {
            "tasks": lambda tasks: f"--array={','.join(map(str, tasks))}",
            "wishes": lambda features: f"--constraint={features}",
            "cpus": lambda cpus: f"--cpus-per-task={cpus}",
            "memory_mib": lambda memory: f"--mem={memory}",
            "disk_mib": lambda disk: f"--tmp={disk}",
            "time_limit_s": lambda limit: f"--time={limit // 60}",
            "requeue": lambda requeue: "--requeue" if requeue else "--no-requeue",
            "comment": lambda comment: f"--comment={comment}",
            "account": lambda account: f"--account={account}",
            "name": lambda name: f"--job-name={name}",
            "required_nodes": lambda nodes: f"--nodelist={','.join(nodes)}",
            "reservation": lambda name: f"--reservation={name}",
        }
        words = [options[name](value) for name, value in wishes.items()]
        script = str(self._site.files / "script")
        argv = ["sbatch", "--parsable", "--output=/dev/null", *words, script]
        return self._run(*argv, user=_USER).strip()

    async def exits(self, job: str, code: int) -> None:
        view = (await self.lrms.jobs([job]))[job]
        name = f"{job}.{view.run.restart}" if view.node == BAIT else f"{job}.end"
        temporary = self._site.files / f".{name}"
        temporary.write_text(f"{code}\n")
        temporary.rename(self._site.files / name)

    def start_vm(self) -> None:
        configuration = self._vm_configuration()
        shape = f"CPUs=2 RealMemory=2000 TmpDisk=500 Feature={','.join(FEATURES)}"
        self._lab.spawn(_VM_HOST, VM, ["slurmd", "-D", "-Z", "-N", VM, "-f", str(configuration), "--conf", shape])
        self._vm_runs = True
        wait_for(lambda: "idle" in self._run("sinfo", "-h", "-a", "-n", VM, "-o", "%T"), 20, f"{VM} did not register")

    def _vm_configuration(self) -> Path:
        """The host's, without the hook and with a spool directory of its own."""
        slurm_directory = self._lab.layout.private(_VM_HOST, "etc") / "slurm"
        shutil.copy(slurm_directory / "cgroup.conf", self._site.files)  # slurmd looks beside its slurm.conf
        text = (slurm_directory / "slurm.conf").read_text()
        dropped = ("SlurmdSpoolDir=", "Epilog=", "Prolog=", "PlugStackConfig=")
        lines = [line for line in text.splitlines() if not line.startswith(dropped)]
        own = [
            f"SlurmdSpoolDir={self._site.files}/spool",
            f"PlugStackConfig={self._site.files}/plugstack.conf",
        ]
        (self._site.files / "plugstack.conf").touch()
        (self._site.files / "spool").mkdir(exist_ok=True)
        path = self._site.files / "vm.conf"
        path.write_text("\n".join([*lines, *own]) + "\n")
        return path

    def stop_vm(self) -> None:
        self._lab.kill(_VM_HOST, VM, signal.SIGKILL)
        self._vm_runs = False

    def cancel(self, job: str) -> None:
        self._run("scancel", job, user=_USER)

    def release(self, job: str) -> None:
        self._run("scontrol", "release", job, user=_USER)

    def hold(self, job: str) -> None:
        self._run("scontrol", "hold", job, user=_USER)

    def move(self, job: str, partition: str) -> None:
        # Slurm says no, because the job's node is not there, and moves it all the same; a user's no is a no (22.05.8).
        self._lab.run("head", ["scontrol", "update", f"JobId={job}", f"Partition={partition}"])

    def require(self, job: str, nodes: str) -> None:
        # As with `move`: a node that is not in the job's partition is complained of, and taken (22.05.8).
        self._lab.run("head", ["scontrol", "update", f"JobId={job}", f"ReqNodeList={nodes}"])

    def reserve(self, name: str) -> None:
        what = (f"ReservationName={name}", f"Users={_USER}", "StartTime=now", "Duration=10", f"Nodes={BAIT}")
        self._run("scontrol", "create", "reservation", *what)
        self._reserved.append(name)

    def drain(self, node: str, reason: str) -> None:
        self._run("scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}")

    def undrain(self, node: str) -> None:
        self._run("scontrol", "update", f"NodeName={node}", "State=UNDRAIN")
        answers = lambda: "not_resp" not in self._run("sinfo", "-h", "-n", node, "-O", "StateComplete:0")  # noqa: E731
        wait_for(answers, 20, f"{node} did not come back")

    def told(self, job: str) -> str:
        return self._run("scontrol", "show", "job", job, user=_USER)

    def away(self) -> None:
        self._lab.kill("head", "slurmctld", signal.SIGSTOP, wait=0)

    def back(self) -> None:
        self._lab.kill("head", "slurmctld", signal.SIGCONT, wait=0)

    def restart(self) -> None:
        self._lab.restart("head", "slurmctld")

    def now(self) -> float:
        return float(reactor.seconds())  # type: ignore[attr-defined]

    async def later(self, seconds: float) -> None:
        waiting: Deferred[None] = Deferred()
        reactor.callLater(seconds, waiting.callback, None)
        await waiting

    def _run(self, *argv: str, user: str | None = None) -> str:
        done = self._lab.run("head", argv, user=user)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout


def can_run() -> str:
    """Why there can be no lab here; empty if there can."""
    if os.geteuid() != 0:
        return "the lab needs root"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "scontrol") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""
