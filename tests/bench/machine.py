"""What the machine is, and what a stretch of time cost it: processor time and memory of everything that runs on it."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

LOOK_S = 0.1
REPORTS = Path("/sys/module/page_reporting")
"""There where this machine is itself virtual and gives memory that is free for some seconds back to its host."""
TOUCHED_MIB = 1024
"""More than one measured VM has."""
HUGE = 2 << 20


def describe(accelerator: str, image: str) -> dict[str, str | int | float]:
    """The machine and the software, for results.json."""
    return {
        "cpus": os.cpu_count() or 0,
        "cpu": _first("/proc/cpuinfo", "model name"),
        "memory_mib": memory_mib("MemTotal"),
        "kernel": platform.release(),
        "accelerator": accelerator,
        "image": image,
        "slurm": _version("slurmctld", "-V"),
        "qemu": _version("qemu-system-x86_64", "--version"),
        "libvirt": _version("libvirtd", "--version"),
        "load_before": round(os.getloadavg()[0], 2),
        "free_memory_touched_mib": TOUCHED_MIB if REPORTS.exists() else 0,
    }


def touch_memory() -> None:
    """Have free memory as a farm's host has it: where it is given back to a host below, each huge page that a new VM
    touches is fetched from there first (640 MiB: 1.4 s instead of 0.03 s, whenever it was free for 5 s)."""
    if REPORTS.exists():
        with mmap.mmap(-1, TOUCHED_MIB << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)  # as QEMU asks for it: small pages would come from elsewhere
            for page in range(0, len(memory), HUGE):
                memory[page] = 1


def _first(path: str, name: str) -> str:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")


def _version(*argv: str) -> str:
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0].strip() if said.strip() else "unknown"


def memory_mib(name: str) -> int:
    """A line of /proc/meminfo, in MiB."""
    return int(_first("/proc/meminfo", name).split()[0]) // 1024


def busy_s() -> float:
    """Processor seconds that the machine has spent on anything, since it was started."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Usage:
    """`with Usage() as usage:` measures what happens meanwhile: `cpu_s`, and at most how many `memory_mib` more."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.memory_mib = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._available = memory_mib("MemAvailable")
        self._busy = busy_s()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.cpu_s = busy_s() - self._busy

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.memory_mib = max(self.memory_mib, self._available - memory_mib("MemAvailable"))
