"""The contestants behind one interface: how a job is submitted to each, when it may be, and when all is as before."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from deploy.lab.lab import Lab
from deploy.lab.layout import HEAD
from tests.bench import stopwatch
from tests.bench.cloud.stand import CloudStand
from tests.bench.site import BenchSite
from tests.bench.stopwatch import Late

LIMIT_S = 120.0


class Way(Protocol):
    """One contestant."""

    @property
    def key(self) -> str:
        """Its name in the results."""

    @property
    def lab(self) -> Lab:
        """Where its jobs are submitted."""

    @property
    def options(self) -> tuple[str, ...]:
        """Of sbatch."""

    def await_fresh(self) -> None:
        """Return when a job that is submitted now finds what this contestant is about. Late if that never comes."""

    def looked(self, token: str) -> float:
        """The monotonic time at which this contestant's slurmctld looked at its queue, as far as that can be seen."""

    def settle(self, ended: float) -> float | None:
        """Return when nothing of the job is left; seconds from `ended` (monotonic) to a clean VM ready for the next
        job, None where there is no such thing."""

    def stages(self, submitted: float) -> dict[str, float]:
        """When the last job reached what is known of its way: seconds after `submitted` (monotonic), by name."""


def until(look: Callable[[], bool], what: str, limit_s: float = LIMIT_S, pause: float = 0.02) -> float:
    """The monotonic time when `look` was first true. Late after `limit_s`."""
    end = time.monotonic() + limit_s
    while not look():
        if time.monotonic() > end:
            raise Late(f"after {limit_s:g} s still not: {what}")
        time.sleep(pause)
    return time.monotonic()


def looked(lab: Lab, token: str) -> float:
    """When the slurmctld with the bare node looked. Returns when nothing is left of the job that showed it."""
    begun = stopwatch.look(lab, ("--partition=bare",), token)
    until(lambda: no_jobs(lab), "the job that showed slurmctld's look is over")
    return begun


def no_jobs(lab: Lab) -> bool:
    """True if the user has nothing in Slurm's queue any more."""
    return not lab.run(HEAD, ["squeue", "-a", "-h", "-u", "alice"]).stdout.strip()


class OnNode:
    """A node that is always there: the bare slurmd, and the one whose prologue boots a VM (the KIT way)."""

    def __init__(self, key: str, lab: Lab, partition: str) -> None:
        self.key, self.lab, self.options = key, lab, (f"--partition={partition}",)

    def await_fresh(self) -> None:
        """The node is idle; the VM of an earlier job is gone, because its epilogue has ended."""
        argv = ["sinfo", "-h", "-p", self.options[0].split("=")[1], "-o", "%T"]
        until(lambda: self.lab.run(HEAD, argv).stdout.split() == ["idle"], f"the node of {self.key} is idle", pause=0.2)

    def looked(self, token: str) -> float:
        """Seen by a job on the bare node."""
        return looked(self.lab, token)

    def stages(self, submitted: float) -> dict[str, float]:
        """Nothing is known."""
        return {}

    def settle(self, ended: float) -> None:
        """The job has left the queue, and so its epilogue has ended."""
        until(lambda: no_jobs(self.lab), f"{self.key}: no job is left", pause=0.1)


class Wnod:
    """A host of wnod that is configured for one way to a VM that is ready."""

    def __init__(self, key: str, site: BenchSite, host: str) -> None:
        self.key, self.lab, self._site, self._host = key, site.lab, site, host
        self.options = (f"--nodelist={site.lab.layout.node(host).bait}", "--constraint=debian12")

    def await_fresh(self) -> None:
        """The bait is open, no job's VM is left, and what the host keeps for the next job is there."""
        until(
            self._is_fresh, f"{self.key}: {self._host} is ready for the next job, it says {self._picture()}", pause=0.2
        )

    def looked(self, token: str) -> float:
        """Seen by a job on the bare node."""
        return looked(self.lab, token)

    def settle(self, ended: float) -> float | None:
        """With a spare to wait for: until it is there again. Late if the job's VM came by another way than planned."""
        plan = self._site.plans[self._host]
        if others := {vm["way"] for vm in self._jobs_vms() if vm.get("way") != plan.way}:
            self._until_clean()
            raise Late(f"{self.key}: the job's VM came by {', '.join(others)}")
        again = self._until_clean()
        return max(0.0, again - ended) if plan.spares else None

    def stages(self, submitted: float) -> dict[str, float]:
        """What the bait has noted of its newest lease, on the machine's one clock."""
        epoch = submitted + time.time() - time.monotonic()
        reached = [lease["stages"] for lease in self._site.leases(self._host)]
        newest: dict[str, float] = max(reached, key=lambda stages: max(stages.values()), default={})
        return {name: at - epoch for name, at in newest.items() if at >= epoch}

    def _until_clean(self) -> float:
        again = until(lambda: self._kept() and not self._jobs_vms(), f"{self.key}: clean again: {self._picture()}")
        until(lambda: no_jobs(self.lab), f"{self.key}: no job is left", pause=0.1)
        return again

    def _is_fresh(self) -> bool:
        return self._kept() and not self._jobs_vms() and bool(self._site.daemon_status(self._host, "bait").get("open"))

    def _kept(self) -> bool:
        return self._site.has_what_it_keeps(self._host)

    def _jobs_vms(self) -> list[dict[str, Any]]:
        return self._site.vms_of_jobs(self._host)

    def _picture(self) -> str:
        bait, host = (self._site.daemon_status(self._host, daemon) for daemon in ("bait", "hostmaster"))
        return f"bait open {bait.get('open')} ({bait.get('reason')}), hostmaster {host}"


class Cloud:
    """Slurm's own cloud nodes: every job gets a machine that was started for it."""

    def __init__(self, key: str, stand: CloudStand) -> None:
        self.key, self.lab, self._stand = key, stand.lab, stand
        self.options: tuple[str, ...] = ()

    def await_fresh(self) -> None:
        """A node is powered down and its time to power down is over."""
        until(lambda: "POWERED_DOWN" in self._stand.states().values(), f"{self.key}: a node is off", pause=0.2)

    def looked(self, token: str) -> float:
        """Not seen: its slurmctld has no node that is always there. So the clock's seconds serve."""
        return stopwatch.full_second()

    def stages(self, submitted: float) -> dict[str, float]:
        """Nothing is known."""
        return {}

    def settle(self, ended: float) -> None:
        """The job's machine is gone; Slurm's own wait for that (SuspendTimeout) passes while others are measured."""
        until(self._stand.is_empty, f"{self.key}: its machines are gone", pause=0.1)
