"""The lab's own wnod site, with another plan for each host, and a host for those contestants that are not wnod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.lab.lab import Lab
from deploy.lab.layout import Node
from deploy.lab.namespaces import wait_for
from deploy.lab.site import DAEMONS, Site
from hostmaster.rules.spare import SparePhase
from hostmaster.rules.vm import Way
from wnod.ask import DaemonUnreachable, ask

GOLDEN_MIB = 4096
JOB = {"environment": "debian12", "cpus": 1, "memory_mib": 512, "disk_mib": 512}
"""What the measured job gets: Slurm's DefMemPerCPU decides the memory."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """How one host makes VMs ready."""

    slots: int
    way: Way
    """The only one by which its jobs get their VMs."""

    def section(self) -> dict[str, Any]:
        """The `ready` section of hostmaster.yaml."""
        if self.way is Way.BOOT:
            return {}
        return {"golden_disk_mib": GOLDEN_MIB, "spares": [{**JOB, "keep": self.spares}]}

    @property
    def spares(self) -> int:
        """How many VMs wait paused."""
        return int(self.way is Way.UNPAUSE)

    @property
    def goldens(self) -> int:
        """How many golden states there are once all are made: each serves its own slot."""
        return 0 if self.way is Way.BOOT else self.slots


@dataclass
class BenchSite(Site):
    """wnod on the hosts of `plans`; the lab's other hosts run without it."""

    plans: Mapping[str, HostPlan] = field(default_factory=dict)

    def start(self) -> None:
        """Start both daemons on every host that has a plan."""
        for host in self.plans:
            for daemon in DAEMONS:
                self.start_daemon(host, daemon)

    def wait_open(self, seconds: float = 120) -> None:
        """Return when the baits of all hosts with a plan are open."""
        wait_for(
            lambda: all(self.daemon_status(host, "bait").get("open") for host in self.plans),
            seconds, "not every bait is open; see the hosts' hostmaster.log and bait.log", pause=0.2,
        )  # fmt: skip

    def has_what_it_keeps(self, host: str) -> bool:
        """True if the host's golden states are made and its spares are there."""
        plan, status = self.plans[host], self.daemon_status(host, "hostmaster")
        if not status:
            return False
        phases = [spare["phase"] for spare in status["spares"]]
        return len(status["golden"]) >= plan.goldens and phases == [SparePhase.PAUSED] * plan.spares

    def vms_of_jobs(self, host: str) -> list[dict[str, Any]]:
        """The host's VMs that are, or were, a job's."""
        vms = self._asked(host, "hostmaster", "/vms")
        return [{"vm": "unknown"}] if vms is None else vms

    def leases(self, host: str) -> list[dict[str, Any]]:
        """The host's leases with their stages, also those that are over."""
        return [lease for question in ("/past", "/jobs") for lease in self._asked(host, "bait", question) or ()]

    def _asked(self, host: str, daemon: str, question: str) -> list[dict[str, Any]] | None:
        path = f"/proc/{self.lab.pid_on_machine(host)}/root/run/wnod/{daemon}/status.sock"
        try:
            answer: list[dict[str, Any]] = ask(path, question)
        except DaemonUnreachable:
            return None
        return answer

    def _hostmaster(self, node: Node) -> dict[str, Any]:
        content = super()._hostmaster(node)
        plan = self.plans.get(node.name, HostPlan(2, Way.BOOT))
        content["slots"] = content["slots"][: plan.slots]
        return {**content, "ready": plan.section()}


def logs(lab: Lab, target: Path) -> None:
    """Copy every daemon's log of a lab and its VMs' consoles, for a look after a failure."""
    for node in lab.layout.nodes:
        consoles = lab.layout.private(node.name, "lib") / "wnod" / "hostmaster" / "console"
        for log in (*lab.layout.private(node.name, "log").glob("*.log"), *consoles.glob("*.log*")):
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{node.name}-{log.name}").write_bytes(log.read_bytes())
