"""A whole cluster: one controller, many hosts with their hostmaster, bait, libvirt and guests, and what links them."""

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from bait.hookserver import HookServer
from bait.lease import Lease
from bait.lrms.base import JobState
from hostmaster.guestconf import Account
from hostmaster.lifecycle import Vm
from protocol.ids import BaitName, EnvironmentName, HostName, Room, Shape, VmName
from tests.fakes.images import FakeImages, artifacts
from tests.fakes.lrms import FakeJob
from tests.simulation.clock import Life, World
from tests.simulation.daemons import BaitDaemon, HostDaemon
from tests.simulation.hypervisor import Libvirtd
from tests.simulation.journal import Disk
from tests.simulation.judge import Judge
from tests.simulation.lrms import Controller, Trouble, Way
from tests.simulation.machines import Guest, Program, Starter
from tests.simulation.net import Net
from wnod.config import Catalogue, Environment, HostmasterConfig, Slot
from wnod.config.hostmaster import HypervisorConfig, Lrms
from wnod.config.words import TlsFiles

ENVIRONMENTS = (EnvironmentName("debian12"), EnvironmentName("debian11"))
USUAL = Shape(cpus=1, memory_mib=512, disk_mib=128)
LARGEST = Shape(cpus=4, memory_mib=4096, disk_mib=1024)
TOTAL = Room(cpus=4, memory_mib=2048, disk_mib=1024)
SLOTS = 3
BAIT_CPUS = 8
DOWN_AFTER_S = 300.0
"""SlurmdTimeout: when the controller notices by itself that a node is dead."""
USERS = {f"user{n}": 2000 + n for n in range(5)}

CATALOGUE = Catalogue(
    environments={
        name: Environment(image=f"/images/{name}", sha256=name[-1] * 64, largest=LARGEST, default=USUAL)
        for name in ENVIRONMENTS
    }
)


def account(uid: int) -> Account:
    """Stands where the host's name service stands."""
    return Account(f"user{uid - 2000}:x:{uid}:{uid}::/home/user{uid - 2000}:/bin/sh", ())


def config(number: int) -> HostmasterConfig:
    """The configuration of host `number`."""
    return HostmasterConfig(
        host=HostName(f"h{number}"),
        baits=(BaitName(f"bait{number}"),),
        tls=TlsFiles(ca="/ca", certificate="/certificate", key="/key"),
        capacity=TOTAL,
        slots=tuple(
            Slot(name=VmName(f"vm{number}-{n}"), mac=f"52:54:00:00:00:0{n}", address=f"10.0.0.1{n}/24")
            for n in range(1, SLOTS + 1)
        ),
        hypervisor=HypervisorConfig(bridge="br0"),
        lrms=Lrms(controller="ctl:6817", munge_key="/key"),
    )


class Site:
    """One host and its bait: what outlives the daemons, and the daemons' present lives."""

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self.host_name, self.bait_name = f"h{number}", f"bait{number}"
        self.config = config(number)
        self.disks = {"host": Disk(), "bait": Disk()}
        self.libvirtd = Libvirtd(cluster.world, cluster.rng("libvirt", number), cluster.judge.trace)
        self.libvirtd.changed = self._domain_changed
        self.images = FakeImages({name: artifacts(name[-1] * 64) for name in ENVIRONMENTS})
        self.trouble = Trouble()
        self.host: HostDaemon | None = None
        self.bait: BaitDaemon | None = None
        self.guests: dict[str, Guest] = {}
        """By the domain's UUID."""
        self.starters: dict[str, tuple[int, Starter]] = {}
        """By job: the run's restart count and its starter."""
        self.offsets = {"host": 0.0, "bait": 0.0}
        self.epochs = {"host": 0, "bait": 0}
        self.cut_off = False
        """The controller does not reach this host, nor this host and its VMs the controller."""
        self.off = False
        """The whole machine is off."""
        self.next_fuse: dict[str, tuple[str, int]] = {}
        self.away_s = 1.0
        self.killed: set[str] = set()
        """Domains that a fault has ended."""
        self._rng = cluster.rng("site", number)

    # --- daemons ---

    def start(self, who: str) -> None:
        """Begin a new life of "host" or "bait", unless there is one or the machine is off."""
        if self.off or getattr(self, who) is not None:
            return
        name = self.host_name if who == "host" else self.bait_name
        life = Life(self.cluster.world, name, lambda life: self._died(who), self.offsets[who])
        life.net = self.cluster.net
        life.fuse = self.next_fuse.pop(who, None)
        daemon: Any = self._new_host(life) if who == "host" else self._new_bait(life)
        setattr(self, who, daemon)
        epoch = daemon.journal.epoch
        self.cluster.judge.require(epoch > self.epochs[who], "I10", "", f"epoch {epoch} of {name} again")
        self.epochs[who] = epoch
        self.cluster.judge.trace("", f"{name} starts, epoch {epoch}")
        self.cluster.guarded(life, daemon.start)

    def _new_host(self, life: Life) -> HostDaemon:
        return HostDaemon(
            life, self.disks["host"], self.config, CATALOGUE, self.libvirtd, self.images, self._guest,
            self.cluster.new_uuid, self._controller_answers, self,
        )  # fmt: skip

    async def _controller_answers(self) -> bool:
        """The host's question whether the controller's machine is there."""
        waiting: Deferred[None] = Deferred()
        self.cluster.world.callLater(5.0 if self.cut_off else 0.005, waiting.callback, None)
        await waiting
        return not self.cut_off

    def _new_bait(self, life: Life) -> BaitDaemon:
        way = Way(self.cluster.lrms, life, self._rng, self.trouble)
        return BaitDaemon(life, self.disks["bait"], self.host_name, way, self.cluster.new_id, self._rng, self)

    def _died(self, who: str) -> None:
        self.cluster.judge.trace("", f"! {self.host_name if who == 'host' else self.bait_name} dies at a crash point")
        self.kill(who)
        self.cluster.world.callLater(self.away_s, self.start, who)

    def kill(self, who: str, *, silently: bool = False) -> None:
        """The daemon's process is gone, at once."""
        daemon: Any = getattr(self, who)
        if daemon is None:
            return
        setattr(self, who, None)
        self.offsets[who] = daemon.life.offset
        daemon.life.die()
        daemon.die()
        self.disks[who].recover()
        self.cluster.net.gone(daemon.life, silently=silently)
        if who == "bait":
            for _, starter in tuple(self.starters.values()):
                starter.bait_is_gone()

    def lose_journal(self, who: str) -> None:
        """The journal's file is deleted; the daemon must be dead."""
        self.disks[who].lose()
        self.epochs[who] = 0
        if who == "host":  # counts on from the highest generation that libvirt still shows
            judge = self.cluster.judge
            judge.generations = {k: uuid for k, uuid in judge.generations.items() if k[0] != self.host_name}

    def hooks(self) -> tuple[HookServer, Life] | None:
        """Who answers starters now."""
        return None if self.bait is None else (self.bait.hooks, self.bait.life)

    # --- observers ---

    def trace(self, subject: str, text: str) -> None:
        self.cluster.judge.trace(subject, text)

    def said(self, who: str, to: str, message: Any) -> None:
        lease = getattr(message, "lease", None)
        if lease is not None:
            job = self.cluster.jobs_by_lease.get(lease, "")
            detail = getattr(message, "text", "")
            text = f"{who} -> {to}: {type(message).__name__} {lease[-4:]}" + (f" ({detail})" if detail else "")
            self.trace(job, text)

    def loaded(self, daemon: HostDaemon) -> None:
        """What is on disk counts, also if its writer died before he could tell."""
        self.cluster.judge.records.update({vm.key: vm for vm in daemon.keeper.vms.values()})

    def vm_changed(self, daemon: HostDaemon, before: Vm | None, vm: Vm) -> None:
        self.cluster.judge.vm(self.host_name, before, vm, daemon.keeper.vms, TOTAL)  # type: ignore[arg-type]

    def vm_forgotten(self, daemon: HostDaemon, vm: Vm) -> None:
        self.trace(vm.asked.key, f"{self.host_name}: {vm.key} forgotten")

    def lease_changed(self, daemon: BaitDaemon, before: Lease | None, lease: Lease) -> None:
        self.cluster.jobs_by_lease[lease.lease] = lease.run.key
        if before is None or before.phase is not lease.phase:
            vm = f" {lease.vm}-g{lease.generation}" if lease.vm else ""
            text = f" ({lease.text})" if lease.text else ""
            self.trace(lease.run.key, f"{self.bait_name}: lease {lease.lease[-4:]} {lease.phase}{vm}{text}")

    def lease_forgotten(self, daemon: BaitDaemon, lease: Lease) -> None:
        self.trace(lease.run.key, f"{self.bait_name}: lease {lease.lease[-4:]} forgotten")

    # --- machines ---

    def _guest(self, key: str) -> Guest | None:
        return next((guest for guest in self.guests.values() if guest.key == key), None)

    def _domain_changed(self, uuid: str) -> None:
        kept = self.libvirtd.kept.get(uuid)
        guest = self.guests.get(uuid)
        if kept is None:
            if guest is not None:
                del self.guests[uuid]
                self._guest_is_gone(guest)
        elif guest is None and kept.spec is not None:
            self._new_guest(uuid, kept.spec.ours)
        elif guest is not None and kept.state.value == "paused" and not guest.paused:
            guest.pause()
            self.cluster.contact(guest)
        elif guest is not None and kept.state.value == "running" and guest.paused:
            guest.unpause()
            self.cluster.contact(guest)
        elif guest is not None and kept.state.value == "stopped":
            self._guest_is_gone(guest)

    def _new_guest(self, uuid: str, ours: Any) -> None:
        specs = [kept.spec for kept in self.libvirtd.kept.values() if kept.spec is not None]
        self.cluster.judge.domains(self.host_name, specs, TOTAL)
        self.cluster.booted += 1
        boot_id = f"{self.cluster.booted:08x}-0000-0000-0000-000000000000"
        boot_s, register_s = self.cluster.boot_times()
        guest = Guest(
            self.cluster.world, f"{ours.slot}-g{ours.generation}", uuid, ours.slot, ours.generation, ours.shape.cpus,
            boot_id, boot_s, register_s, self,
        )  # fmt: skip
        guest.cut_off = self.cut_off
        self.guests[uuid] = guest
        self.cluster.contact(guest)
        self.trace("", f"{self.host_name}: {guest.key} boots")
        guest.boot()

    def _guest_is_gone(self, guest: Guest) -> None:
        if not guest.alive:
            return
        fault = guest.uuid in self.killed
        for program in guest.programs.values():
            job = self.cluster.lrms.all_jobs.get(program.job)
            same = job is not None and job.run.restart == program.restart and job.node == guest.name
            needed = same and job is not None and job.state is JobState.RUNNING
            if needed and program.started_at is not None and not fault and program.job not in self.cluster.judge.excused:
                self.cluster.judge.breach("I9", program.job, f"{guest.key} was destroyed while run {program.restart} ran")
            if program.started_at is not None:
                self.cluster.judge.finish(guest, program, "its VM is gone")
        self.trace("", f"{self.host_name}: {guest.key} is gone")
        guest.die()
        self.cluster.world.callLater(DOWN_AFTER_S, self.cluster.notice, guest.name)

    # --- what guests do ---

    def guest_says(self, guest: Guest, line: bytes) -> None:
        if guest.alive and self.host is not None:
            self.host.guests.says(guest.key, line)

    def guest_registers(self, guest: Guest) -> None:
        lrms = self.cluster.lrms
        self.trace("", f"node {guest.name} registers ({guest.key})")
        closed = lrms.all_nodes.get(guest.name)
        lrms.add_node(guest.name, vm=True, cpus=guest.cpus, features=("vwn", *ENVIRONMENTS))
        if closed is not None:
            self.cluster.missing(guest.name)

    def program_starts(self, guest: Guest, program: Program) -> float:
        elsewhere = [
            other for site in self.cluster.sites for other in site.guests.values()
            if other is not guest and other.alive and not other.paused
            and (found := other.runs(program.job)) is not None and found.started_at is not None
        ]  # fmt: skip
        self.cluster.judge.start(guest, program, elsewhere)
        return self.cluster.run_s.get(program.job, 10.0)

    def program_exits(self, guest: Guest, program: Program, code: int) -> None:
        job = self.cluster.lrms.all_jobs.get(program.job)
        mine = job is not None and (job.run.restart, job.node) == (program.restart, guest.name)
        accepted = mine and job is not None and job.state is JobState.RUNNING
        if program.started_at is not None:
            self.cluster.judge.finish(guest, program, "done" if accepted and code == 0 else "nobody wants its result")
        if accepted and job is not None:
            self.cluster.lrms.exits(job.id, code)


class Cluster:
    """Everything there is."""

    def __init__(self, seed: int, hosts: int) -> None:
        self.seed = seed
        self.world = World()
        self.judge = Judge(self.world.seconds)
        self.net = Net(self.world, self.rng("net"))
        self.lrms = Controller(self.world, self.judge.trace)
        self.lrms.started = self._job_started
        self.lrms.left = self._job_leaves
        self.lrms.requeued = self._job_requeued
        self.jobs_by_lease: dict[str, str] = {}
        self.run_s: dict[str, float] = {}
        self.to_come = 0
        """Submissions that are still to be made."""
        self.no_requeue: set[str] = set()
        """Jobs whose users asked for no requeue."""
        self.booted = 0
        self.late_guests = 0.0
        """Share of VMs that are slow to boot or to register."""
        self._ids = 0
        self._rng = self.rng("cluster")
        self.sites = [Site(self, number) for number in range(1, hosts + 1)]
        self._by_bait = {site.bait_name: site for site in self.sites}
        self._by_node = {slot.name: site for site in self.sites for slot in site.config.slots}
        for site in self.sites:
            self.lrms.add_node(site.bait_name, cpus=BAIT_CPUS, features=ENVIRONMENTS)
        self.lrms.start()
        for site in self.sites:
            site.start("host")
            site.start("bait")

    def rng(self, *words: object) -> random.Random:
        """Randomness for one purpose, the same for the same seed."""
        return random.Random(f"{self.seed} {words}")

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:032x}"

    def new_uuid(self) -> str:
        self._ids += 1
        return f"00000000-0000-4000-8000-{self._ids:012x}"

    def guarded(self, life: Life, call: Callable[[], None]) -> None:
        """Call into a daemon from outside of the clock."""
        self.world.plan(life, 0.0, call, (), {})

    def boot_times(self) -> tuple[float, float]:
        """How long a VM takes to say hello, and then to register."""
        rng = self._rng
        boot, register = 1.0 + rng.random(), 0.2 + 0.5 * rng.random()
        if rng.random() < self.late_guests:
            return boot + rng.choice((5.0, 30.0, 90.0)) * rng.random(), register + 90.0 * rng.random()
        return boot, register

    # --- the controller and the machines ---

    def _job_started(self, job: FakeJob) -> None:
        assert job.node is not None
        if job.node in self._by_bait:
            self._starter(self._by_bait[job.node], job)
            return
        guest = self.guest_of(job.node)
        if guest is not None and guest.reachable:
            guest.gate(job.run, job.owner)

    def guest_of(self, node: str) -> Guest | None:
        """The living VM behind a node."""
        site = self._by_node[VmName(node)]
        return next((guest for guest in site.guests.values() if guest.name == node and guest.alive), None)

    def _starter(self, site: Site, job: FakeJob) -> None:
        restart, job_id = job.run.restart, job.id

        def exits(code: int) -> None:
            if site.cut_off:  # its node's daemon cannot report it: tried until it can
                self.world.callLater(1.0, exits, code)
                return
            if site.starters.get(job_id, (None, None))[1] is starter:
                del site.starters[job_id]
            now = self.lrms.all_jobs.get(job_id)
            if now is not None and (now.state, now.run.restart, now.node) == (JobState.RUNNING, restart, site.bait_name):
                self.lrms.exits(job_id, code)

        if site.off:
            return
        starter = Starter(self.world, site.hooks, job.run, job.owner, exits)
        site.starters[job_id] = (restart, starter)

    def _job_leaves(self, job: FakeJob) -> None:
        """The controller tells the node's daemon to end whatever runs there of this job."""
        if job.node in self._by_bait:
            site = self._by_bait[job.node]
            if job.id in site.starters and not site.cut_off:
                site.starters.pop(job.id)[1].kill()
        elif job.node is not None:
            guest = self.guest_of(job.node)
            program = guest.runs(job.id) if guest is not None and guest.reachable else None
            if guest is not None and program is not None:
                guest.kill(program)
                self.judge.finish(guest, program, "killed by the batch system")

    def _job_requeued(self, job: FakeJob, why: str) -> None:
        guest = self.guest_of(job.node) if job.node in self._by_node else None
        program = guest.runs(job.id) if guest is not None else None
        running = guest is not None and program is not None and program.started_at is not None
        if running and guest is not None and why == "its node failed" and guest.reachable:
            self.judge.breach("I9", job.id, f"the batch system was told that {guest.key} is dead while the job ran in it")

    def notice(self, name: str) -> None:
        """The controller looks whether that node is still there."""
        if name in self.lrms.all_nodes and self.guest_of(name) is None:
            self.lrms.node_fails(name)

    def contact(self, guest: Guest) -> None:
        """What keeps that guest and the controller apart may have come or gone."""
        if guest.reachable and guest.silent_since is not None:
            guest.silent_since = None
            if guest.registered:
                self.world.callLater(0.5, self.register_again, guest.name)
        elif not guest.reachable and guest.silent_since is None:
            guest.silent_since = self.world.now
            self.world.callLater(DOWN_AFTER_S, self._given_up, guest, self.world.now)

    def _given_up(self, guest: Guest, since: float) -> None:
        """The controller has not heard of that VM's node for so long that it counts as dead."""
        if guest.alive and guest.silent_since == since and guest.name in self.lrms.all_nodes:
            self.lrms.node_fails(guest.name)

    def bait_given_up(self, site: Site) -> None:
        """The controller has not heard of that bait for so long that the jobs on it go back to the queue."""
        if site.cut_off:
            for job in self.lrms._jobs_on(site.bait_name):
                self.lrms._requeue(job, "")

    def register_again(self, node: str) -> None:
        """A node's daemon and the controller compare what should run there."""
        if node in self._by_bait:
            site = self._by_bait[node]
            self.lrms.all_nodes[node].up = not (site.off or site.cut_off)
            if self.lrms.all_nodes[node].up:
                self.missing(node)
            return
        guest = self.guest_of(node)
        if guest is None:
            self.world.callLater(DOWN_AFTER_S, self.notice, node)
        elif guest.reachable and guest.registered:
            if node not in self.lrms.all_nodes:
                self.lrms.add_node(node, vm=True, cpus=guest.cpus, features=("vwn", *ENVIRONMENTS))
            self.lrms.all_nodes[node].up = True
            self.missing(node)

    def missing(self, node: str) -> None:
        """A node has registered: jobs that should run there and do not go back to the queue; orphans are ended."""
        site = self._by_bait.get(node)
        running: dict[str, int] = {}
        guest = None
        if site is not None:
            running = {job: restart for job, (restart, _) in site.starters.items()}
        else:
            guest = self.guest_of(node)
            running = {} if guest is None else {p.job: p.restart for p in guest.programs.values()}
        wanted = {job.id: job for job in self.lrms._jobs_on(node)}
        for job_id, job in wanted.items():
            if running.get(job_id) != job.run.restart and job.state is JobState.RUNNING:
                self.lrms.requeued(job, "it was missing on its node")
                self.lrms._requeue(job, "")
        for job_id, restart in running.items():
            found = wanted.get(job_id)
            if found is None or found.run.restart != restart:
                self._end_orphan(site, guest, job_id)

    def _end_orphan(self, site: Site | None, guest: Guest | None, job_id: str) -> None:
        if site is not None:
            site.starters.pop(job_id)[1].kill()
        elif guest is not None and (program := guest.runs(job_id)) is not None:
            guest.kill(program)
            self.judge.finish(guest, program, "an orphan in the batch system's eyes")

    # --- time ---

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until then, or until `stop` (asked once a second)."""
        look = self.world.now
        while not self.judge.breaches:
            if self.world.now >= look:
                look = self.world.now + 1.0
                if stop():
                    return
            if self.world.step(until) is None:
                self.world.now = until
                return

    # --- convergence ---

    def left_over(self) -> list[tuple[str, str]]:
        """(job, what) that is not as it should be once everything has come to rest."""
        found = [("", "jobs are still to be submitted")] if self.to_come else []
        found += [(job.id, f"{job.run} is {job.word} {job.held_by}") for job in self._unfinished()]
        for site in self.sites:
            found += [("", f"{site.host_name}: {what}") for what in self._left_over_at(site)]
        nodes = [name for name in self.lrms.all_nodes if name not in self._by_bait]
        return found + [("", f"node {name}") for name in nodes]

    def _unfinished(self) -> list[FakeJob]:
        return [job for job in self.lrms.all_jobs.values() if job.state is not JobState.ENDED]

    def _left_over_at(self, site: Site) -> list[str]:
        if site.host is None or site.bait is None:
            return ["a daemon is dead"]
        node = self.lrms.all_nodes[site.bait_name]
        left = [f"lease {x.lease[-4:]} {x.phase} of {x.run}" for x in site.bait.follower.leases.values()]
        left += [f"VM {vm.key} {vm.phase} of {vm.asked}" for vm in site.host.keeper.vms.values()]
        left += [f"domain {kept.spec.ours.slot}" for kept in site.libvirtd.kept.values() if kept.spec is not None]
        left += [f"overlay {name}" for name in site.images.made]
        left += [f"channel {name}" for name in site.host.guests.open_ones]
        left += [f"starter of {job}" for job in site.starters]
        left += [f"hook of {lease[-4:]}" for lease in site.bait.follower.hooks]
        left += [f"the bait is closed: {node.closed}"] if node.closed is not None else []
        left += [] if node.up else ["the bait is down"]
        return left
