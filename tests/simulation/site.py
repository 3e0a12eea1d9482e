"""One host of the cluster and its bait: what outlives the daemons, and the daemons' present lives."""

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from bait.hookserver import HookServer
from bait.lrms.base import JobState
from bait.rules.lease import Lease
from hostmaster.rules.guestconf import Account
from hostmaster.rules.lifecycle import Vm
from protocol.ids import BaitName, EnvironmentName, HostName, Room, Shape, VmName
from tests.fakes.images import FakeImages, artifacts
from tests.simulation.audit import Audit
from tests.simulation.clock import Life
from tests.simulation.daemons import BaitDaemon, HostDaemon
from tests.simulation.hypervisor import Libvirtd
from tests.simulation.journal import Disk
from tests.simulation.machines import Guest, Program, Starter
from tests.simulation.way import Trouble, Way
from wnod.config import Catalogue, Environment, HostmasterConfig, Slot
from wnod.config.hostmaster import HypervisorConfig, Lrms
from wnod.config.ready import Ready, SpareLine
from wnod.config.words import TlsFiles
from wnod.journal import JournalError, JournalFull

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

ENVIRONMENTS = (EnvironmentName("debian12"), EnvironmentName("debian11"))
USUAL = Shape(cpus=1, memory_mib=512, disk_mib=128)
LARGEST = Shape(cpus=4, memory_mib=4096, disk_mib=1024)
TOTAL = Room(cpus=4, memory_mib=2048, disk_mib=1024)
SLOTS = 3
BAIT_CPUS = 8
DOWN_AFTER_S = 300.0
"""SlurmdTimeout: when the controller notices by itself that a node is dead."""
AGAIN_S = 2.0
"""systemd's RestartSec."""
ALARM_S = 60.0
"""So long after an alarm somebody has done something about it."""
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


SPARES = (
    SpareLine(environment=ENVIRONMENTS[0], cpus=1, memory_mib=512, disk_mib=128, keep=1, at_most=2),
    SpareLine(environment=ENVIRONMENTS[1], cpus=1, memory_mib=512, disk_mib=128, keep=0, at_most=1),
)
AHEAD = (Ready(), Ready(golden_disk_mib=2000), Ready(spares=SPARES), Ready(golden_disk_mib=1000, spares=SPARES))
"""What hosts make in advance: each seed one of these."""


def config(number: int, ready: Ready) -> HostmasterConfig:
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
        ready=ready,
    )


class Site:
    """One host and its bait: what outlives the daemons, and the daemons' present lives."""

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self.host_name, self.bait_name = f"h{number}", f"bait{number}"
        self.config = config(number, cluster.rng("ahead").choice(AHEAD))
        self.disks = {"host": Disk(), "bait": Disk()}
        rng, whim = cluster.rng("libvirt", number), cluster.rng("libvirt-whim", number)
        self.libvirtd = Libvirtd(cluster.world, rng, whim, cluster.judge.trace)
        self.libvirtd.changed = self._domain_changed
        self.images = FakeImages({name: artifacts(name[-1] * 64) for name in ENVIRONMENTS}, saved=self.libvirtd.saved)
        self.libvirtd.images, self.libvirtd.overlays = self.images, self.images.made
        self.boots: dict[str, str] = {}
        """Boot ids of guests that were saved, by the path to their memory."""
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
        self.sound_since = self.longest_sound_s = 0.0
        """Since when, and for how long at most since the controller's last start, no fault has kept this site's daemons
        from what they do; to the second."""
        self.next_fuse: dict[str, tuple[str, int]] = {}
        self.away_s = 1.0
        self.refused: set[str] = set()
        """Daemons whose journal is not to be believed: they wait for the administrator."""
        self.killed: set[str] = set()
        """Domains that a fault has ended."""
        self._rng = cluster.rng("site", number)
        self.audit = Audit(self)
        for who, disk in self.disks.items():
            disk.committed = partial(self.audit.committed, who)
        self.strangers = [self.libvirtd.stranger(f"somebodys-{number}")]
        """Domains that are no business of ours."""
        self.libvirtd.touched = self._touched

    # --- daemons ---

    def start(self, who: str) -> None:
        """Begin a new life of "host" or "bait", unless there is one or the machine is off."""
        if self.off or getattr(self, who) is not None or who in self.refused:
            return
        name = self.host_name if who == "host" else self.bait_name
        life = Life(self.cluster.world, name, lambda life: self._died(who), self.offsets[who])
        life.net = self.cluster.net
        life.fuse = self.next_fuse.pop(who, None)
        try:
            daemon: Any = self._new_host(life) if who == "host" else self._new_bait(life)
            self.audit.found(who, daemon.journal)
        except JournalError as error:
            life.die()
            self._does_not_start(who, error)
            return
        setattr(self, who, daemon)
        epoch = daemon.journal.epoch
        self.cluster.judge.require(epoch > self.epochs[who], "I10", "", f"epoch {epoch} of {name} again")
        self.epochs[who] = epoch
        self.cluster.judge.trace("", f"{name} starts, epoch {epoch}")
        self.cluster.guarded(life, partial(self._begin, who, daemon))

    def _begin(self, who: str, daemon: Any) -> None:
        try:
            daemon.start()
        except JournalError as error:
            self.kill(who)
            self._does_not_start(who, error)

    def _does_not_start(self, who: str, error: JournalError) -> None:
        """The text is what the administrator reads; systemd tries again what may pass."""
        self.cluster.judge.trace("", f"! {self.host_name} {who} does not start: {type(error).__name__}")
        if isinstance(error, JournalFull):
            self.cluster.world.callLater(AGAIN_S, self.start, who)
        else:
            self.refused.add(who)
            self.cluster.world.callLater(ALARM_S, self.put_right, who)

    def put_right(self, who: str) -> None:
        """The administrator does what the error's text tells him: he moves the journal away."""
        if who in self.refused:
            self.lose_journal(who)
            self.start(who)

    def gives_up(self, who: str) -> None:
        """That daemon ends by itself, with an error; systemd starts it again."""
        daemon: Any = getattr(self, who)

        def ends() -> None:
            if daemon is not None and getattr(self, who) is daemon:
                self.kill(who)
                self.cluster.world.callLater(AGAIN_S, self.start, who)

        self.cluster.world.callLater(0.0, ends)

    def _new_host(self, life: Life) -> HostDaemon:
        daemon = HostDaemon(
            life, self.disks["host"], self.config, CATALOGUE, self.libvirtd, self.images, self._guest,
            self.cluster.new_uuid, self._controller_answers, self,
        )  # fmt: skip
        daemon.core.generations_above = int(life.seconds())
        self.audit.hears(daemon.core.baits, lambda: daemon.keeper.vms)
        return daemon

    async def _controller_answers(self) -> bool:
        """The host's question whether the controller's machine is there."""
        waiting: Deferred[None] = Deferred()
        self.cluster.world.callLater(5.0 if self.cut_off else 0.005, waiting.callback, None)
        await waiting
        return not self.cut_off

    def _new_bait(self, life: Life) -> BaitDaemon:
        way = Way(self.cluster.lrms, life, self._rng, self.trouble, self.audit.touches)
        daemon = BaitDaemon(life, self.disks["bait"], self.host_name, way, self.cluster.new_id, self._rng, self)
        self.audit.hears(daemon, lambda: daemon.follower.leases)
        return daemon

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
        self.refused.discard(who)
        self.audit.disk[who] = {}

    def look_whether_sound(self) -> None:
        """Call this every second."""
        now = self.cluster.world.now
        if not self._is_sound():
            self.sound_since = now
        self.longest_sound_s = max(self.longest_sound_s, now - self.sound_since)

    def _is_sound(self) -> bool:
        """Both daemons live, hear each other, and are answered by the controller and by libvirt."""
        now, libvirtd = self.cluster.world.now, self.libvirtd
        if self.host is None or self.bait is None or self.cut_off or self.trouble.away or libvirtd.away:
            return False
        path = self.cluster.net.path(self.bait_name, self.host_name)
        if path.walls or any(pipe.lost for pipe in path.pipes):
            return False
        return max(libvirtd.hang_until, self.trouble.hang_until, self.trouble.stale_until) <= now

    def hooks(self) -> tuple[HookServer, Life] | None:
        """Who answers starters now."""
        return None if self.bait is None else (self.bait.hooks, self.bait.life)

    # --- observers ---

    def trace(self, subject: str, text: str) -> None:
        self.cluster.judge.trace(subject, text)

    def said(self, who: str, to: str, message: Any) -> None:
        self.audit.said(message)
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
        self.cluster.judge.vm(self.host_name, before, vm, daemon.keeper.vms, TOTAL)
        self.audit.told("host", vm)

    def vm_forgotten(self, daemon: HostDaemon, vm: Vm) -> None:
        self.trace(vm.asked.key, f"{self.host_name}: {vm.key} forgotten")

    def lease_changed(self, daemon: BaitDaemon, before: Lease | None, lease: Lease) -> None:
        self.cluster.jobs_by_lease[lease.lease] = lease.run.key
        self.audit.told("bait", lease)
        if before is None or before.phase is not lease.phase:
            vm = f" {lease.vm}-g{lease.generation}" if lease.vm else ""
            text = f" ({lease.text})" if lease.text else ""
            self.trace(lease.run.key, f"{self.bait_name}: lease {lease.lease[-4:]} {lease.phase}{vm}{text}")

    def lease_forgotten(self, daemon: BaitDaemon, lease: Lease) -> None:
        self.trace(lease.run.key, f"{self.bait_name}: lease {lease.lease[-4:]} forgotten")

    # --- machines ---

    def _touched(self, verb: str, uuid: str) -> None:
        self.cluster.judge.require(uuid not in self.strangers, "I13", "", f"{self.host_name}: {verb} of {uuid}")

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
        restored = self.libvirtd.kept[uuid].restored
        boot_s, register_s = self.cluster.boot_times()
        guest = Guest(
            self.cluster.world, f"{ours.slot}-g{ours.generation}", uuid, ours.slot, ours.generation, ours.shape.cpus,
            self.boots.get(restored, boot_id), boot_s, register_s, self, standby=bool(restored),
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
            needed = same and job is not None and job.state is JobState.RUNNING and program.started_at is not None
            if needed and not fault and not self.cluster.judge.excuses_loss(guest, program):
                text = f"{guest.key} was destroyed while run {program.restart} ran"
                self.cluster.judge.breach("I9", program.job, text)
            if program.started_at is not None:
                self.cluster.judge.finish(guest, program, "its VM is gone")
        self.trace("", f"{self.host_name}: {guest.key} is gone")
        for path, saved in self.libvirtd.saved.items():
            of = saved.spec.ours if saved.spec is not None else None
            if of is not None and path.startswith("/golden/") and f"{of.slot}-g{of.generation}" == guest.key:
                self.cluster.judge.require(guest.standby, "I6", "", f"{guest.key} was saved, and was not at standby")
                fresh = guest.uuid not in self.libvirtd.mixed
                self.cluster.judge.require(fresh, "disk", "", f"{guest.key} was saved on the overlay of another try")
                self.boots[path] = guest.boot_id
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
            other for other in self.cluster.started_in.setdefault(program.job, [])
            if other is not guest and other.alive and not other.paused
            and (found := other.runs(program.job)) is not None and found.started_at is not None
        ]  # fmt: skip
        self.cluster.started_in[program.job].append(guest)
        self.cluster.judge.start(guest, program, elsewhere)
        fresh = guest.uuid not in self.libvirtd.mixed
        self.cluster.judge.require(fresh, "disk", program.job, f"{guest.key} runs on the overlay of another try")
        return self.cluster.run_s.get(program.job, 10.0)

    def program_exits(self, guest: Guest, program: Program, code: int) -> None:
        job = self.cluster.lrms.all_jobs.get(program.job)
        mine = job is not None and (job.run.restart, job.node) == (program.restart, guest.name)
        accepted = mine and job is not None and job.state is JobState.RUNNING
        if program.started_at is not None:
            self.cluster.judge.finish(guest, program, "done" if accepted and code == 0 else "nobody wants its result")
        if accepted and job is not None:
            self.cluster.lrms.exits(job.id, code)
