"""A hostmaster with a thousand leases is killed: how long until the next one serves, and has taken all of them up.

The real program, from exec. `ready` is its word to systemd; all are taken up when it has acted on the last one, whose
domain is gone: every other one was looked at before that. The journal is read from outside, so that asking costs
the daemon nothing.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.daemons.common import ROOT, median
from tests.bench.daemons.host_site import FIRST

LIMIT_S = 60.0


class Daemon:
    """One life of the real hostmaster."""

    def __init__(self, config: Path, notify: socket.socket) -> None:
        argv = [sys.executable, "-m", "hostmaster", "--config", str(config), "--log-level", "error"]
        self._notify = notify
        self._begun = time.perf_counter()
        self.process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "NOTIFY_SOCKET": str(notify.getsockname())})

    def ready_s(self) -> float:
        """From exec to READY=1."""
        self._notify.settimeout(LIMIT_S)
        while b"READY=1" not in self._notify.recv(4096):
            pass
        return time.perf_counter() - self._begun

    def taken_up_s(self, journal: Path, last: int, phases: tuple[str, ...]) -> float:
        """From exec until the last VM's record is in one of these phases."""
        db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
        while time.perf_counter() - self._begun < LIMIT_S:
            row = db.execute("SELECT body FROM records WHERE kind = 'vm' AND key = ?", (str(last),)).fetchone()
            if row is None or json.loads(row[0])["phase"] in phases:
                db.close()
                return time.perf_counter() - self._begun
            time.sleep(0.005)
        raise TimeoutError(f"the last lease was not taken up within {LIMIT_S:g} s")

    def end(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def run(config: Path, leases: int, lives: int = 5) -> dict[str, Any]:
    """Several lives, each ended by kill -9, the first not counted: it begins with cold caches of the disk."""
    directory = config.parent
    journal, last = directory / "state/journal.sqlite", FIRST + leases
    results: list[tuple[float, float]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(directory / "notify"))
        for life in range(lives + 1):
            _revive(journal, last)
            daemon = Daemon(config, notify)
            try:
                ready = daemon.ready_s()
                taken_up = daemon.taken_up_s(journal, last, ("destroying", "gone"))
            finally:
                daemon.end()
            if life:
                results.append((ready, taken_up))
    ready_s, up_s = ([round(one[part], 3) for one in results] for part in (0, 1))
    return {"leases": leases, "ready_s": median(ready_s), "taken_up_s": median(up_s),
            "runs": {"ready_s": ready_s, "taken_up_s": up_s}}  # fmt: skip


def _revive(journal: Path, last: int) -> None:
    """The last VM is on record as it was, and has no domain: as if it had died while no hostmaster lived."""
    db = sqlite3.connect(journal)
    source = db.execute("SELECT body FROM records WHERE kind = 'vm' AND key = ?", (str(last - 1),)).fetchone()[0]
    copied = source.replace(str(last - 1).encode(), str(last).encode())
    with db:
        db.execute("INSERT OR REPLACE INTO records VALUES ('vm', ?, ?)", (str(last), copied))
    db.close()
