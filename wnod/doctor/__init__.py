"""What is wrong on this machine: checks that look, change nothing, and name the remedy.

Each module has check functions that yield findings; `examine` runs those that fit what is configured here.
"""

import os
from collections.abc import Callable, Iterable, Iterator

from wnod.config import (
    BaitConfig,
    Catalogue,
    ConfigMistakes,
    HostmasterConfig,
    TlsFiles,
    load_bait,
    load_catalogue,
    load_hostmaster,
)
from wnod.doctor import certificates, clock, hypervisor, images, journals, network, packages, slurm
from wnod.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "examine"]

Check = tuple[str, Callable[[], Iterable[Finding]]]


def examine(etc: str, quick: bool = False) -> Iterator[Finding]:
    """Every finding about this machine, as it is found. `quick` leaves out reading whole images."""
    yield from _run([("packages", packages.check_owners), ("clock", clock.check_clock)])
    configured = _configured(etc)
    if not configured:
        text = f"neither hostmaster.yaml nor bait.yaml is in {etc!r}"
        yield Finding("config", Verdict.BAD, text, "name their directory with --etc, or write them: docs/configure.md")
    for name, found in configured.items():
        if isinstance(found, ConfigMistakes):
            yield from (Finding(f"config {name}", Verdict.BAD, str(m), "mend the file") for m in found.mistakes)
        elif isinstance(found, HostmasterConfig):
            yield from _run(_of_hostmaster(found))
        elif isinstance(found, BaitConfig):
            yield from _run(_of_bait(found))
        elif isinstance(found, Catalogue):
            yield from _run([] if quick else _of_catalogue(found))
    host, bait = configured.get("hostmaster"), configured.get("bait")
    if isinstance(host, HostmasterConfig) and isinstance(bait, BaitConfig):
        yield from _run([("fence", lambda: slurm.check_fence(host, bait.lrms))])


def _configured(etc: str) -> dict[str, HostmasterConfig | BaitConfig | Catalogue | ConfigMistakes]:
    loaders: dict[str, Callable[[str], HostmasterConfig | BaitConfig | Catalogue]]
    loaders = {"hostmaster": load_hostmaster, "bait": load_bait}
    found: dict[str, HostmasterConfig | BaitConfig | Catalogue | ConfigMistakes] = {}
    for name, load in loaders.items():
        if os.path.lexists(f"{etc}/{name}.yaml"):
            found[name] = _loaded(load, f"{etc}/{name}.yaml")
    host = found.get("hostmaster")
    if isinstance(host, HostmasterConfig):
        found["catalogue"] = _loaded(load_catalogue, host.catalogue)
    return found


def _loaded(
    load: Callable[[str], HostmasterConfig | BaitConfig | Catalogue], path: str
) -> HostmasterConfig | BaitConfig | Catalogue | ConfigMistakes:
    try:
        return load(path)
    except ConfigMistakes as mistakes:
        return mistakes


def _readers(role: str, state: str, tls: TlsFiles, more: dict[str, str]) -> Iterator[Finding]:
    return certificates.check_readers({"tls.key": tls.key, **more}, f"wnod-{role}", state)


def _of_hostmaster(config: HostmasterConfig) -> list[Check]:
    return [
        ("libvirt", lambda: hypervisor.check_libvirt(config.hypervisor)),
        ("virtlogd", lambda: hypervisor.check_virtlogd(config.hypervisor)),
        ("emulator", lambda: hypervisor.check_emulator(config.hypervisor)),
        ("accelerator", lambda: hypervisor.check_accelerator(config)),
        ("bridge", lambda: network.check_bridge(config.hypervisor.bridge) if config.hypervisor.bridge else iter(())),
        ("port", lambda: network.check_ports("hostmaster", config.runtime, (config.listen, config.metrics))),
        ("certificate", lambda: certificates.check_tls("host", config.host, config.tls)),
        ("munge key", lambda: certificates.check_secret("munge key", config.lrms.munge_key)),
        ("readers", lambda: _readers("hostmaster", config.state, config.tls, {"munge key": config.lrms.munge_key})),
        ("guest files", lambda: images.check_guest_files(config.lrms.guest_files)),
        ("journal", lambda: journals.check_journal(config.state, "hostmaster", config.host)),
    ]


def _of_bait(config: BaitConfig) -> list[Check]:
    return [
        ("slurm", lambda: slurm.check_commands(config.lrms)),
        ("slurm", lambda: slurm.check_settings(config.lrms)),
        ("spread", lambda: slurm.check_spread(config.bait, config.lrms)),
        ("port", lambda: network.check_ports("bait", config.runtime, (config.metrics,))),
        ("hostmaster", lambda: network.check_reachable("to hostmaster", config.hostmaster.address)),
        ("certificate", lambda: certificates.check_tls("bait", config.bait, config.tls)),
        ("readers", lambda: _readers("bait", config.state, config.tls, {})),
        ("journal", lambda: journals.check_journal(config.state, "bait", config.bait)),
    ]


def _of_catalogue(catalogue: Catalogue) -> list[Check]:
    return [
        ("image", lambda name=name, entry=entry: images.check_image(name, entry))  # type: ignore[misc]
        for name, entry in catalogue.environments.items()
    ]


def _run(checks: Iterable[Check]) -> Iterator[Finding]:
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            text = f"this check itself failed: {type(error).__name__}: {error}"
            yield Finding(name, Verdict.BAD, text, "report it with `wnod --version`; the other checks are not affected")
