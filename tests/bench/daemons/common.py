"""What the measurements share: processes that say when they are ready, times in order, and the machine's facts."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
WINDOW = 64
"""Requests of one client that are under way at any time."""


class Peer:
    """A process of its own, and what it has used of the processor."""

    def __init__(self, module: str, *words: str, environment: dict[str, str] | None = None) -> None:
        """`module` is run with these words; `ready` waits for its first line."""
        argv = [sys.executable, "-m", module, *words]
        env = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)

    def line(self) -> str:
        """The next line it says; RuntimeError if it ends instead."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"{self.process.args!r}: ended without a word, exit code {self.process.wait()}")
        return said.strip()

    def cpu_s(self) -> float:
        """Processor time so far, in seconds."""
        return _schedstat(self.process.pid)[0] / 1e9

    def waited_s(self) -> float:
        """How long it could have run and had no processor: other programs' work on this machine."""
        return _schedstat(self.process.pid)[1] / 1e9

    def rss_mib(self) -> float:
        """Memory in use."""
        return status_kib(self.process.pid, "VmRSS") / 1024

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, by its id."""
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def peer(module: str, *words: str, environment: dict[str, str] | None = None) -> Iterator[Peer]:
    """One that is ended whatever happens."""
    started = Peer(module, *words, environment=environment)
    try:
        yield started
    finally:
        started.end()


def result_of(module: str, *words: str) -> dict[str, Any]:
    """Run it to its end; its last line is JSON."""
    argv = [sys.executable, "-m", module, *words]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _schedstat(pid: int) -> tuple[int, int]:
    """Nanoseconds on a processor and waiting for one, of all threads."""
    threads = [path.read_text(encoding="ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(words[0]) for words in threads), sum(int(words[1]) for words in threads)


def status_kib(pid: int, name: str) -> int:
    """A field of /proc/PID/status in KiB."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:")))


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum in milliseconds."""
    ordered = sorted(seconds)
    places = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[min(last, int(part * len(ordered)))] * 1000, 3) for name, part in places.items()}


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = next(
        (x.split(":", 1)[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    total = next(x.split()[1] for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal"))
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_mib": int(total) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": [round(part, 2) for part in os.getloadavg()],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "realtime": os.sched_getscheduler(0) != os.SCHED_OTHER,
    }
