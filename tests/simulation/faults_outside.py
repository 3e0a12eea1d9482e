"""Faults of the batch system, of libvirt and of VMs, and what users do in between."""

import random
from typing import Any

from bait.lrms.base import JobState
from hostmaster.administer import Administration
from hostmaster.world import DomainState
from protocol.messages import VmPhase
from tests.fakes.lrms import FakeJob
from tests.simulation.clock import Crash
from tests.simulation.cluster import Cluster
from tests.simulation.lrms import MEMORY_S
from tests.simulation.nemesis import Nemesis
from tests.simulation.site import Site
from wnod.journal import JournalFull

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
    cluster.world.callLater(MEMORY_S, _forget, cluster, saved, cluster.world.now, nemesis.rng)
    return f"in {MEMORY_S} s the state of now"


def _forget(cluster: Cluster, saved: Any, since: float, rng: random.Random) -> None:
    before = {job.id: (job.run, job.state, job.node) for job in cluster.lrms.all_jobs.values()}
    cluster.judge.trace("", "! the controller starts again, with an old state")
    cluster.lrms.go_back(saved)
    for job in cluster.lrms.all_jobs.values():
        if before.get(job.id) != (job.run, job.state, job.node):
            cluster.judge.forgets(job.id, since)
    for job_id in before.keys() - cluster.lrms.all_jobs.keys():
        cluster.judge.forgets(job_id, since)
    for site in cluster.sites:
        site.sound_since, site.longest_sound_s = cluster.world.now, 0.0
    for node in tuple(cluster.lrms.all_nodes):
        cluster.world.callLater(_registers_after_s(rng), cluster.register_again, node)


def _registers_after_s(rng: random.Random) -> float:
    """Real slurmctld 22.05 asks the nodes it knows when it starts: an orphan in a VM was dead after 2.0 to 4.2 s."""
    return 0.5 + 4.0 * rng.random()


# --- hypervisor ---


def libvirt_hangs(nemesis: Nemesis, site: Site) -> str:
    """As a whole, or only where VMs are made: these come when nobody waits for them any more."""
    seconds, libvirtd = nemesis.length(), site.libvirtd
    if libvirtd.whim.random() < 0.3:
        libvirtd.late_until = nemesis.cluster.world.now + seconds
        return f"{site.host_name}, what is made in {seconds:.1f} s comes late"
    libvirtd.hang_until = nemesis.cluster.world.now + seconds
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
    seconds = nemesis.rng.choice((60.0, 140.0, 330.0, 500.0, 1300.0)) * (0.5 + nemesis.rng.random())

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
    pending = [job for job in nemesis.cluster.lrms.all_jobs.values() if job.state is JobState.PENDING]
    lrms = nemesis.cluster.lrms
    sent = [job for job in pending if job.required_nodes not in ((), lrms.own_nodes.get(job.id))]
    if not pending:
        return ""
    job = nemesis.rng.choice([job for job in sent if job.id not in nemesis.changed] or pending)
    what = nemesis.rng.choice(("time", "partition", "target"))
    if what == "time":
        job.time_limit_s = 3600
    elif what == "partition":
        job.partition = lrms.home
    if what == "target":
        job.required_nodes, lrms.own_nodes[job.id] = (), None
    nemesis.changed.add(job.id)
    return f"{job.run}: {what}"


def admin_pauses(nemesis: Nemesis, site: Site) -> str:
    """An administrator pauses a running job's VM, and perhaps lets it go on before its time."""
    started = [] if site.host is None else [v for v in site.host.keeper.vms.values() if v.phase is VmPhase.STARTED]
    if not started:
        return ""
    vm, seconds = nemesis.rng.choice(started), nemesis.rng.choice((5, 30, 90))

    def ask(act: str, **arguments: str) -> int:
        if site.host is None:
            return 0
        try:
            return Administration(site.host.keeper, 90.0).acts()[act](arguments, "root")[0]
        except (JournalFull, Crash):  # his command fails
            return 0

    status = ask("pause", vm=vm.vm, **{"for": str(seconds)})
    if nemesis.rng.random() < 0.5:
        nemesis.later(seconds * nemesis.rng.random(), lambda: ask("resume", vm=vm.vm))
    return f"{vm.key} for {seconds} s: {status}"
