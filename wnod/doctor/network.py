"""Are ports, peers and the bridge there?"""

import errno
import os
import socket
from collections.abc import Iterator, Sequence

from wnod.ask import DaemonUnreachable, ask, socket_path
from wnod.config import split_address
from wnod.doctor.finding import Finding, Verdict


def check_ports(role: str, runtime: str, addresses: Sequence[str | None]) -> Iterator[Finding]:
    """The ports are free, or it is our running daemon that has them."""
    try:
        ask(socket_path(runtime), "/status")
        yield Finding(role, Verdict.OK, f"answers on {socket_path(runtime)}")
        return
    except DaemonUnreachable as error:
        yield Finding(role, Verdict.WARN, f"does not answer: {error}", f"systemctl status wnod-{role}")
    for address in addresses:
        if address is not None:
            yield _port(address)


def _port(address: str) -> Finding:
    host, port = split_address(address)
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return Finding("port", Verdict.OK, f"{address} is free")
    except OSError as error:
        remedy = f"ss -ltnp 'sport = :{port}' shows who has it" if error.errno == errno.EADDRINUSE else "ip addr"
        return Finding("port", Verdict.BAD, f"{address}: {error.strerror or error}", remedy)


def check_reachable(name: str, address: str, limit_s: float = 3.0) -> Iterator[Finding]:
    """Somebody accepts connections there."""
    host, port = split_address(address)
    try:
        socket.create_connection((host, port), timeout=limit_s).close()
        yield Finding(name, Verdict.OK, f"{address} accepts connections")
    except OSError as error:
        remedy = "is the hostmaster running there, and does the firewall let this machine through?"
        yield Finding(name, Verdict.BAD, f"{address}: {error.strerror or error}", remedy)


def check_bridge(bridge: str, sysfs: str = "/sys/class/net") -> Iterator[Finding]:
    """The bridge that VMs are put on exists and is one."""
    if os.path.isdir(f"{sysfs}/{bridge}/bridge"):
        yield Finding("bridge", Verdict.OK, bridge)
    elif os.path.exists(f"{sysfs}/{bridge}"):
        yield Finding("bridge", Verdict.BAD, f"{bridge} is a network interface, but no bridge", "name a bridge")
    else:
        remedy = f"ip link add {bridge} type bridge, or name the right one in hypervisor.bridge"
        yield Finding("bridge", Verdict.BAD, f"{bridge} does not exist", remedy)
