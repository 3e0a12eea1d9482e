"""Faults of hosts, daemons and the network between them."""

from typing import Any

from protocol.tls import Role
from tests.simulation.nemesis import CRASH_POINTS, DAEMONS, Nemesis
from tests.simulation.site import Site


def _path(nemesis: Nemesis, site: Site) -> Any:
    return nemesis.cluster.net.path(site.bait_name, site.host_name)


# --- daemons ---


def _crash(nemesis: Nemesis, site: Site, who: str, *, lose: bool = False) -> str:
    if getattr(site, who) is None:
        return ""
    site.kill(who)
    if lose:
        site.lose_journal(who)
    if nemesis.rng.random() < 0.4:
        site.next_fuse[who] = (nemesis.rng.choice(CRASH_POINTS[who]), nemesis.rng.randint(0, 6))
    site.away_s = 0.3 + nemesis.rng.random() * 3.0
    down = nemesis.rng.choice((0.3, 1.0, 5.0, 30.0)) * (0.5 + nemesis.rng.random())
    nemesis.later(down, lambda: site.start(who))
    return f"{site.host_name if who == 'host' else site.bait_name} for {down:.1f} s" + (
        " without journal" if lose else ""
    )


def crash_host(nemesis: Nemesis, site: Site) -> str:
    return _crash(nemesis, site, "host")


def crash_bait(nemesis: Nemesis, site: Site) -> str:
    return _crash(nemesis, site, "bait")


def crash_at_point(nemesis: Nemesis, site: Site) -> str:
    who = nemesis.rng.choice(DAEMONS)
    daemon: Any = getattr(site, who)
    if daemon is None:
        return ""
    point, skip = nemesis.rng.choice(CRASH_POINTS[who]), nemesis.rng.randint(0, 20)
    daemon.life.fuse = (point, skip)
    site.away_s = 0.3 + nemesis.rng.random() * 3.0
    return f"{daemon.life.name} {point} after {skip} more"


def journal_host(nemesis: Nemesis, site: Site) -> str:
    return _crash(nemesis, site, "host", lose=True)


def journal_bait(nemesis: Nemesis, site: Site) -> str:
    return _crash(nemesis, site, "bait", lose=True)


def reboot(nemesis: Nemesis, site: Site) -> str:
    """The whole machine: VMs, starters and daemons are gone without a word."""
    if site.off:
        return ""
    cluster = nemesis.cluster
    site.off = True
    for who in DAEMONS:
        site.kill(who, silently=True)
    for uuid in [uuid for uuid in site.libvirtd.kept if uuid not in site.strangers]:
        site.killed.add(uuid)
        site.libvirtd.vanish(uuid)
    site.libvirtd.starts += 1
    for _, starter in site.starters.values():
        starter.kill()
    site.starters.clear()
    cluster.lrms.all_nodes[site.bait_name].up = False
    down = 20.0 + 100.0 * nemesis.rng.random()

    def up() -> None:
        site.off = False
        cluster.lrms.all_nodes[site.bait_name].up = not site.cut_off
        cluster.missing(site.bait_name)
        for who in DAEMONS:
            site.start(who)

    nemesis.later(down, up)
    return f"{site.host_name} for {down:.0f} s"


def clock_jump(nemesis: Nemesis, site: Site) -> str:
    who = nemesis.rng.choice(DAEMONS)
    daemon: Any = getattr(site, who)
    if daemon is None:
        return ""
    seconds = nemesis.rng.choice((-40.0, -5.0, 5.0, 60.0, 400.0)) * (0.5 + nemesis.rng.random())
    daemon.life.jump(seconds)
    return f"{daemon.life.name} by {seconds:.1f} s"


# --- network ---


def delay(nemesis: Nemesis, site: Site) -> str:
    path = _path(nemesis, site)
    path.delay_s = nemesis.rng.choice((0.05, 0.5, 3.0)) * (0.5 + nemesis.rng.random())
    path.jitter_s = path.delay_s
    nemesis.later(nemesis.length(), path.mend)
    return f"{site.bait_name} to {site.host_name} {path.delay_s:.2f} s"


def pieces(nemesis: Nemesis, site: Site) -> str:
    path = _path(nemesis, site)
    path.pieces = nemesis.rng.choice((1, 7, 100))
    nemesis.later(nemesis.length() / (4 if path.pieces == 1 else 1), path.mend)
    return f"{site.bait_name} to {site.host_name} {path.pieces} bytes"


def reset(nemesis: Nemesis, site: Site) -> str:
    nemesis.cluster.net.reset(_path(nemesis, site))
    return f"{site.bait_name} to {site.host_name}"


def half_open(nemesis: Nemesis, site: Site) -> str:
    nemesis.cluster.net.half_open(_path(nemesis, site))
    return f"{site.bait_name} to {site.host_name}"


def one_way(nemesis: Nemesis, site: Site) -> str:
    path = _path(nemesis, site)
    end = nemesis.rng.choice((Role.BAIT, Role.HOST))
    path.walls.add(end)
    nemesis.later(nemesis.length(), path.mend)
    return f"nothing of the {end.value} gets through, {site.host_name}"


def partition(nemesis: Nemesis, site: Site) -> str:
    path = _path(nemesis, site)
    path.walls |= {Role.BAIT, Role.HOST}
    seconds = nemesis.length()
    nemesis.later(seconds, path.mend)
    return f"{site.bait_name} from {site.host_name} for {seconds:.1f} s"
