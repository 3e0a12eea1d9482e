"""The nemesis: faults of every kind, drawn per seed, until it is told to end them all."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from bait.lrms.base import JobState
from hostmaster.world import DomainState
from protocol.tls import Role
from tests.fakes.lrms import FakeJob
from tests.simulation.cluster import Cluster, Site
from tests.simulation.journal import POINTS
from tests.simulation.lrms import MEMORY_S

DAEMONS = ("host", "bait")
CRASH_POINTS = {
    "host": (*POINTS, "before-send", "after-send", "before-libvirt", "after-libvirt", "before-overlay", "before-guest",
             "after-guest"),
    "bait": (*POINTS, "before-send", "after-send", "before-lrms", "after-lrms", "before-answer", "after-answer"),
}  # fmt: skip

BEGIN_S, END_S = 8.0, 220.0
LONG_END_S = 800.0
"""Time for machines to be given up by the controller, which takes 300 s."""
GAP_S = 2.5
"""Mean time between two faults of the whole cluster, for 8 hosts; fewer hosts have fewer."""


class Nemesis:
    """Does one fault after the other. `kinds`: names of faults that may happen; `all` stands for every one."""

    def __init__(self, cluster: Cluster, kinds: tuple[str, ...]) -> None:
        self.cluster = cluster
        self.rng = cluster.rng("nemesis")
        self.done: Counter[str] = Counter()
        self._over = False
        self._next_amnesia = 0.0
        self._ends: list[Callable[[], None]] = []
        chosen = tuple(FAULTS) if "all" in kinds else kinds
        unknown = set(chosen) - set(FAULTS)
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; known: all, {', '.join(FAULTS)}")
        # As in FoundationDB's simulations: not every seed has every kind, so that kinds also meet in small company.
        self.kinds = [kind for kind in chosen if len(chosen) <= 3 or self.rng.random() < 0.5]
        long = bool({"vm-cut-off", "host-cut-off"} & set(self.kinds))
        self.until = cluster.world.now + (LONG_END_S if long else END_S if self.kinds else 1.0)
        self._begin()

    def _begin(self) -> None:
        if not self.kinds:
            return
        gap = GAP_S * 8 / len(self.cluster.sites)
        at = BEGIN_S
        while at < END_S - 10.0:
            at += self.rng.expovariate(1 / gap)
            self.cluster.world.callLater(at, self._strike, self.rng.choice(self.kinds))
        if "late-vm" in self.kinds:
            self.cluster.late_guests = self.rng.choice((0.05, 0.3))
            self.done["late-vm"] += 1

    def _strike(self, kind: str) -> None:
        if self._over:
            return
        if kind == "amnesia" and self.cluster.world.now < self._next_amnesia:
            return  # it befalls the whole site: one after the other
        site = self.rng.choice(self.cluster.sites)
        text = FAULTS[kind](self, site)
        if text:
            self.done[kind] += 1
            self.cluster.judge.trace("", f"! {kind}: {text}")

    def later(self, seconds: float, end: Callable[[], None]) -> None:
        """End a fault after so long, or when all faults end."""

        def once() -> None:
            if end in self._ends:
                self._ends.remove(end)
                end()

        self._ends.append(end)
        self.cluster.world.callLater(seconds, once)

    def end(self) -> None:
        """Peace: nothing is broken any more, and nothing will be."""
        self._over = True
        self.cluster.judge.trace("", "! all faults end")
        ends, self._ends = self._ends, []
        for end in ends:
            end()
        self.cluster.late_guests = 0.0
        for site in self.cluster.sites:
            site.trouble.end()
            site.libvirtd.end()
            site.next_fuse.clear()
            for who in DAEMONS:
                daemon = getattr(site, who)
                if daemon is not None:
                    daemon.life.fuse = None
                    back = -daemon.life.offset
                    daemon.life.jump(back)
                site.offsets[who] = 0.0
                site.start(who)
        for path in self.cluster.net.paths.values():
            path.mend()

    def length(self) -> float:
        """How long a fault lasts: mostly short, now and then longer than every limit."""
        return self.rng.choice((0.2, 1.0, 3.0, 8.0, 20.0, 40.0, 130.0)) * (0.5 + self.rng.random())


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
    return f"{site.host_name if who == 'host' else site.bait_name} for {down:.1f} s" + (" without journal" if lose else "")


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
    for uuid in tuple(site.libvirtd.kept):
        site.killed.add(uuid)
        site.libvirtd.vanish(uuid)
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


# --- the batch system ---


def lrms_away(nemesis: Nemesis, site: Site) -> str:
    site.trouble.away = True
    seconds = nemesis.length()
    nemesis.later(seconds, lambda: setattr(site.trouble, "away", False))
    return f"for {site.bait_name}, {seconds:.1f} s"


def lrms_hangs(nemesis: Nemesis, site: Site) -> str:
    site.trouble.hang_until = nemesis.cluster.world.now + nemesis.length()
    site.trouble.late = nemesis.rng.random() < 0.5
    return f"for {site.bait_name}"


def lrms_stale(nemesis: Nemesis, site: Site) -> str:
    site.trouble.stale_until = nemesis.cluster.world.now + 0.2 + 3.0 * nemesis.rng.random()
    return f"for {site.bait_name}"


def lrms_empty(nemesis: Nemesis, site: Site) -> str:
    site.trouble.empty += nemesis.rng.randint(1, 2)
    return f"for {site.bait_name}"


def lrms_replies(nemesis: Nemesis, site: Site) -> str:
    site.trouble.lose_replies += nemesis.rng.randint(1, 3)
    return f"{site.trouble.lose_replies} lost for {site.bait_name}"


def amnesia(nemesis: Nemesis, site: Site) -> str:
    """The controller starts again with a state some seconds old; nodes then register and are put right."""
    cluster = nemesis.cluster
    nemesis._next_amnesia = cluster.world.now + 40.0
    saved = cluster.lrms.save()
    cluster.world.callLater(MEMORY_S, _forget, cluster, saved, nemesis.rng)
    return f"in {MEMORY_S} s the state of now"


def _forget(cluster: Cluster, saved: Any, rng: random.Random) -> None:
    before = {job.id: (job.run, job.state, job.node) for job in cluster.lrms.all_jobs.values()}
    cluster.judge.trace("", "! the controller starts again, with an old state")
    cluster.lrms.go_back(saved)
    for job in cluster.lrms.all_jobs.values():
        if before.get(job.id) != (job.run, job.state, job.node):
            cluster.judge.excused[job.id] = "amnesia"
    for job_id in before.keys() - cluster.lrms.all_jobs.keys():
        cluster.judge.excused[job_id] = "amnesia"
    for node in tuple(cluster.lrms.all_nodes):
        cluster.world.callLater(0.5 + rng.random(), cluster.register_again, node)
    for site in cluster.sites:
        for guest in site.guests.values():
            if guest.registered:
                cluster.world.callLater(0.5 + rng.random(), cluster.register_again, guest.name)


# --- hypervisor ---


def libvirt_hangs(nemesis: Nemesis, site: Site) -> str:
    seconds = nemesis.length()
    site.libvirtd.hang_until = nemesis.cluster.world.now + seconds
    return f"{site.host_name} for {seconds:.1f} s"


def libvirt_away(nemesis: Nemesis, site: Site) -> str:
    site.libvirtd.away = "libvirtd is restarted"
    seconds = nemesis.length()
    nemesis.later(seconds, site.libvirtd.restarted)
    return f"{site.host_name} for {seconds:.1f} s"


def libvirt_answers(nemesis: Nemesis, site: Site) -> str:
    site.libvirtd.lose_answers += nemesis.rng.randint(1, 3)
    return f"{site.libvirtd.lose_answers} lost at {site.host_name}"


def libvirt_events(nemesis: Nemesis, site: Site) -> str:
    site.libvirtd.drop_hints = True
    nemesis.later(nemesis.length(), lambda: setattr(site.libvirtd, "drop_hints", False))
    return site.host_name


def libvirt_refuses(nemesis: Nemesis, site: Site) -> str:
    site.libvirtd.refuse = "no space left on device"
    nemesis.later(nemesis.length(), lambda: setattr(site.libvirtd, "refuse", ""))
    return site.host_name


def vm_death(nemesis: Nemesis, site: Site) -> str:
    alive = [guest for guest in site.guests.values() if guest.alive]
    if not alive:
        return ""
    guest = nemesis.rng.choice(alive)
    site.killed.add(guest.uuid)
    if nemesis.rng.random() < 0.3 and site.libvirtd.kept[guest.uuid].state is DomainState.RUNNING:
        site.libvirtd.stop(guest.uuid)
    else:
        site.libvirtd.vanish(guest.uuid)
    return guest.key


def late_vm(nemesis: Nemesis, site: Site) -> str:
    return ""


def vm_cut_off(nemesis: Nemesis, site: Site) -> str:
    """The controller and a VM do not reach each other."""
    alive = [guest for guest in site.guests.values() if guest.alive and guest.registered and not guest.cut_off]
    if not alive:
        return ""
    guest, cluster = nemesis.rng.choice(alive), nemesis.cluster
    guest.cut_off = True
    seconds = nemesis.rng.choice((10.0, 100.0, 500.0)) * (0.5 + nemesis.rng.random())
    cluster.contact(guest)

    def heal() -> None:
        guest.cut_off = site.cut_off
        cluster.contact(guest)

    nemesis.later(seconds, heal)
    return f"{guest.key} for {seconds:.0f} s"


def host_cut_off(nemesis: Nemesis, site: Site) -> str:
    """The controller and a whole host, its bait and its VMs, do not reach each other."""
    if site.cut_off or site.off:
        return ""
    cluster = nemesis.cluster
    site.cut_off = site.trouble.cut = True
    cluster.lrms.all_nodes[site.bait_name].up = False  # the controller starts nothing there
    guests = [guest for guest in site.guests.values() if guest.alive]
    for guest in guests:
        guest.cut_off = True
        cluster.contact(guest)
    bait_down = cluster.world.callLater(300.0, cluster.bait_given_up, site)
    seconds = nemesis.rng.choice((60.0, 140.0, 330.0, 500.0)) * (0.5 + nemesis.rng.random())

    def heal() -> None:
        site.cut_off = site.trouble.cut = False
        if bait_down.active():
            bait_down.cancel()
        cluster.lrms.all_nodes[site.bait_name].up = not site.off
        cluster.register_again(site.bait_name)
        for guest in tuple(site.guests.values()):
            guest.cut_off = False
            cluster.contact(guest)

    nemesis.later(seconds, heal)
    return f"{site.host_name} for {seconds:.0f} s"


# --- users ---


def _some_job(nemesis: Nemesis) -> FakeJob | None:
    jobs = [job for job in nemesis.cluster.lrms.all_jobs.values() if job.state is not JobState.ENDED]
    return nemesis.rng.choice(jobs) if jobs else None


def user_cancels(nemesis: Nemesis, site: Site) -> str:
    job = _some_job(nemesis)
    if job is None:
        return ""
    nemesis.cluster.lrms.cancel(job.id)
    return f"{job.run} {job.word}"


def user_holds(nemesis: Nemesis, site: Site) -> str:
    job, lrms = _some_job(nemesis), nemesis.cluster.lrms
    if job is None or job.state is not JobState.PENDING:
        return ""
    lrms.hold(job.id)
    job_id = job.id

    def release() -> None:
        if job_id in lrms.all_jobs and lrms.all_jobs[job_id].held_by == "user":
            lrms.release(job_id)

    nemesis.later(nemesis.length(), release)
    return str(job.run)


def user_releases(nemesis: Nemesis, site: Site) -> str:
    jobs = [job for job in nemesis.cluster.lrms.all_jobs.values() if job.held_by]
    if not jobs:
        return ""
    job = nemesis.rng.choice(jobs)
    nemesis.cluster.lrms.release(job.id)
    return str(job.run)


def user_requeues(nemesis: Nemesis, site: Site) -> str:
    job = _some_job(nemesis)
    if job is None or job.state is not JobState.RUNNING:
        return ""
    nemesis.cluster.lrms.requeue(job)
    return str(job.run)


def user_updates(nemesis: Nemesis, site: Site) -> str:
    job = _some_job(nemesis)
    if job is None or job.state is not JobState.PENDING:
        return ""
    what = nemesis.rng.choice(("time", "partition", "target"))
    if what == "time":
        job.time_limit_s = 3600
    elif what == "partition":
        job.partition = nemesis.cluster.lrms.home
    else:
        job.required_nodes = ()
    return f"{job.run}: {what}"


FAULTS: dict[str, Callable[[Nemesis, Site], str]] = {
    "crash-host": crash_host,
    "crash-bait": crash_bait,
    "crash-at-point": crash_at_point,
    "journal-host": journal_host,
    "journal-bait": journal_bait,
    "reboot": reboot,
    "clock-jump": clock_jump,
    "delay": delay,
    "pieces": pieces,
    "reset": reset,
    "half-open": half_open,
    "one-way": one_way,
    "partition": partition,
    "lrms-away": lrms_away,
    "lrms-hangs": lrms_hangs,
    "lrms-stale": lrms_stale,
    "lrms-empty": lrms_empty,
    "lrms-replies": lrms_replies,
    "amnesia": amnesia,
    "libvirt-hangs": libvirt_hangs,
    "libvirt-away": libvirt_away,
    "libvirt-answers": libvirt_answers,
    "libvirt-events": libvirt_events,
    "libvirt-refuses": libvirt_refuses,
    "vm-death": vm_death,
    "late-vm": late_vm,
    "vm-cut-off": vm_cut_off,
    "host-cut-off": host_cut_off,
    "user-cancels": user_cancels,
    "user-holds": user_holds,
    "user-releases": user_releases,
    "user-requeues": user_requeues,
    "user-updates": user_updates,
}
