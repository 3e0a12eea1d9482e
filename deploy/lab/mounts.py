"""The private file system of one lab node, made inside its own mount namespace: nothing here is seen by the machine.

Directories that daemons write (/etc, /var/log, /var/cache, /var/spool, /run, /home) are replaced as a whole. Where a
node needs one new entry in a directory it otherwise shares (/var/lib, /usr/libexec), the directory becomes a tmpfs of
links to the original entries, so no mount point has to be created on the machine.
"""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a node sees; without `replaced` only /proc and /sys are its own.

    `run` is the lab's socket directory; `keep` are paths that stay real directories instead of links; `grown` maps a
    directory to the entries it gets; `binds` are [source, target, options], done last and in order; `runtime` maps a
    directory below /run to [owner, octal mode].
    """

    run: str
    keep: list[str]
    replaced: dict[str, str]
    grown: dict[str, dict[str, str]]
    binds: list[list[str]]
    runtime: dict[str, list[str]]


def mount(*argv: str) -> None:
    subprocess.run(["mount", "-n", *argv], check=True)


def build(plan: Plan) -> None:
    """Makes the node's view; called once by the node's first process, as root, in fresh namespaces."""
    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    # A fresh sysfs shows this node's own network devices. An empty tmpfs where cgroups would be: slurmd wants a mount
    # there, nobody can make a cgroup, so nothing is left to clean up.
    mount("-t", "sysfs", "sysfs", "/sys")
    mount("-t", "tmpfs", "-o", "mode=755,size=64k", "tmpfs", "/sys/fs/cgroup")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if not plan.replaced:
        return
    _private_run(plan)
    for target, source in plan.replaced.items():
        mount("--bind", source, target)
    for target, entries in plan.grown.items():
        _grow(target, entries, plan)
    # After /etc is the node's own, because the owners may exist only there.
    for path, (owner, mode) in plan.runtime.items():
        subprocess.run(["install", "-d", "-o", owner, "-m", mode, path], check=True)
    for source, target, options in plan.binds:
        if not Path(target).exists():
            Path(target).mkdir(parents=True)
        mount("--bind", source, target)
        if options:
            mount("-o", f"remount,bind,{options}", target)


def _private_run(plan: Plan) -> None:
    """An empty /run that still shows the lab's own socket directory."""
    # Built beside and moved, because the new /run hides the directory that has to be bound into it.
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    inside = Path("/mnt") / Path(plan.run).relative_to("/run")
    inside.mkdir(parents=True)
    mount("--bind", plan.run, str(inside))
    mount("--move", "/mnt", "/run")
    Path("/run/lock").mkdir()


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
