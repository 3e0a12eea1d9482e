"""A whole site in memory: one LRMS, one host, its two daemons, and every rule of the promise watched at every step.

Who wants to try something submits jobs, breaks things, and lets time pass with `run` or `until`; `rest` then says
what is left over. A daemon dies by `crash_bait` / `crash_host`, or by itself after its n-th commit (`die_at`).
"""

import pwd
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bait.lrms.base import JobState
from hostmaster.rules import capacity
from hostmaster.rules.lifecycle import Vm
from hostmaster.rules.pool import Plan, plan
from hostmaster.rules.spare import SparePhase
from hostmaster.world import DomainState, Ours
from protocol.guest import FromGuest
from protocol.ids import BaitName, EnvironmentName, HostName, Room, Shape, VmName
from protocol.messages import FromBait, FromHost, VmPhase
from tests.fakes.daemons import BAIT, HOST, BaitDaemon, HostDaemon
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.images import FakeImages, artifacts
from tests.fakes.lrms import FakeJob, FakeLrms
from tests.fakes.processes import Guest, Program, Starter
from tests.fakes.wire import Crash, StepClock, Wire
from wnod.config import Catalogue, Environment, Gate, HostmasterConfig, Rule, Slot
from wnod.config.hostmaster import HypervisorConfig, Lrms
from wnod.config.ready import Ready
from wnod.config.words import TlsFiles

OWNER = next(user for user in pwd.getpwall() if user.pw_uid > 0)
DEBIAN = EnvironmentName("debian12")
SHAPE = Shape(cpus=1, memory_mib=512, disk_mib=128)
LARGEST = Shape(cpus=4, memory_mib=4096, disk_mib=1024)
SLOTS = 2
DOWN_AFTER_S = 300.0
"""When the LRMS notices by itself that a node is dead."""

CATALOGUE = Catalogue(
    environments={DEBIAN: Environment(image="/images/debian12", sha256="a" * 64, largest=LARGEST, default=SHAPE)}
)
CONFIG = HostmasterConfig(
    host=HostName(HOST),
    baits=(BaitName(BAIT),),
    tls=TlsFiles(ca="/ca", certificate="/certificate", key="/key"),
    capacity=Room(cpus=4, memory_mib=2048, disk_mib=1024),
    slots=tuple(
        Slot(name=VmName(f"vm{n}"), mac=f"52:54:00:00:00:0{n}", address=f"10.0.0.1{n}/24") for n in range(1, SLOTS + 1)
    ),
    hypervisor=HypervisorConfig(bridge="br0"),
    lrms=Lrms(controller="ctl:6817", munge_key="/key"),
)


def key_of(ours: Ours) -> str:
    """The name of the overlay and the channel of the VM of which these are the facts."""
    return f"{ours.slot}-g{ours.generation}"


class Site:
    """Everything there is, and what must hold between any two things that happen."""

    def __init__(
        self, directory: Path, *, rules: tuple[Rule, ...] = (), started: bool = True, ready: Ready | None = None
    ) -> None:
        self.directory = directory
        self.clock = StepClock()
        self.clock.rightNow = 1_000_000.0
        self.lrms = FakeLrms(self.clock)
        self.lrms.started = self._job_started
        self.lrms.add_node(BAIT, cpus=16, features=(DEBIAN,))
        self.hypervisor = FakeHypervisor(self.clock)
        self.images = FakeImages({DEBIAN: artifacts()}, saved=self.hypervisor.saved)
        self.hypervisor.overlays = self.images.made
        self.config = CONFIG if ready is None else replace(CONFIG, ready=ready)
        self.boots: dict[str, str] = {}
        """Boot ids of guests that were saved, by the path to their memory."""
        self.controller = True
        """The controller's machine answers the host."""
        self.wire = Wire(self.clock, self._to_host, self._to_bait)
        self.rules = rules
        self.run_s = 30.0
        self.exit_code = 0
        self.host: HostDaemon | None = None
        self.bait: BaitDaemon | None = None
        self.guests: dict[str, Guest] = {}
        self.starters: dict[str, Starter] = {}
        self.programs: list[tuple[Guest, Program]] = []
        self.starts: list[tuple[str, int, str]] = []
        """Every start of user code: job, restart, the VM's key."""
        self.killed: set[str] = set()
        self.die_at: dict[str, int] = {}
        self.commits = {"host": 0, "bait": 0}
        self.generations: dict[int, str] = {}
        self.records: dict[str, Vm] = {}
        """The last record that any life of the hostmaster has put on disk, by the VM's key."""
        self._ids = 0
        self.lrms.start()
        if started:
            self.start_host()
            self.start_bait()

    # --- daemons -------------------------------------------------------------------------------------

    def _id(self) -> str:
        self._ids += 1
        return f"{self._ids:032x}"

    def _uuid(self) -> str:
        self._ids += 1
        return f"00000000-0000-4000-8000-{self._ids:012x}"

    def _committed(self, who: str) -> Callable[[], None]:
        def count() -> None:
            self.commits[who] += 1
            if self.commits[who] == self.die_at.get(who):
                self.clock.callLater(0, self._die, who)
                self._stop(who)
                raise Crash(f"{who} dies after commit {self.commits[who]}")

        return count

    def start_host(self) -> None:
        self.host = HostDaemon(
            self.clock, self.directory / "host.sqlite", self.config, CATALOGUE, self.hypervisor, self.images, self.wire,
            self._uuid, self._committed("host"), self.records, self._controller_answers,
        )  # fmt: skip
        self.host.start()
        self._meet()

    def start_bait(self) -> None:
        self.bait = BaitDaemon(
            self.clock, self.directory / "bait.sqlite", self.lrms, self.rules, Gate(), self.wire, self._id,
            lambda transport: OWNER.pw_uid, self._committed("bait"),
        )  # fmt: skip
        self.bait.start()
        self._meet()

    async def _controller_answers(self) -> bool:
        return self.controller

    def _meet(self) -> None:
        self.clock.callLater(0.5, self.mend)

    def mend(self) -> None:
        """Connect, if both are there."""
        if self.host is not None and self.bait is not None and not self.wire.up:
            resumed = self.wire.connect()
            self.host.baits.connected(BAIT, self.bait.journal.epoch, resumed)
            self.bait.connected(resumed)

    def cut(self, *, forget: bool = False) -> None:
        """The link is lost."""
        if self.wire.up:
            self.wire.cut(forget=forget)
            if self.host is not None:
                self.host.baits.disconnected(BAIT)
            if self.bait is not None:
                self.bait.disconnected()
        elif forget:
            self.wire.cut(forget=True)

    def _stop(self, who: str) -> None:
        """The process of that daemon is gone."""
        if who == "host" and self.host is not None:
            host, self.host = self.host, None
            host.die()
        elif who == "bait" and self.bait is not None:
            bait, self.bait = self.bait, None
            bait.die()
            for starter in tuple(self.starters.values()):
                starter.bait_is_gone()

    def _die(self, who: str, again_s: float = 1.0) -> None:
        self._stop(who)
        self.cut(forget=True)
        self.clock.callLater(again_s, self.start_host if who == "host" else self.start_bait)

    def crash_host(self, *, away_s: float = 1.0, lose_journal: bool = False) -> None:
        self._crash("host", away_s, lose_journal)

    def crash_bait(self, *, away_s: float = 1.0, lose_journal: bool = False) -> None:
        self._crash("bait", away_s, lose_journal)

    def _crash(self, who: str, away_s: float, lose_journal: bool) -> None:
        self._die(who, away_s)
        if lose_journal and who == "host":
            self.generations.clear()  # a host that lost everything counts from the highest that is left
        if lose_journal:
            for path in self.directory.glob(f"{who}.sqlite*"):
                path.unlink()

    def _to_host(self, message: FromBait) -> None:
        if self.host is not None:
            self._guarded(lambda: self.host.baits.received(BAIT, message) if self.host else None)

    def _to_bait(self, message: FromHost) -> None:
        if self.bait is not None:
            self._guarded(lambda: self.bait.received(message) if self.bait else None)

    @staticmethod
    def _guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except Crash:
            return

    # --- machines ------------------------------------------------------------------------------------

    def _job_started(self, job: FakeJob) -> None:
        if job.node == BAIT:
            server = self.bait.hooks if self.bait is not None else None
            self.starters[job.id] = Starter(self.clock, server, job, lambda code: self._starter_exits(job, code))
            return
        guest = next((guest for guest in self.guests.values() if guest.name == job.node and guest.alive), None)
        if guest is not None and not guest.standby:
            guest.gate(job)

    def _starter_exits(self, job: FakeJob, code: int) -> None:
        self.starters.pop(job.id, None)
        if job.state is JobState.RUNNING:
            self.lrms.exits(job.id, code)

    def _guest_says(self, key: str, said: FromGuest) -> bool:
        if self.host is None or key not in self.host.guests.channels:
            return False
        host = self.host
        self._guarded(lambda: host.guests.hears(key, said))
        guest = next(guest for guest in self.guests.values() if guest.key == key)
        for line in host.guests.take(key):
            self.clock.callLater(0.002, guest.hears, line)
        return True

    def _registers(self, guest: Guest) -> None:
        self.lrms.add_node(guest.name, vm=True, features=("vwn", DEBIAN))

    def _program_starts(self, guest: Guest, program: Program) -> None:
        job = program.job
        self.starts.append((job.id, program.restart, guest.key))
        self.programs.append((guest, program))
        others = [p for g, p in self.programs if p.job.id == job.id and g.alive and p.number in g.programs]
        assert len(others) == 1, f"{job.id} runs {len(others)} times at once"
        assert guest.key in self.records, f"{job.id} starts in {guest.key}, which nobody knows"
        vm = self.records[guest.key]
        assert vm.phase is VmPhase.STARTED, f"{job.id} starts in a VM that is {vm.phase}"
        assert vm.bound == job.run, f"{job.run} starts in a VM bound to {vm.bound}"
        assert vm.boot_id == guest.boot_id
        self.clock.callLater(self.run_s, guest.ends, program, self.exit_code)

    def _program_exits(self, guest: Guest, program: Program, code: int) -> None:
        job = program.job
        if job.state is JobState.RUNNING and job.run.restart == program.restart:
            self.lrms.exits(job.id, code)

    def _sync_guests(self) -> None:
        """Machines follow domains."""
        for uuid, guest in tuple(self.guests.items()):
            kept = self.hypervisor.kept.get(uuid)
            if kept is None or (kept.spec is not None and key_of(kept.spec.ours) != guest.key):
                self._guest_is_gone(uuid, self.guests.pop(uuid))
        for uuid in self.hypervisor.kept.keys() - self.guests.keys():
            spec = self.hypervisor.kept[uuid].spec
            if spec is None:
                continue  # a stranger's
            ours = spec.ours
            known = self.generations.setdefault(ours.generation, uuid)
            assert known == uuid, f"generation {ours.generation} is used twice"
            key = key_of(ours)
            restored = self.hypervisor.kept[uuid].restored
            boot_id = self.boots.get(restored, f"{ours.generation:08x}-0000-0000-0000-000000000000")
            guest = Guest(self.clock, key, ours.slot, boot_id, self._guest_says, self._registers, self._program_starts,
                          self._program_exits, partial(self._runs, uuid), standby=bool(restored))  # fmt: skip
            self.guests[uuid] = guest
            guest.boot()

    def _runs(self, uuid: str) -> bool:
        kept = self.hypervisor.kept.get(uuid)
        return kept is not None and kept.state is DomainState.RUNNING

    def _guest_is_gone(self, uuid: str, guest: Guest) -> None:
        for program in guest.programs.values():
            running = program.job.state is JobState.RUNNING and program.job.run.restart == program.restart
            assert uuid in self.killed or not running, f"{program.job.run} was destroyed with its VM"
        for path, saved in self.hypervisor.saved.items():
            golden = path.startswith("/golden/")  # others are in quarantine
            if golden and saved.spec is not None and key_of(saved.spec.ours) == guest.key:
                assert guest.standby, f"{guest.key} was saved, and was not at standby"
                self.boots[path] = guest.boot_id
        guest.die()
        self.clock.callLater(DOWN_AFTER_S, self._notice, guest.name)

    def _notice(self, name: str) -> None:
        alive = any(guest.name == name and not guest.standby for guest in self.guests.values())
        if name in self.lrms.all_nodes and not alive:
            self.lrms.node_fails(name)

    # --- what tests do -------------------------------------------------------------------------------

    def submit(self, **wishes: Any) -> str:
        return self.lrms.submit(owner=OWNER.pw_uid, user=OWNER.pw_name, **wishes)

    def job(self, job: str) -> FakeJob:
        return self.lrms.all_jobs[job]

    def cancel(self, job: str) -> None:
        """The user cancels: the LRMS ends whatever runs."""
        self.lrms.cancel(job)
        if job in self.starters:
            self.starters.pop(job).kill()
        for guest in self.guests.values():
            guest.kill(job)

    def kill_vm(self, name: str = "") -> None:
        """That VM (any, if none is named) dies."""
        uuid = next(uuid for uuid, guest in self.guests.items() if name in ("", guest.name))
        self.killed.add(uuid)
        self.hypervisor.vanish(uuid)

    def running(self, job: str) -> bool:
        """User code of that job runs now."""
        return any(p.job.id == job and g.alive and p.number in g.programs for g, p in self.programs)

    def phases(self) -> list[str]:
        """Phases of all leases of the bait, in the order of their making."""
        return [] if self.bait is None else [str(x.phase) for x in self.bait.follower.leases.values()]

    def vms(self) -> list[str]:
        """Phases of all VMs of the host."""
        return [] if self.host is None else [str(vm.phase) for vm in self.host.keeper.vms.values()]

    # --- time ----------------------------------------------------------------------------------------

    def step(self) -> None:
        self.clock.step()
        self._sync_guests()
        self.check()

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.until(lambda: False, seconds, must=False)

    def until(self, happened: Callable[[], bool], seconds: float = 400.0, *, must: bool = True) -> None:
        """Let time pass until it has happened; fail if it has not in so many seconds."""
        end = self.clock.seconds() + seconds
        while not happened():
            due = self.clock.due()
            if due is None or due > end:
                assert not must, f"not in {seconds} s; leases {self.phases()}, VMs {self.vms()}, {self.jobs()}"
                self.clock.rightNow = end
                return
            self.step()

    def jobs(self) -> str:
        return ", ".join(f"{j.run} {j.word} {j.node} {j.held_by} {j.told}" for j in self.lrms.all_jobs.values())

    # --- what must hold ------------------------------------------------------------------------------

    def check(self) -> None:
        """The invariants that are about one moment."""
        kept = [kept.spec.ours for kept in self.hypervisor.kept.values() if kept.spec is not None]
        assert sum(ours.shape.memory_mib for ours in kept) <= CONFIG.capacity.memory_mib
        assert sum(ours.shape.cpus for ours in kept) <= CONFIG.capacity.cpus
        if self.host is None:
            return
        vms = self.host.keeper.vms.values()
        spares = self.host.core.stock.spares.values()
        charged = [vm.shape for vm in vms if vm.phase is not VmPhase.GONE]
        assert not {vm.generation for vm in vms} & {spare.generation for spare in spares}, "a spare is a VM too"
        for ours in kept:
            spare = self.host.core.stock.spares.get(ours.generation)
            assert spare is None or ours.is_spare, f"{key_of(ours)} is a spare and carries a lease"
        assert sum(shape.memory_mib for shape in charged) <= CONFIG.capacity.memory_mib
        assert len({vm.lease for vm in vms}) == len(vms), "a lease has two VMs"
        assert len({vm.vm for vm in vms}) == len(vms), "a slot has two VMs"

    def ended(self, job: str) -> bool:
        return self.job(job).state is JobState.ENDED

    def idle(self) -> bool:
        """No lease and no VM is left."""
        return self.bait is not None and self.host is not None and not self.phases() and not self.vms()

    def rest_of_daemons(self) -> None:
        """Nothing is left to be done for now."""
        self.until(self.idle)
        self.run(3.0)
        self.until(self.settled, 2000.0)
        self.run(1.0)

    def settled(self) -> bool:
        """Nothing more is made in advance."""
        if self.host is None:
            return False
        stock, background = self.host.core.stock, self.host.core.background
        waiting = all(spare.phase is SparePhase.PAUSED for spare in stock.spares.values())
        return background.is_settled and waiting and not stock.litter and plan(background.view()) == Plan()

    def rest(self) -> None:
        """Everything is clean: fails with what is left over."""
        self.rest_of_daemons()
        assert self.host is not None
        assert self.bait is not None
        spares = self.host.core.stock.spares.values()
        assert set(self.hypervisor.kept) == {spare.uuid for spare in spares}
        assert set(self.images.made) == {spare.key for spare in spares}
        assert set(self.images.golden) == set(self.host.core.stock.goldens)
        assert set(self.lrms.all_nodes) == {BAIT}
        assert self.bait.follower.hooks == {}
        assert set(self.host.guests.channels) == {spare.key for spare in spares}
        assert self.bait.journal.load("lease", Any) == {}  # type: ignore[type-var]
        host = self.host.environments.host()
        assert capacity.free(host, self.host.keeper.vms.values()) == CONFIG.capacity
        self._nothing_planned()

    def _nothing_planned(self) -> None:
        assert self.host is not None
        assert self.bait is not None
        self.lrms.stop()
        self.host.stop_loops()
        self.bait.stop_loops()
        planned = [*self.host.clock.getDelayedCalls(), *self.bait.clock.getDelayedCalls()]
        assert planned == [], f"still planned: {planned}"
