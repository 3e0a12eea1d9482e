"""The wnod of the lab: certificates, configurations, images and daemons on hosts that `Lab` has already booted.

    lab = Lab(); lab.up()
    site = Site(lab); site.prepare(); site.start()

What is written here is what an administrator writes for a real site, so it is also an example.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deploy.lab import images
from deploy.lab.lab import Lab
from deploy.lab.layout import HEAD, PROJECT, Node
from deploy.lab.namespaces import wait_for
from protocol.tls import Identity, Role
from wnod import pki
from wnod.ask import DaemonUnreachable, ask

DAEMONS = ("hostmaster", "bait")
GUEST_FILES = "slurm-vm"
USERS = {"hostmaster": "wnod-host", "bait": "slurm"}
"""Who runs them. The hostmaster needs libvirt's group and QEMU's; without slurmdbd only SlurmUser may change other
users' jobs."""


@dataclasses.dataclass(frozen=True)
class HostShape:
    """What each host of the lab gives to VMs."""

    slots: int = 2
    cpus: int = 3
    memory_mib: int = 4096
    disk_mib: int = 8192


def bring_up(lab: Lab, say: Callable[[str], None]) -> Site:
    """Everything, from nothing: images, lab, daemons; returns when every bait is open."""
    built = images.ensure(say)
    say("starting the lab: a Slurm controller and two hosts, each with its own libvirt")
    lab.purge()
    try:
        lab.up()
        site = Site(lab, images.install(lab.layout, built))
        site.prepare()
        say("starting hostmaster and bait on both hosts; each host probes its accelerator with a guest")
        site.start()
        site.wait_open()
    except BaseException:
        # Also Ctrl-C: half a site is of no use to anybody, except for its logs.
        lab.down()
        raise
    return site


@dataclasses.dataclass
class Site:
    """wnod on every host of one lab. `images` maps an environment to the directory of its image on this machine."""

    lab: Lab
    images: dict[str, Path]
    shape: HostShape = HostShape()
    python: str = sys.executable
    hold_s: float = 1.0
    ready: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the hostmasters make in advance: the section of that name (docs/configure.md). Before `prepare`."""

    def prepare(self) -> None:
        """Write everything the daemons need; the lab must be up."""
        self._make_pki()
        self._install_starter()
        for name in self.lab.hosts:
            self._prepare_host(self.lab.layout.node(name))

    def start(self) -> None:
        """Start both daemons on every host."""
        for host in self.lab.hosts:
            for daemon in DAEMONS:
                self.start_daemon(host, daemon)

    def start_daemon(self, host: str, daemon: str) -> None:
        """Start one daemon; its log is `lab.log(host, daemon)`."""
        argv = [self.python, "-m", daemon, "--config", f"/etc/wnod/{daemon}.yaml", "--log-format", "text"]
        self.lab.spawn(host, daemon, argv, USERS[daemon], {"PYTHONPATH": str(PROJECT)})

    def wnod(self, host: str, *words: str) -> Any:
        """The answer of a `wnod ... --json` command on a host."""
        done = self.lab.run(host, [self.python, "-m", "wnod", *words, "--json"], env={"PYTHONPATH": str(PROJECT)})
        return json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr}

    def daemon_status(self, host: str, daemon: str) -> dict[str, Any]:
        """What one daemon says of itself; empty while it does not answer."""
        socket = f"/proc/{self.lab.pid_on_machine(host)}/root/run/wnod/{daemon}/status.sock"
        try:
            answer: dict[str, Any] = ask(socket, "/status")
        except DaemonUnreachable:
            return {}
        return answer

    def wait_open(self, seconds: float = 90) -> None:
        """Return when every bait attracts jobs: libvirt answers, images are verified, an accelerator is proven."""

        def is_open() -> bool:
            return all(self.daemon_status(host, "bait").get("open") for host in self.lab.hosts)

        wait_for(is_open, seconds, "not every bait is open; see the hosts' hostmaster.log and bait.log", pause=0.2)

    # --- files -------------------------------------------------------------------------------------------

    @property
    def _pki(self) -> Path:
        return self.lab.layout.root / "pki"

    def _make_pki(self) -> None:
        now = dt.datetime.now(dt.UTC)
        pki.create_authority(self._pki, now)
        for name in self.lab.hosts:
            pki.issue(self._pki, Identity(Role.HOST, name), now)
            pki.issue(self._pki, Identity(Role.BAIT, self.lab.layout.node(name).bait), now)

    def _install_starter(self) -> None:
        source = (PROJECT / "bait" / "starter.py").read_text()
        made = self.lab.layout.root / "starter.new"
        made.write_text(f"#!/usr/bin/python3 -IS\n{source}")
        made.chmod(0o755)
        self.lab.install_starter(made)
        made.unlink()

    def _prepare_host(self, node: Node) -> None:
        etc = self.lab.layout.private(node.name, "etc") / "wnod"
        etc.mkdir(parents=True, exist_ok=True)
        self._write(node, "catalogue.yaml", self._catalogue())
        self._write(node, "hostmaster.yaml", self._hostmaster(node))
        self._write(node, "bait.yaml", self._bait(node))
        self._guest_files(etc / GUEST_FILES)
        self._secret(node, self.lab.layout.root / "munge.key", "munge.key", USERS["hostmaster"])
        for identity, owner in ((f"host-{node.name}", USERS["hostmaster"]), (f"bait-{node.bait}", USERS["bait"])):
            role = identity.split("-")[0]
            for suffix in ("pem", "key"):
                self._secret(node, self._pki / f"{identity}.{suffix}", f"{role}.{suffix}", owner)
        self._secret(node, self._pki / "ca.pem", "ca.pem", "root", mode="0644")
        for path, owner, mode in (
            ("/var/lib/wnod", "root", "0755"),
            ("/var/lib/wnod/hostmaster", USERS["hostmaster"], "0711"),
            ("/var/lib/wnod/bait", USERS["bait"], "0700"),
            ("/run/wnod", "root", "0755"),
            ("/run/wnod/hostmaster", USERS["hostmaster"], "0711"),
            ("/run/wnod/bait", USERS["bait"], "0711"),
        ):
            self.lab.run(node.name, ["install", "-d", "-o", owner, "-m", mode, path], check=True)

    def _guest_files(self, target: Path) -> None:
        """What slurmctld serves to VMs: the same text, or Slurm calls a VM's configuration another."""
        served = self.lab.layout.private(HEAD, "etc") / "slurm"
        target.mkdir(exist_ok=True)
        for name in ("slurm.conf", "cgroup.conf", "plugstack.conf"):
            shutil.copyfile(served / name, target / name)

    def _write(self, node: Node, name: str, content: dict[str, Any]) -> None:
        path = self.lab.layout.private(node.name, "etc") / "wnod" / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def _secret(self, node: Node, source: Path, name: str, owner: str, mode: str = "0600") -> None:
        target = self.lab.layout.private(node.name, "etc") / "wnod" / name
        shutil.copyfile(source, target)
        target.chmod(0o600)
        self.lab.run(node.name, ["chown", owner, f"/etc/wnod/{name}"], check=True)
        self.lab.run(node.name, ["chmod", mode, f"/etc/wnod/{name}"], check=True)

    # --- contents ------------------------------------------------------------------------------------------

    def _catalogue(self) -> dict[str, Any]:
        shape = {"cpus": 1, "memory_mib": 256, "disk_mib": 512}
        largest = {"cpus": 2, "memory_mib": 1024, "disk_mib": 2048}
        return {
            "environments": {
                name: {
                    "image": f"/var/lib/wnod/images/{name}/{directory.name}",
                    "sha256": _image_id(directory),
                    "default": shape,
                    "largest": largest,
                    "overhead_mib": 384,
                }
                for name, directory in self.images.items()
            }
        }

    def _hostmaster(self, node: Node) -> dict[str, Any]:
        head = self.lab.layout.nodes[0]
        subnet = node.address.rsplit(".", 1)[0]
        number = int(subnet.split(".")[2])
        return {
            "host": node.name,
            "listen": f"{node.address}:9610",
            "baits": [node.bait],
            "tls": _tls("host"),
            "catalogue": "/etc/wnod/catalogue.yaml",
            "capacity": {
                "cpus": self.shape.cpus,
                "memory_mib": self.shape.memory_mib,
                "disk_mib": self.shape.disk_mib,
            },
            "slots": [
                {
                    "name": f"vm-{node.name}-{i}",
                    "mac": f"52:54:00:77:{number:02x}:{i:02x}",
                    "address": f"{subnet}.{10 + i}/16",
                }
                for i in range(1, self.shape.slots + 1)
            ],
            "hypervisor": {"uri": "qemu:///system", "bridge": "br0", "allow_tcg": True},
            "network": {"hosts": {n.address: n.name for n in self.lab.layout.nodes}},
            "lrms": {
                "controller": f"{head.address}:6817",
                "munge_key": "/etc/wnod/munge.key",
                "guest_files": f"/etc/wnod/{GUEST_FILES}",
            },
            "ready": self.ready,
            "quarantine": {"at_most": 2, "keep_days": 1},
            "mounts": [
                {"type": "nfs4", "source": f"{head.address}:/home", "target": "/home", "options": "vers=4.2,nolock"}
            ],
        }

    def _bait(self, node: Node) -> dict[str, Any]:
        return {
            "bait": node.bait,
            "hostmaster": {"name": node.name, "address": f"{node.address}:9610"},
            "tls": _tls("bait"),
            # This slurmctld has just been started, with no state that it could have forgotten anything of.
            "lrms": {"cluster": "wnod", "poll_s": 0.5, "restart_grace_s": 5},
            "defaults": [{"environment": "debian12"}],
            "gate": {"hold_s": self.hold_s},
        }


def _tls(role: str) -> dict[str, str]:
    return {"ca": "/etc/wnod/ca.pem", "certificate": f"/etc/wnod/{role}.pem", "key": f"/etc/wnod/{role}.key"}


def _image_id(directory: Path) -> str:
    from wnod.image import manifest  # noqa: PLC0415 - only where images are used

    return manifest.load(directory).image_id
