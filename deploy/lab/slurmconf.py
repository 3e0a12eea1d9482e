"""The lab's Slurm configuration as text: the site part here, the part wnod needs from deploy/lrms/slurm unchanged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from deploy.lab.layout import BATCH_PARTITION, PROJECT, Layout, Node

FRAGMENT = PROJECT / "deploy" / "lrms" / "slurm"

#: `retired6` is offered by the baits and known to no catalogue: a user who asks for it must be told.
ENVIRONMENTS = ("debian12", "debian12-sci", "retired6", "numpy")


@dataclasses.dataclass(frozen=True)
class BaitShape:
    """What one bait pretends to be: it attracts as many one-cpu jobs at a time as it has cpus.

    As many cpus as its host has slots: more would attract jobs that can only be handed back."""

    cpus: int = 2
    memory_mib: int = 8192
    disk_mib: int = 8192
    environments: tuple[str, ...] = ENVIRONMENTS


def node_line(node: Node, shape: BaitShape) -> str:
    features = ",".join(("bait", *shape.environments))
    return (
        f"NodeName={node.bait} NodeHostname={node.name} NodeAddr={node.address} CPUs={shape.cpus} "
        f"RealMemory={shape.memory_mib} TmpDisk={shape.disk_mib} Feature={features} State=UNKNOWN"
    )


def slurm_conf(layout: Layout, shape: BaitShape, extra: tuple[str, ...] = ()) -> str:
    """slurm.conf, the same text on every node and (served by slurmctld) in every VM."""
    head, *hosts = layout.nodes
    baits = ",".join(host.bait for host in hosts)
    lines = [
        "ClusterName=wnod",
        f"SlurmctldHost={head.name}({head.address})",
        "SlurmUser=slurm",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        "StateSaveLocation=/var/spool/slurmctld",
        "SlurmdSpoolDir=/var/spool/slurmd",
        "SlurmctldPidFile=/run/slurmctld.pid",
        "SlurmdPidFile=/run/slurmd.pid",
        "ReturnToService=2",
        # A bait runs the starter only and a VM is thrown away whole: nothing here needs cgroups.
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "JobAcctGatherFrequency=0",  # or each step starts two threads that gather nothing
        "AccountingStorageType=accounting_storage/none",
        "JobCompType=jobcomp/filetxt",
        "JobCompLoc=/var/log/slurm/jobcomp.log",
        "MailProg=/bin/true",
        "MpiDefault=none",
        "KillWait=5",
        "",
        (FRAGMENT / "slurm.conf.fragment").read_text(),
        *(node_line(host, shape) for host in hosts),
        f"PartitionName={BATCH_PARTITION} Nodes={baits} Default=YES MaxNodes=1 LLN=YES MaxTime=UNLIMITED State=UP",
        *extra,
    ]
    return "\n".join(lines) + "\n"


def cgroup_conf(node: Node) -> str:
    """The head's is served to the VMs, which have a cgroup2 of their own; the lab's hosts have no cgroups at all, and
    cgroup/v1 is the one plugin that comes up with an empty mount."""
    plugin = "autodetect" if node.is_head else "cgroup/v1"
    return f"CgroupPlugin={plugin}\nIgnoreSystemd=yes\nCgroupAutomount={'yes' if node.is_head else 'no'}\n"


def write(layout: Layout, node: Node, shape: BaitShape, extra: tuple[str, ...] = ()) -> None:
    """Writes the node's /etc/slurm. The head's plugstack.conf is what slurmctld serves to the VMs."""
    directory = layout.private(node.name, "etc") / "slurm"
    directory.mkdir(parents=True, exist_ok=True)
    plugstack = "plugstack-vm.conf" if node.is_head else "plugstack.conf"
    files = {
        "slurm.conf": slurm_conf(layout, shape, extra),
        "cgroup.conf": cgroup_conf(node),
        "plugstack.conf": (FRAGMENT / plugstack).read_text(),
        "job_submit.lua": (FRAGMENT / "job_submit.lua").read_text(),
    }
    for name, text in files.items():
        Path(directory, name).write_text(text)
