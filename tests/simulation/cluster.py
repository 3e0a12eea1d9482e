"""A whole cluster: one controller, many hosts with their hostmaster, bait, libvirt and guests, and what links them."""

import random
from collections.abc import Callable
from functools import partial

from bait.lrms.base import JobState
from protocol.ids import VmName
from tests.fakes.lrms import FakeJob
from tests.simulation.clock import Life, World
from tests.simulation.judge import Judge
from tests.simulation.lrms import Controller
from tests.simulation.machines import Guest, Starter
from tests.simulation.net import Net
from tests.simulation.site import BAIT_CPUS, DOWN_AFTER_S, ENVIRONMENTS, Site

ACTIVE_S = 20.0
"""A job that slurmctld has started or read from its state so lately is not missed on a node that registers without it:
the start may be on its way (BatchStartTimeout and MessageTimeout)."""
REGISTERS_AGAIN_S = 660.0
"""20 of slurmctld's pings, a third of its SlurmdTimeout each: then it asks a node that answers to register anew."""
ENDS_S = 15.0
"""A bait and a host end a run that the controller has forgotten within this, if nothing is in their way for so long."""


class Cluster:
    """Everything there is."""

    def __init__(self, seed: int, hosts: int, judge: Judge, bait_cpus: int = BAIT_CPUS) -> None:
        self.seed = seed
        self.world = World()
        self.judge = judge
        judge.now = self.world.seconds
        self.net = Net(self.world, self.rng("net"))
        self.lrms = Controller(self.world, self.judge.trace)
        self.lrms.started = self._job_started
        self.lrms.left = self._job_leaves
        self.lrms.unreachable = self._unreachable
        self.lrms.requeued = self._job_requeued
        self.lrms.given_back = self._job_given_back
        judge.out_of_reach = self.out_of_reach
        self.jobs_by_lease: dict[str, str] = {}
        self.run_s: dict[str, float] = {}
        self.started_in: dict[str, list[Guest]] = {}
        """Where user code of each job has ever begun."""
        self.to_come = 0
        """Submissions that are still to be made."""
        self.no_requeue: set[str] = set()
        """Jobs whose users asked for no requeue."""
        self.given_back = 0
        """How often a bait has put a job back into the queue."""
        self.booted = 0
        self.late_guests = 0.0
        """Share of VMs that are slow to boot or to register."""
        self._ids = 0
        self._rng = self.rng("cluster")
        self.sites = [Site(self, number) for number in range(1, hosts + 1)]
        self._by_bait = {site.bait_name: site for site in self.sites}
        self._by_node = {slot.name: site for site in self.sites for slot in site.config.slots}
        for site in self.sites:
            self.lrms.add_node(site.bait_name, cpus=bait_cpus, features=ENVIRONMENTS)
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

    def _job_given_back(self, job: FakeJob) -> None:
        """R11: what its user asked for is put back, and nothing of ours is left."""
        self.given_back += 1
        own = self.lrms.own_nodes.get(job.id)
        text = f"given back for {job.required_nodes}, its user asked for {own}"
        self.judge.require(own is None or job.required_nodes == own, "R11", job.id, text)

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
        if not site.off:
            starter = Starter(self.world, site.hooks, job.run, job.owner, partial(self._starter_exits, site))
            site.starters[job.id] = (job.run.restart, starter)

    def _starter_exits(self, site: Site, starter: Starter, code: int) -> None:
        if site.cut_off:  # its node's daemon cannot report it: tried until it can
            self.world.callLater(1.0, self._starter_exits, site, starter, code)
            return
        run = starter.run
        if site.starters.get(run.key, (None, None))[1] is starter:
            del site.starters[run.key]
        now = self.lrms.all_jobs.get(run.key)
        here = JobState.RUNNING, run.restart, site.bait_name
        if now is not None and (now.state, now.run.restart, now.node) == here:
            self.lrms.exits(run.key, code)

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

    def _unreachable(self, job: FakeJob) -> bool:
        if job.node in self._by_bait:
            return self._by_bait[job.node].cut_off
        node = self.lrms.all_nodes.get(job.node or "")
        guest = self.guest_of(job.node) if job.node is not None else None
        return node is not None and node.up and guest is not None and not guest.reachable

    def _job_requeued(self, job: FakeJob, why: str) -> None:
        guest = self.guest_of(job.node) if job.node in self._by_node else None
        program = guest.runs(job.id) if guest is not None else None
        running = guest is not None and program is not None and program.started_at is not None
        if running and guest is not None and why == "its node failed" and guest.reachable:
            self.judge.breach(
                "I9", job.id, f"the batch system was told that {guest.key} is dead while the job ran in it"
            )

    def notice(self, name: str) -> None:
        """The controller has not heard of that node for long. The slot's next VM is no answer before it registers."""
        guest = self.guest_of(name)
        if name in self.lrms.all_nodes and (guest is None or not guest.registered):
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
            self.lrms.node_fails(site.bait_name)

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
        elif guest.reachable and guest.registered and node in self.lrms.all_nodes:
            # A VM's node that slurmctld has forgotten is asked nothing and does not come by itself (not in 100 s).
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
                self._missed(job, node)
        for job_id, restart in running.items():
            found = wanted.get(job_id)
            if found is None or found.run.restart != restart:
                self._end_orphan(site, guest, job_id)

    def _missed(self, job: FakeJob, node: str) -> None:
        if self.world.now - max(job.started_at, self.lrms.up_since) > ACTIVE_S:
            self.lrms.requeued(job, "it was missing on its node")
            self.lrms._requeue(job, "")
        else:
            self.world.callLater(REGISTERS_AGAIN_S, self.register_again, node)

    def _end_orphan(self, site: Site | None, guest: Guest | None, job_id: str) -> None:
        if site is not None:
            site.starters.pop(job_id)[1].kill()
        elif guest is not None and (program := guest.runs(job_id)) is not None:
            guest.kill(program)
            self.judge.finish(guest, program, "an orphan in the batch system's eyes")

    def out_of_reach(self, guest: Guest) -> bool:
        """The controller cannot end what runs there, nor could the site's daemons: they had no time without a fault."""
        if not guest.reachable:
            return True
        site = self._by_node[VmName(guest.name)]
        return guest.name not in self.lrms.all_nodes and site.longest_sound_s < ENDS_S

    # --- time ---

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until then, or until `stop` (asked once a second), or until something is wrong."""
        while self.world.now < until and not self.judge.breaches and not stop():
            if self.judge.excused:  # only an amnesia makes a difference
                for site in self.sites:
                    site.look_whether_sound()
            self.world.run(min(until, self.world.now + 1.0), self.judge.breaches)

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
        stock = site.host.core.stock
        spares = {spare.key: spare for spare in stock.spares.values()}
        left += [f"spare {spare.key} {spare.phase}" for spare in spares.values() if spare.phase != "paused"]
        left += [f"golden state {name}" for name in site.images.golden if name not in stock.goldens]
        domains = [kept.spec.ours for kept in site.libvirtd.kept.values() if kept.spec is not None]
        left += [f"domain {ours.slot}" for ours in domains if ours.generation not in stock.spares]
        left += [f"overlay {name}" for name in site.images.made if name not in spares]
        left += [f"channel {name}" for name in site.host.guests.open_ones if name not in spares]
        left += [f"starter of {job}" for job in site.starters]
        left += [f"hook of {lease[-4:]}" for lease in site.bait.follower.hooks]
        left += [f"the bait is closed: {node.closed}"] if node.closed is not None else []
        left += [] if node.up else ["the bait is down"]
        return left

    @staticmethod
    def _is_quiet(site: Site) -> bool:
        host, bait = site.host, site.bait
        return host is not None and bait is not None and not (host.keeper.vms or bait.follower.leases or site.starters)

    def at_rest(self) -> bool:
        """Nothing is left to be done."""
        jobs = self.lrms.all_jobs.values()
        if self.to_come or any(job.state is not JobState.ENDED for job in jobs):
            return False
        if not all(map(self._is_quiet, self.sites)):
            return False  # the quick way to the usual answer
        return not self.left_over()

    def dispose(self) -> None:
        """End all daemons, so that nothing of this cluster outlives it."""
        # Or it would be kept by its judge.
        self.judge.now, self.judge.out_of_reach = (lambda: 0.0), (lambda guest: False)
        self.net.end()
        self.world.end()
        for site in self.sites:
            site.kill("host")
            site.kill("bait")
            for disk in site.disks.values():
                disk.db.close()
