"""The floors: what `virsh create`, `restore` and `resume` of the very guest cost when nothing of wnod decides.

Run inside a host of the lab (`python -m tests.bench.floors IMAGE-DIRECTORY ACCELERATOR`): prints seconds as JSON.
`boot_to_ready` is from before `virsh create` until the guest says that Slurm has answered its registration. Nothing is
polled meanwhile: asking Slurm fifty times a second costs half of what the guest itself does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from deploy.demo import floor
from hostmaster.edges.domain import domain_xml
from hostmaster.rules.guestconf import Account, Mount, Site, lines
from hostmaster.world import Accelerator

NAME, MAC, ADDRESS = "vm-raw-1", "52:54:00:77:04:63", "10.77.4.99/16"
ROUND_MS = 3


def virsh(*words: str) -> float:
    """Seconds of one command of virsh. CalledProcessError if it fails."""
    begun = time.monotonic()
    subprocess.run(["virsh", "-q", *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def configuration() -> bytes:
    """What the guest is told on its channel: the same lines as a hostmaster's."""
    mount = Mount("nfs4", "10.77.0.1:/home", "/home", "vers=4.2,nolock")
    site = Site("slurm", "10.77.0.1:6817", ("vwn",), {"10.77.0.1": "head"}, (mount,))
    account = Account("alice:x:7701:7701:alice:/home/alice:/bin/bash", ("alice:x:7701:",))
    key = Path("/etc/wnod/munge.key").read_bytes()
    return lines(floor.record(NAME), site, ADDRESS, account, {"munge.key": key}, time.time(), 384)


def converse(listener: socket.socket, ready: threading.Event) -> None:
    """Tell the guest what it needs whenever it says hello, and note when it says ready."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as said:
        for line in said:
            if line.startswith(b"hello"):
                connection.sendall(configuration())
            elif line.startswith(b"ready"):
                ready.set()


def measure(image: Path, accelerator: Accelerator) -> dict[str, float]:
    """Every floor once, on one guest. Leaves nothing behind."""
    listener, ready = floor.prepare(), threading.Event()
    threading.Thread(target=converse, args=(listener, ready), daemon=True).start()
    specification = dataclasses.replace(floor.specification(floor.record(NAME), image, MAC), accelerator=accelerator)
    xml = floor.WORK / "domain.xml"
    xml.write_text(domain_xml(specification))
    saved = str(floor.WORK / "saved")
    try:
        begun = time.monotonic()
        found = {"create": virsh("create", str(xml))}
        if not ready.wait(floor.LIMIT_S):
            raise RuntimeError(f"{NAME} was not ready after {floor.LIMIT_S:g} s")
        found["boot_to_ready"] = time.monotonic() - begun
        virsh("suspend", NAME)
        found["resume"] = virsh("resume", NAME)
        found["save"] = virsh("save", NAME, saved)
        found["restore"] = virsh("restore", saved)
    finally:
        floor.clean(NAME)
    return {name: round(seconds, ROUND_MS) for name, seconds in found.items()}


if __name__ == "__main__":
    os.umask(0o022)
    print(json.dumps(measure(Path(sys.argv[1]), Accelerator(sys.argv[2]))))
