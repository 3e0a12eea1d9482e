"""The private file system of one lab node, made inside its own mount namespace: nothing here is seen by the machine.

Directories that daemons write (/etc, /var/log, /var/cache, /var/spool, /run, /home) are replaced as a whole. Where a node
needs one new entry in a directory it otherwise shares (/var/lib, /usr/libexec), the directory becomes a tmpfs of links to
the original entries, so no mount point has to be created on the machine.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a node sees. `binds` are [source, target, options], done last and in order."""

    run: str
    keep: list[str]
    replaced: dict[str, str]
    grown: dict[str, dict[str, str]]
    binds: list[list[str]]


def mount(*argv: str) -> None:
    subprocess.run(["mount", "-n", *argv], check=True)


def build(plan: Plan) -> None:
    """Makes the node's view; called once by the node's first process, as root, in fresh namespaces."""
    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    # A fresh sysfs shows this node's own network devices. No cgroups below it: nothing to clean up afterwards.
    mount("-t", "sysfs", "-o", "ro", "sysfs", "/sys")
    _private_run(plan)
    for target, source in plan.replaced.items():
        mount("--bind", source, target)
    for target, entries in plan.grown.items():
        _grow(target, entries, plan)
    for source, target, options in plan.binds:
        Path(target).mkdir(parents=True, exist_ok=True)
        mount("--bind", source, target)
        if options:
            mount("-o", f"remount,bind,{options}", target)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _private_run(plan: Plan) -> None:
    """An empty /run that still shows the lab's own socket directory."""
    descriptor = os.open(plan.run, os.O_PATH | os.O_DIRECTORY)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path(plan.run).mkdir(parents=True, exist_ok=True)
    _bind_descriptor(descriptor, plan.run)
    for name in ("lock", "user"):
        Path("/run", name).mkdir()


def _bind_descriptor(descriptor: int, target: str) -> None:
    # pass_fds keeps the number the same in the child, where /proc/self names it.
    subprocess.run(
        ["mount", "-n", "--bind", f"/proc/self/fd/{descriptor}", target], check=True, pass_fds=(descriptor,)
    )
    os.close(descriptor)


def _grow(target: str, entries: dict[str, str], plan: Plan) -> None:
    """Turns `target` into a tmpfs with links to its original entries plus `entries` (name -> directory bound there)."""
    lower = Path("/run/lower") / target.strip("/").replace("/", "-")
    lower.mkdir(parents=True)
    mount("--rbind", target, str(lower))
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", target)
    kept = {Path(path).name for path in plan.keep if str(Path(path).parent) == target}
    for original in lower.iterdir():
        if original.name in kept:
            Path(target, original.name).mkdir()
            mount("--rbind", str(original), str(Path(target, original.name)))
        elif original.name not in entries:
            Path(target, original.name).symlink_to(original)
    for name, source in entries.items():
        Path(target, name).mkdir()
        mount("--bind", source, str(Path(target, name)))
