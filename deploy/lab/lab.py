"""The lab: one batch system and several hosts on one machine, all inside namespaces of their own.

    lab = Lab()
    lab.up()
    lab.run("head", ["sbatch", "--wrap", "hostname"], user="alice", cwd="/home/alice")
    lab.down()

A `Lab` object holds no state of its own: any process may make one and use the lab that another one started.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.lab import cluster, files, network, slurmconf
from deploy.lab.layout import HEAD, PROJECT, Layout, Node, layout_from_environment
from deploy.lab.namespaces import (
    LabError,
    NodeControl,
    as_user,
    enter_argv,
    kill_exactly,
    start_first,
    start_time,
    unshare_argv,
    user_environment,
    wait_for,
)
from deploy.lab.services import Service, services
from deploy.lab.specification import lab_specification, node_specification

OUTER = "lab"


class Lab:
    """The lab of `layout`; needs root. Every method raises LabError with the remedy when it cannot."""

    def __init__(self, layout: Layout | None = None, shape: slurmconf.BaitShape | None = None) -> None:
        self.layout = layout or layout_from_environment()
        self.shape = shape or slurmconf.BaitShape()
        #: More lines for slurm.conf; set before up() or reconfigure().
        self.slurm_extra: tuple[str, ...] = ()

    # ---- life

    @property
    def hosts(self) -> list[str]:
        """The hosts' names: h1, h2, ..."""
        return [node.name for node in self.layout.nodes if not node.is_head]

    def up(self, wait: bool = True) -> None:
        """Starts the lab, after removing what a crashed one left; with `wait` returns when every bait is idle."""
        if os.geteuid() != 0:
            raise LabError("the lab needs root: namespaces, mounts and a bridge of its own")
        with self._lock():
            if self._control(OUTER).alive():
                raise LabError("the lab is already up; `down` first, or use it as it is")
            self._remove()
            self.layout.run.mkdir(parents=True, exist_ok=True)
            files.prepare_shared(self.layout)
            try:
                self._start()
                if wait:
                    cluster.wait_for_baits(self)
            except (KeyboardInterrupt, SystemExit):
                # Half a lab is of no use to anybody; after a LabError it stays for a look at its logs.
                self._remove()
                raise

    def down(self) -> None:
        """Ends every process of the lab and removes its run directory; LABROOT (logs, homes, images) stays."""
        with self._lock():
            self._remove()

    def purge(self) -> None:
        """`down`, and LABROOT goes too."""
        self.down()
        shutil.rmtree(self.layout.root, ignore_errors=True)

    def _start(self) -> None:
        first = start_first(lab_specification(self.layout, OUTER), self.layout.root / "lab.log")
        started = start_time(first.pid)
        self.layout.state_file.write_text(json.dumps({"pid": first.pid, "started": started}))
        self._control(OUTER).wait()
        for command in network.switch_commands():
            self._ip(OUTER, command)
        for node in self.layout.nodes:
            files.forget(self.layout, node)
            self._boot(node)

    def _boot(self, node: Node) -> None:
        files.prepare(self.layout, node)
        slurmconf.write(self.layout, node, self.shape, self.slurm_extra)
        argv = unshare_argv(node_specification(self.layout, node))
        self._control(OUTER).ask(
            op="spawn", name=node.name, argv=argv, env={**user_environment(None, "/root"), "PYTHONPATH": str(PROJECT)},
            log=str(self.layout.root / f"{node.name}.log"),
        )  # fmt: skip
        self._control(node.name).wait()
        for command in network.cable_commands(node, self._pid_inside_outer(node.name)):
            self._ip(OUTER, command)
        for command in network.node_commands(node):
            self._ip(node.name, command)
        for service in services(self.layout, node):
            self.start_service(node.name, service)

    def _remove(self) -> None:
        """Whatever is left of a lab goes, and only that: the process is known by pid and start time."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            state = json.loads(self.layout.state_file.read_text())
            pid = self._first_pid()
            if pid is not None:
                kill_exactly(pid, start_time(pid) or 0)
            kill_exactly(int(state["pid"]), int(state["started"]))
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def _first_pid(self) -> int | None:
        with contextlib.suppress(LabError):
            return self._control(OUTER).pid()
        return None

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One up or down at a time."""
        self.layout.root.mkdir(parents=True, exist_ok=True)
        with (self.layout.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # ---- using it

    def run(
        self,
        where: str,
        argv: Sequence[str],
        user: str | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float | None = 60,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `argv` on node `where` and returns its output as text. Its environment holds nothing of the caller's
        but `env`; `cwd` is the user's home by default."""
        home = self.home(user)
        return subprocess.run(
            enter_argv(self._control(where).pid(), as_user(user, argv), cwd or home),
            env=user_environment(user, home, env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
        )

    def popen(self, where: str, argv: Sequence[str], user: str | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Like run(), but returns at once; `options` go to subprocess.Popen (stdout=PIPE, ...), `cwd` excepted."""
        home = self.home(user)
        env = user_environment(user, home, options.pop("env", None))
        cwd = options.pop("cwd", home)
        return subprocess.Popen(enter_argv(self._control(where).pid(), as_user(user, argv), cwd), env=env, **options)

    def spawn(
        self,
        where: str,
        name: str,
        argv: Sequence[str],
        user: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Starts a daemon called `name`, unique on its node; returns its pid as the node numbers it. Its output goes to
        log(where, name). It outlives the caller; nobody restarts it but spawn() again."""
        request = {
            "op": "spawn",
            "name": name,
            "argv": as_user(user, argv),
            "env": user_environment(user, self.home(user), env),
            "log": str(self.log(where, name)),
        }
        return int(self._control(where).ask(**request)["pid"])

    def kill(self, where: str, name: str, number: int = signal.SIGTERM, wait: float = 10) -> int | None:
        """Sends the daemon a signal; waits up to `wait` seconds for its end (0: not at all) and returns its exit code,
        negative for a signal, None while it runs."""
        self._control(where).ask(op="signal", name=name, signal=int(number))
        if wait:
            wait_for(lambda: self.exit_code(where, name) is not None, wait, f"{name} on {where} did not end")
        return self.exit_code(where, name)

    def exit_code(self, where: str, name: str) -> int | None:
        """The daemon's exit code, None while it runs; KeyError when it was never started."""
        status: int | None = self._control(where).ask(op="list")["children"][name]["status"]
        return status

    def log(self, where: str, name: str) -> Path:
        """The file with the daemon's output."""
        return self.layout.private(where, "log") / f"{name}.log"

    def home(self, user: str | None) -> str:
        return f"/home/{user}" if user and (self.layout.home / user).is_dir() else "/"

    def start_service(self, where: str, service: Service) -> None:
        """Starts one of the lab's own daemons and waits for its socket."""
        self.spawn(where, service.name, service.argv, service.user)
        if service.ready:
            # /run of the node is seen through its first process.
            ready = Path(f"/proc/{self._control(where).pid()}/root{service.ready}")
            wait_for(
                ready.exists, 20, f"{service.name} on {where}: no {service.ready}; see {self.log(where, service.name)}"
            )

    def restart(self, where: str, name: str, number: int = signal.SIGTERM) -> None:
        """Ends and starts again one of the lab's own daemons (slurmctld, slurmd, libvirtd, ...)."""
        self.kill(where, name, number)
        known = {service.name: service for service in services(self.layout, self.layout.node(where))}
        self.start_service(where, known[name])

    def reboot(self, host: str) -> None:
        """The host loses power and starts anew: every process in it dies at once, its disks stay."""
        self.power_off(host)
        self._boot(self.layout.node(host))

    def power_off(self, host: str) -> None:
        """The host loses power and stays off until reboot()."""
        pid = self._control(host).pid()
        kill_exactly(pid, start_time(pid) or 0)
        wait_for(lambda: self.exit_code(OUTER, host) is not None, 10, f"{host} did not die")

    def cut(self, node: str) -> None:
        """Pulls the node's network cable."""
        self._ip(OUTER, network.plug_command(self.layout.node(node), up=False))

    def heal(self, node: str) -> None:
        """Plugs the node's network cable in again."""
        self._ip(OUTER, network.plug_command(self.layout.node(node), up=True))

    def reconfigure(self) -> None:
        """Writes slurm.conf anew on every node and has Slurm read it."""
        for node in self.layout.nodes:
            slurmconf.write(self.layout, node, self.shape, self.slurm_extra)
        self.run(HEAD, ["scontrol", "reconfigure"], check=True)

    def install_starter(self, source: Path) -> None:
        """Puts the job starter in place on every node (/usr/libexec/wnod/starter)."""
        target = self.layout.root / "libexec" / "starter"
        files.install(source, target.with_suffix(".new"))
        target.with_suffix(".new").rename(target)

    def status(self) -> dict[str, Any]:
        """What runs, per node, and what Slurm says of its nodes; `up` is False when there is no lab."""
        if not self._control(OUTER).alive():
            return {"up": False, "root": str(self.layout.root)}
        nodes = {node.name: cluster.daemons(self, node.name) for node in self.layout.nodes}
        return {"up": True, "root": str(self.layout.root), "nodes": nodes, "slurm": cluster.slurm_nodes(self)}

    def children(self, where: str) -> dict[str, dict[str, Any]]:
        """The node's daemons by name: pid (the node's number), argv, started (epoch s), status (None = running)."""
        children: dict[str, dict[str, Any]] = self._control(where).ask(op="list")["children"]
        return children

    def pid_on_machine(self, where: str) -> int:
        """The node's first process as the machine numbers it."""
        return self._control(where).pid()

    # ---- inside

    def _control(self, name: str) -> NodeControl:
        return NodeControl(self.layout, name)

    def _ip(self, where: str, arguments: Sequence[str]) -> None:
        done = subprocess.run(
            enter_argv(self._control(where).pid(), ["ip", *arguments], "/"), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LabError(f"ip {' '.join(arguments)} on {where}: {done.stderr.strip()}")

    def _pid_inside_outer(self, name: str) -> int:
        """A node's first process as the outermost namespace numbers it (the last but one number of NSpid)."""
        status = Path(f"/proc/{self._control(name).pid()}/status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        return int(numbers[-2])
