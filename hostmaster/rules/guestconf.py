"""What a guest is told when it says hello: the lines of its configuration, in the order it needs them.

Pure. Secrets come in as bytes and leave only inside `credential` lines, which nobody logs.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hostmaster.rules.spare import Spare
from hostmaster.rules.vm import Vm
from protocol import guest

PART = 6000
"""Bytes of a file in one line: so many make 8000 characters."""


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
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What the LRMS's daemon finds at standby; only guests at standby are given them."""


def lines(  # noqa: PLR0913 - one argument for each thing that a guest is told of
    vm: Vm,
    site: Site,
    address: str,
    account: Account,
    credentials: Mapping[str, bytes],
    now: float,
    overhead_mib: int = 0,
    tags: tuple[str, ...] = (),
    *,
    seed: bytes = b"",
) -> bytes:
    """All a guest needs between `welcome` and `go`; idempotent, so it is simply sent again after a reconnect.

    `seed`: 32 to 64 fresh random bytes for one that was at standby.
    """
    out = [guest.welcome(vm.generation), guest.clock(now)]
    out += [guest.seed(seed)] if seed else []
    out.append(_common(vm, site, address, overhead_mib, tags))
    out += [guest.account(account.passwd), *(guest.group(line) for line in account.groups)]
    out += [guest.credential(name, 0o400, content) for name, content in credentials.items()]
    return b"".join([*out, guest.go()])


def standby_lines(
    spare: Spare, site: Site, address: str, now: float, overhead_mib: int = 0, tags: tuple[str, ...] = ()
) -> bytes:
    """All a guest needs between `welcome` and `standby`: neither a secret nor anything of any user."""
    told = [_common(spare, site, address, overhead_mib, tags), *_files(site.files)]
    return b"".join([guest.welcome(spare.generation), guest.clock(now), *told, guest.standby()])


def _files(files: Mapping[str, bytes]) -> Iterator[bytes]:
    for name, content in files.items():
        parts = [content[at : at + PART] for at in range(0, len(content), PART)] or [b""]
        for number, part in enumerate(parts, 1):
            yield guest.file(name, number, len(parts), base64.b64encode(part).decode("ascii") or "-")


def _common(vm: Vm | Spare, site: Site, address: str, overhead_mib: int, tags: tuple[str, ...]) -> bytes:
    """What every VM of this slot, environment and shape is told, whoever has it."""
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
    out = [guest.setting(key, value) for key, value in settings.items()]
    out += [guest.host_entry(address_, name) for address_, name in site.hosts.items()]
    out += [guest.mount(m.kind, m.source, m.target, m.options) for m in site.mounts]
    return b"".join(out)
