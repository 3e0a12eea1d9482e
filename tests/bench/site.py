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
from wnod.ask import DaemonUnreachable, ask
from wnod.config.hostmaster import HostmasterConfig

JOB = {"environment": "debian12", "cpus": 1, "memory_mib": 512, "disk_mib": 512}
"""What the measured job gets: Slurm's DefMemPerCPU decides the memory."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """How one host makes VMs ready."""

    slots: int
    golden_disk_mib: int = 0
    spares: int = 0

    def section(self) -> dict[str, Any] | None:
        """The `ready` section of hostmaster.yaml; None: leave it away."""
        if not self.golden_disk_mib and not self.spares:
            return None
        spares = [{**JOB, "keep": self.spares}] if self.spares else []
        return {"golden_disk_mib": self.golden_disk_mib, "spares": spares}


def knows_ready() -> bool:
    """True if this tree's hostmaster can keep golden states and spares."""
    return "ready" in HostmasterConfig.__struct_fields__


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
        golden = not plan.golden_disk_mib or bool(status.get("golden"))
        return bool(status) and golden and len(status.get("spares") or ()) >= plan.spares

    def shows_what_it_keeps(self, host: str) -> bool:
        """True if the host has a plan, and its hostmaster tells what of it is there."""
        plan = self.plans.get(host)
        if plan is None or plan.section() is None:
            return plan is not None
        return {"golden", "spares"} <= set(self.daemon_status(host, "hostmaster"))

    def vms_of_jobs(self, host: str) -> list[dict[str, Any]]:
        """The host's VMs that are, or were, a job's."""
        path = f"/proc/{self.lab.pid_on_machine(host)}/root/run/wnod/hostmaster/status.sock"
        try:
            vms: list[dict[str, Any]] = ask(path, "/vms")
        except DaemonUnreachable:
            return [{"vm": "unknown"}]
        return [vm for vm in vms if vm.get("run")]

    def _hostmaster(self, node: Node) -> dict[str, Any]:
        content = super()._hostmaster(node)
        plan = self.plans.get(node.name, HostPlan(2))
        content["slots"] = content["slots"][: plan.slots]
        section = plan.section()
        return content if section is None else {**content, "ready": section}


def logs(lab: Lab, target: Path) -> None:
    """Copy every daemon's log of a lab, for a look after a failure."""
    for node in lab.layout.nodes:
        for log in lab.layout.private(node.name, "log").glob("*.log"):
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{node.name}-{log.name}").write_bytes(log.read_bytes())
