"""What runs on each node of the lab, in start order. A new daemon is one more entry."""

from __future__ import annotations

import dataclasses

from deploy.lab.layout import Layout, Node

GANESHA = ("ganesha.nfsd", "-F", "-f", "/etc/ganesha/ganesha.conf")


@dataclasses.dataclass(frozen=True)
class Service:
    """A daemon: its log is LABROOT/<node>/log/<name>.log; `ready` is a file that exists once it answers."""

    name: str
    argv: tuple[str, ...]
    user: str | None = None
    ready: str | None = None


def munge() -> Service:
    return Service("munged", ("munged", "--foreground"), "munge", "/run/munge/munge.socket.2")


def head_services() -> list[Service]:
    return [
        munge(),
        Service("ganesha", (*GANESHA, "-L", "/var/log/ganesha/ganesha.log", "-p", "/run/ganesha.pid")),
        Service("slurmctld", ("slurmctld", "-D"), "slurm"),
    ]


def host_services(node: Node) -> list[Service]:
    return [
        munge(),
        Service("slurmd", ("slurmd", "-D", "-N", node.bait)),
        Service("virtlogd", ("virtlogd",), None, "/run/libvirt/virtlogd-sock"),
        Service("libvirtd", ("libvirtd",), None, "/run/libvirt/libvirt-sock"),
    ]


def services(layout: Layout, node: Node) -> list[Service]:
    """The node's daemons that the lab itself starts, in order."""
    return head_services() if node.is_head else host_services(node)
