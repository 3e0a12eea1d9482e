"""What Slurm in the lab says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy.lab.layout import HEAD
from deploy.lab.namespaces import wait_for

if TYPE_CHECKING:
    from deploy.lab.lab import Lab


def slurm_nodes(lab: Lab) -> dict[str, str]:
    """Slurm's nodes and their states; empty when slurmctld does not answer."""
    answer = lab.run(HEAD, ["sinfo", "-a", "-h", "-N", "-o", "%N %T"], timeout=10)
    return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if " " in line)


def wait_for_baits(lab: Lab, seconds: float = 60) -> None:
    """Returns when every host's bait is idle in Slurm."""
    baits = [lab.layout.node(host).bait for host in lab.hosts]

    def idle() -> bool:
        nodes = slurm_nodes(lab)
        return all(nodes.get(bait) == "idle" for bait in baits)

    wait_for(idle, seconds, f"baits {', '.join(baits)} not idle: see {lab.log(HEAD, 'slurmctld')}", pause=0.2)


def daemons(lab: Lab, where: str) -> dict[str, Any]:
    """The node's daemons: pid and whether each runs."""
    return {
        name: {"pid": child["pid"], "running": child["status"] is None, "exit_code": child["status"]}
        for name, child in lab.children(where).items()
    }
