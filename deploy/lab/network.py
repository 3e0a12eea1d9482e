"""The lab's cables: one switch, one cable per node, a bridge in each host for its VMs' taps. No way out of the lab."""

from __future__ import annotations

from deploy.lab.layout import PREFIX, Node

SWITCH = "sw0"
VM_BRIDGE = "br0"


def switch_commands() -> list[list[str]]:
    """Run once in the lab's outermost network namespace."""
    return [
        ["link", "add", SWITCH, "type", "bridge", "forward_delay", "0"],
        ["link", "set", SWITCH, "up"],
    ]


def cable_commands(node: Node, pid: int) -> list[list[str]]:
    """Run in the outermost namespace: a cable from the switch to the node with process 1 `pid`."""
    plug = f"to-{node.name}"
    return [
        ["link", "add", plug, "type", "veth", "peer", "name", "up0", "netns", str(pid)],
        ["link", "set", plug, "master", SWITCH, "up"],
    ]


def node_commands(node: Node) -> list[list[str]]:
    """Run in the node: the bridge that carries its address and, in a host, its VMs."""
    return [
        ["link", "add", VM_BRIDGE, "type", "bridge", "forward_delay", "0"],
        ["link", "set", "up0", "master", VM_BRIDGE, "up"],
        ["link", "set", VM_BRIDGE, "up"],
        ["addr", "add", f"{node.address}/{PREFIX}", "dev", VM_BRIDGE],
    ]


def plug_command(node: Node, up: bool) -> list[str]:
    """Pulls or plugs the node's cable at the switch."""
    return ["link", "set", f"to-{node.name}", "up" if up else "down"]
