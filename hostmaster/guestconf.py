"""What a guest is told when it says hello: the lines of its configuration, in the order it needs them.

Pure. Secrets come in as bytes and leave only inside `credential` lines, which nobody logs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hostmaster.lifecycle import Vm
from protocol import guest


@dataclass(frozen=True, slots=True)
class Account:
    """A user as the guest needs to know him: one passwd line, and his groups."""

    passwd: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system of the site."""

    kind: str
    source: str
    target: str
    options: str


@dataclass(frozen=True, slots=True)
class Site:
    """What every guest of this host is told."""

    lrms: str
    controller: str
    features: tuple[str, ...]
    hosts: Mapping[str, str]
    """Address to name."""
    mounts: tuple[Mount, ...]
    gateway: str | None = None
    dns: str | None = None


def lines(
    vm: Vm,
    site: Site,
    address: str,
    account: Account,
    credentials: Mapping[str, bytes],
    now: float,
    overhead_mib: int = 0,
    tags: tuple[str, ...] = (),
) -> bytes:
    """All a guest needs between `welcome` and `go`; idempotent, so it is simply sent again after a reconnect."""
    settings = {
        "address": address,
        "lrms": site.lrms,
        "controller": site.controller,
        "features": ",".join((*site.features, vm.environment, *tags)),
        "cpus": str(vm.shape.cpus),
        "memory_mib": str(vm.shape.memory_mib - overhead_mib),
        "disk_mib": str(vm.shape.disk_mib),
    }
    if site.gateway:
        settings["gateway"] = site.gateway
    if site.dns:
        settings["dns"] = site.dns
    out = [guest.welcome(vm.generation), guest.clock(now)]
    out += [guest.setting(key, value) for key, value in settings.items()]
    out += [guest.host_entry(address_, name) for address_, name in site.hosts.items()]
    out += [guest.mount(m.kind, m.source, m.target, m.options) for m in site.mounts]
    out += [guest.account(account.passwd), *(guest.group(line) for line in account.groups)]
    out += [guest.credential(name, 0o400, content) for name, content in credentials.items()]
    return b"".join([*out, guest.go()])
