"""The floor: `virsh create` of the very guest the jobs get, until Slurm calls its node idle. Nothing of wnod decides.

Run inside a host of the lab (`python -m deploy.demo.floor IMAGE-DIRECTORY NAME MAC ADDRESS`): prints seconds as JSON.
What the guest asks on its channel is answered by a few lines here, so that both ways boot the same system.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from hostmaster.edges.domain import domain_xml
from hostmaster.rules.guestconf import Account, Mount, Site, lines
from hostmaster.rules.lifecycle import Vm
from hostmaster.world import Accelerator, DomainSpec, Ours
from protocol.ids import BaitName, EnvironmentName, Generation, LeaseId, Run, Shape, VmName

WORK = Path("/var/lib/wnod/floor")
SHAPE = Shape(cpus=1, memory_mib=896, disk_mib=512)
LIMIT_S = 120.0


def record(name: str) -> Vm:
    """A record like the hostmaster's, so that the guest is configured by the same lines."""
    return Vm(
        generation=Generation(1),
        vm=VmName(name),
        uuid=str(uuid.uuid4()),
        lease=LeaseId("0" * 32),
        bait=BaitName("none"),
        owner=7701,
        environment=EnvironmentName("floor"),
        image="0" * 64,
        shape=SHAPE,
        asked=Run(cluster="wnod", job="0", restart=0),
        granted_at=0.0,
        since=0.0,
    )


def specification(vm: Vm, image: Path, mac: str) -> DomainSpec:
    """The same domain as a job's, under another name and without an owner's job."""
    ours = Ours(
        "floor", vm.vm, vm.generation, vm.lease, vm.bait, vm.owner, vm.environment, vm.image, SHAPE,
        json.dumps({"cluster": "wnod", "job": "0", "restart": 0}),
    )  # fmt: skip
    return DomainSpec(
        ours=ours,
        uuid=vm.uuid,
        mac=mac,
        bridge="br0",
        accelerator=Accelerator.TCG,
        kernel=f"{image}/kernel",
        initrd=f"{image}/initrd",
        root=f"{image}/root.squashfs",
        overlay=str(WORK / "overlay"),
        console=str(WORK / "console.log"),
        channel=str(WORK / "channel.sock"),
    )


def answer(listener: socket.socket, configuration: bytes, asked: threading.Event) -> None:
    """Give the guest its configuration whenever it says hello; `asked` is set from the first time on."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as said:
        for line in said:
            if line.startswith(b"hello"):
                connection.sendall(configuration)
                asked.set()


def until_idle(name: str, asked: threading.Event) -> None:
    """Return when Slurm can give the node a job. RuntimeError after LIMIT_S.

    Slurm is not asked before the guest is configured, and so can be no node: fifty sinfo a second would take the boot's
    own processor time, and make the floor look slower than it is.
    """
    end = time.monotonic() + LIMIT_S
    asked.wait(LIMIT_S)
    while time.monotonic() < end:
        done = subprocess.run(
            ["sinfo", "-a", "-h", "-n", name, "-o", "%T"], capture_output=True, text=True, check=False
        )
        if done.stdout.strip().splitlines()[:1] == ["idle"]:
            return
        time.sleep(0.02)
    raise RuntimeError(f"{name} was not idle in Slurm after {LIMIT_S:.0f} s")


def prepare() -> socket.socket:
    """An overlay and a channel that QEMU's user may open."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    overlay = WORK / "overlay"
    with overlay.open("wb") as disk:
        disk.truncate(SHAPE.disk_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(overlay)], check=True)
    overlay.chmod(0o666)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(WORK / "channel.sock"))
    (WORK / "channel.sock").chmod(0o666)
    listener.listen(1)
    return listener


def measure(image: Path, name: str, mac: str, address: str) -> float:
    """Seconds from `virsh create` to idle in Slurm. Leaves nothing behind."""
    vm = record(name)
    listener = prepare()
    site = Site("slurm", "10.77.0.1:6817", ("vwn",), {"10.77.0.1": "head"},
                (Mount("nfs4", "10.77.0.1:/home", "/home", "vers=4.2,nolock"),))  # fmt: skip
    account = Account("alice:x:7701:7701:alice:/home/alice:/bin/bash", ("alice:x:7701:",))
    key = Path("/etc/wnod/munge.key").read_bytes()
    configuration = lines(vm, site, address, account, {"munge.key": key}, time.time(), 384)
    asked = threading.Event()
    threading.Thread(target=answer, args=(listener, configuration, asked), daemon=True).start()
    xml = WORK / "domain.xml"
    xml.write_text(domain_xml(specification(vm, image, mac)))
    begun = time.monotonic()
    try:
        subprocess.run(["virsh", "-q", "create", str(xml)], check=True, stdout=subprocess.DEVNULL)
        until_idle(name, asked)
        return time.monotonic() - begun
    finally:
        clean(name)


def clean(name: str) -> None:
    """Remove the guest, its node and its files."""
    subprocess.run(["virsh", "-q", "destroy", name], check=False, capture_output=True)
    subprocess.run(["scontrol", "delete", f"nodename={name}"], check=False, capture_output=True)
    shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    os.umask(0o022)
    print(json.dumps({"seconds": round(measure(Path(sys.argv[1]), *sys.argv[2:5]), 3)}))
