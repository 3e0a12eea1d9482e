"""A hostmaster with a thousand VMs: from libvirt's event to the record on disk; memory; work when nothing happens."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.daemons.common import ROOT, Peer, peer
from tests.bench.daemons.host_site import FIRST
from wnod.service import SETTLED_S

EVENTS = 200
PAUSE_S = 0.05


class Host(Peer):
    """The watched daemon, which is told what to do on its standard input."""

    def __init__(self, config: Path) -> None:
        argv = [sys.executable, "-m", "tests.bench.daemons.host", "--config", str(config), "--log-level", "error"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)

    def tell(self, line: str) -> None:
        """One line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def run(config: Path, vms: int, port: int, idle_s: float) -> dict[str, Any]:
    """All three, with a bait that holds all leases connected."""
    words = (str(config.parent / "tls"), str(port), str(vms), str(FIRST))
    host = Host(config)
    try:
        assert host.line() == "ready"
        with peer("tests.bench.daemons.host_bait", *words) as bait:
            while not bait.line().startswith("inventory"):
                pass
            time.sleep(SETTLED_S + 2.0)  # what comes after a start is over
            rss, cpu, began = host.rss_mib(), host.cpu_s(), time.perf_counter()
            time.sleep(idle_s)
            idle = (host.cpu_s() - cpu) / (time.perf_counter() - began) * 100
            host.tell(f"events {EVENTS} {PAUSE_S}")
            event: dict[str, Any] = json.loads(host.line())
            return {"vms": vms, "event_to_state": event, "idle_cpu_percent": round(idle, 3), "idle_s": idle_s,
                    "rss_mib": round(rss, 1), "rss_after_mib": round(host.rss_mib(), 1)}  # fmt: skip
    finally:
        host.end()
