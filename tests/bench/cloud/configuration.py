"""slurm.conf of the contestants that are Slurm's own cloud nodes, as text: as documented, and tuned.

Both keep every scheduler setting of deploy/lrms/slurm/slurm.conf.fragment; only what is there for baits is left out.
Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

PROGRAMS = "/usr/libexec/wnod/cloud"
"""Where ResumeProgram and the others are, on the head."""

OURS = (
    "RequeueExit",
    "RequeueExitHold",
    "JobSubmitPlugins",
    "Prolog",
    "Epilog",
    "NodeSet",
    "NodeName",
    "PartitionName",
)
"""Settings of a slurm.conf that make a wnod site of it; everything else is kept."""


class Variant(enum.Enum):
    """How the cloud nodes are configured."""

    DOCUMENTED = "documented"
    TUNED = "tuned"


DOCUMENTED = (
    # Slurm's power saving and cloud scheduling guides: their recommendations, everything else left at its default
    # (ResumeTimeout=60, SuspendTimeout=30, ResumeRate=300, SuspendRate=60). ResumeProgram tells the nodes' addresses.
    "SuspendTime=600",
    "SuspendRate=60",
    "ResumeRate=300",
    "ResumeTimeout=60",
    "SuspendTimeout=30",
    "TreeWidth=65533",
    "CommunicationParameters=NoAddrCache",
)
TUNED = (
    # A node is free for the next machine 2 s after it was given back, not after 30 s.
    "SuspendTimeout=2",
    "SuspendTime=600",
    "SuspendRate=0",
    "ResumeRate=0",
    "ResumeTimeout=60",
    # slurmctld launches a batch job on a powered-up node at its 30 s look at time limits or its 10 s look at deferred
    # launches (both compiled in) - or when PrologSlurmctld ends and the node is there.
    f"PrologSlurmctld={PROGRAMS}/prolog",
    "BatchStartTimeout=60",
)
SPECIAL = {
    Variant.DOCUMENTED: "enable_configless,idle_on_node_suspend",
    # Addresses known beforehand, and the power saving thread looks every second.
    Variant.TUNED: "enable_configless,idle_on_node_suspend,cloud_dns,power_save_interval=1,power_save_min_interval=0",
}


def without(text: str, names: Sequence[str]) -> list[str]:
    """The lines of a slurm.conf that do not set one of `names`, without comments."""
    unwanted = {name.lower() for name in names}
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return [line for line in lines if line.split("=", 1)[0].strip().lower() not in unwanted]


def configuration(base: str, variant: Variant, nodes: Sequence[tuple[str, str]]) -> str:
    """slurm.conf: `base` without what wnod needs, and `nodes` (name, address) as cloud nodes in one partition."""
    added = DOCUMENTED if variant is Variant.DOCUMENTED else TUNED
    replaced = ("SlurmctldParameters", *(line.split("=")[0] for line in added))
    names = ",".join(name for name, _ in nodes)
    return "\n".join([
        *without(base, (*OURS, *replaced)),
        *added,
        f"SlurmctldParameters={SPECIAL[variant]}",
        "PrivateData=cloud",  # nodes that are powered down are shown, too
        f"SuspendProgram={PROGRAMS}/suspend",
        f"ResumeProgram={PROGRAMS}/resume",
        *(_node(name, address, variant) for name, address in nodes),
        # Every job a machine of its own, as wnod does; in the other partition machines are used again.
        f"EpilogSlurmctld={PROGRAMS}/epilog",
        f"PartitionName=cloud Nodes={names} Default=YES MaxTime=UNLIMITED State=UP",
        f"PartitionName=reuse Nodes={names} MaxTime=UNLIMITED State=UP",
    ]) + "\n"  # fmt: skip


def _node(name: str, address: str, variant: Variant) -> str:
    where = f" NodeAddr={address}" if variant is Variant.TUNED else ""
    return f"NodeName={name}{where} CPUs=1 RealMemory=512 TmpDisk=256 State=CLOUD"
