"""Names, numbers and paths of the lab: what a node is called, where its private files lie, who its users are."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

#: Everything the lab writes lies below these two directories; nothing else on the machine is touched.
DEFAULT_ROOT = Path("/var/lib/wnod-lab")
DEFAULT_RUN = Path("/run/wnod-lab")
PROJECT = Path(__file__).resolve().parents[2]

HEAD = "head"
NETWORK = "10.77.0.0/16"
PREFIX = 16
VM_PARTITION = "vwn"
BATCH_PARTITION = "batch"


@dataclasses.dataclass(frozen=True)
class Account:
    """One line of the lab's own passwd file; the machine's own accounts stay as they are."""

    name: str
    uid: int
    home: str
    shell: str
    groups: tuple[str, ...] = ()

    def passwd(self) -> str:
        return f"{self.name}:x:{self.uid}:{self.uid}:{self.name} of the lab:{self.home}:{self.shell}"

    def group(self) -> str:
        return f"{self.name}:x:{self.uid}:"


USERS = (
    Account("alice", 7701, "/home/alice", "/bin/bash"),
    Account("bob", 7702, "/home/bob", "/bin/bash"),
)
SERVICES = (
    Account("wnod-host", 7711, "/nonexistent", "/usr/sbin/nologin", ("libvirt", "libvirt-qemu")),
    Account("wnod-bait", 7712, "/nonexistent", "/usr/sbin/nologin"),
)


@dataclasses.dataclass(frozen=True)
class Node:
    """One machine of the lab: the head or a host."""

    name: str
    address: str

    @property
    def is_head(self) -> bool:
        return self.name == HEAD

    @property
    def bait(self) -> str:
        """The node name of this host's bait in the batch system."""
        return f"bait-{self.name}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything of one lab lies. `root` keeps data between runs, `run` holds sockets (short paths)."""

    root: Path = DEFAULT_ROOT
    run: Path = DEFAULT_RUN
    hosts: int = 2

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The head first, then the hosts h1, h2, ..."""
        hosts = tuple(Node(f"h{i}", f"10.77.{i}.1") for i in range(1, self.hosts + 1))
        return (Node(HEAD, "10.77.0.1"), *hosts)

    def node(self, name: str) -> Node:
        """The node called `name`; KeyError names those that exist."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node {name!r} in the lab; there are {', '.join(n.name for n in self.nodes)}")

    def private(self, name: str, what: str) -> Path:
        """The directory that node `name` sees as its /etc, /var/log, ... (`what` is etc, log, lib, cache, spool)."""
        return self.root / name / what

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def state_file(self) -> Path:
        return self.run / "state.json"

    def control(self, name: str) -> Path:
        """The control socket of the node's first process."""
        return self.run / f"{name}.sock"


def layout_from_environment() -> Layout:
    """WNOD_LAB_ROOT, WNOD_LAB_RUN and WNOD_LAB_HOSTS choose another place or size, for a lab beside the first."""
    return Layout(
        Path(os.environ.get("WNOD_LAB_ROOT", str(DEFAULT_ROOT))),
        Path(os.environ.get("WNOD_LAB_RUN", str(DEFAULT_RUN))),
        int(os.environ.get("WNOD_LAB_HOSTS", "2")),
    )
