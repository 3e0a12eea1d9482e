"""Can this host make VMs? libvirt is asked by a child process, because a call to it may hang for ever."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence

from wnod.ask import DaemonUnreachable, ask, socket_path
from wnod.config import HostmasterConfig, HypervisorConfig
from wnod.doctor.finding import CommandFailed, Finding, Verdict, output_of

_PROBE = """
import json, sys, libvirt
connection = libvirt.open(sys.argv[1])
facts = dict(libvirt=connection.getLibVersion(), hypervisor=connection.getVersion(), kind=connection.getType())
print(json.dumps(dict(facts, capabilities=connection.getCapabilities())))
"""
_OLDEST = 8_000_000
Ask = Callable[[Sequence[str]], str]


def check_libvirt(config: HypervisorConfig, ask: Ask = output_of) -> Iterator[Finding]:
    """libvirt answers at the URI, is new enough, and separates guests from each other."""
    try:
        facts = json.loads(ask([sys.executable, "-c", _PROBE, config.uri]))
    except (CommandFailed, ValueError) as error:
        remedy = "systemctl start libvirtd (or virtqemud); is the user in the group libvirt?"
        yield Finding("libvirt", Verdict.BAD, f"{config.uri} does not answer: {error}", remedy)
        return
    text = f"{config.uri}: libvirt {dotted(facts['libvirt'])}, {facts['kind']} {dotted(facts['hypervisor'])}"
    if facts["libvirt"] < _OLDEST:
        yield Finding("libvirt", Verdict.BAD, f"{text}: too old", f"libvirt {dotted(_OLDEST)} or newer is needed")
    else:
        yield Finding("libvirt", Verdict.OK, text)
    yield from check_separation(facts["capabilities"])


def check_separation(capabilities: str) -> Iterator[Finding]:
    """A security driver besides plain ownership keeps one guest's QEMU from another's files."""
    models = re.findall(r"<secmodel>\s*<model>(\w+)</model>", capabilities)
    if set(models) & {"selinux", "apparmor"}:
        yield Finding("separation", Verdict.OK, f"security drivers: {', '.join(models)}")
    else:
        yield Finding(
            "separation",
            Verdict.WARN,
            f"security drivers: {', '.join(models) or 'none'}: file ownership alone separates guests",
            "enable AppArmor or SELinux for libvirt before strangers share this host",
        )


def check_virtlogd(config: HypervisorConfig, root: str = "/") -> Iterator[Finding]:
    """Somebody receives the guests' consoles: virtlogd, unless libvirt writes files itself."""
    if config.uri != "qemu:///system":
        return
    sockets = [f"{root}run/libvirt/virtlogd-sock", f"{root}var/run/libvirt/virtlogd-sock"]
    if any(os.path.exists(path) for path in sockets):
        yield Finding("virtlogd", Verdict.OK, "its socket is there")
        return
    try:
        with open(f"{root}etc/libvirt/qemu.conf", encoding="utf-8", errors="replace") as file:
            by_file = re.search(r'^\s*stdio_handler\s*=\s*"file"', file.read(), re.MULTILINE)
    except OSError as error:
        yield Finding("virtlogd", Verdict.SKIP, f"no socket, and qemu.conf cannot be read: {error.strerror}")
        return
    if by_file:
        yield Finding("virtlogd", Verdict.OK, "not needed: stdio_handler is file")
    else:
        remedy = 'systemctl enable --now virtlogd.socket, or stdio_handler = "file" in /etc/libvirt/qemu.conf'
        yield Finding("virtlogd", Verdict.BAD, "no socket: libvirt will refuse every VM", remedy)


def check_emulator(config: HypervisorConfig) -> Iterator[Finding]:
    """QEMU is there."""
    if not config.uri.startswith("qemu"):
        return
    wanted = config.emulator or f"qemu-system-{os.uname().machine}"
    found = shutil.which(wanted)
    if found:
        yield Finding("emulator", Verdict.OK, found)
    else:
        yield Finding(
            "emulator", Verdict.BAD, f"{wanted}: not found", "apt-get install qemu-system-x86, or set emulator"
        )


def check_accelerator(config: HostmasterConfig) -> Iterator[Finding]:
    """What the hostmaster's own probe found: that /dev/kvm exists proves nothing, only a booted guest does."""
    try:
        answer = ask(socket_path(config.runtime), "/status")
    except DaemonUnreachable as error:
        yield Finding("accelerator", Verdict.SKIP, f"the hostmaster probes it when it starts: {error}")
        return
    chosen, reason = answer.get("accelerator"), answer.get("accelerator_reason")
    if chosen == "kvm":
        yield Finding("accelerator", Verdict.OK, f"kvm: {reason}")
    elif chosen == "tcg":
        remedy = "find out why KVM fails (BIOS, nested virtualisation) before strangers share this host"
        yield Finding("accelerator", Verdict.WARN, f"tcg, which separates nobody and is slow: {reason}", remedy)
    else:
        remedy = "see docs/troubleshoot.md, 'No VM starts'"
        yield Finding("accelerator", Verdict.BAD, f"none: {reason}", remedy)


def dotted(number: int) -> str:
    """libvirt's version numbers: 9000000 is 9.0.0."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
