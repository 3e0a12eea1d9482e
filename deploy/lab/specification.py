"""What each node's first process is told: its name, its control socket and its private file system, as a JSON file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from deploy.lab.files import kvm_device
from deploy.lab.layout import Layout, Node
from deploy.lab.mounts import Plan


def lab_specification(layout: Layout, name: str) -> Path:
    """The outermost process sees the machine as it is, with /proc and /sys of its own."""
    return _write(layout, name, Plan(str(layout.run), [], {}, {}, [], {}))


def node_specification(layout: Layout, node: Node) -> Path:
    """The head or a host. Hosts get the homes without suid, devices and programs: user code never runs there."""
    return _write(layout, node.name, node_plan(layout, node))


def node_plan(layout: Layout, node: Node) -> Plan:
    lib = layout.private(node.name, "lib")
    home_options = "" if node.is_head else "nosuid,nodev,noexec"
    kvm = kvm_device(layout, node)
    return Plan(
        run=str(layout.run),
        keep=[str(layout.root)],
        replaced={
            "/etc": str(layout.private(node.name, "etc")),
            "/var/log": str(layout.private(node.name, "log")),
            "/var/cache": str(layout.private(node.name, "cache")),
            "/var/spool": str(layout.private(node.name, "spool")),
        },
        grown={
            "/var/lib": {name: str(lib / name) for name in ("libvirt", "nfs", "munge", "wnod")},
            "/usr/libexec": {"wnod": str(layout.root / "libexec")},
        },
        binds=[
            [str(layout.home), "/home", home_options],
            [str(layout.images), "/var/lib/wnod/images", ""],
            *([[str(kvm), "/dev/kvm", ""]] if kvm is not None else []),
        ],
        runtime={"/run/munge": ["munge", "755"], "/run/slurm": ["slurm", "755"], "/run/wnod": ["root", "755"]},
    )


def _write(layout: Layout, name: str, plan: Plan) -> Path:
    path = layout.run / f"{name}.json"
    text = {"name": name, "control": str(layout.control(name)), "mounts": dataclasses.asdict(plan)}
    path.write_text(json.dumps(text, indent=1))
    return path
