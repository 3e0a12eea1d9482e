"""Runs the tools of a build: argv lists, output kept for the error message."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from wnod.image.errors import BuildError

_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "gcc": "gcc libslurm-dev",
    "lz4": "lz4",
}
_TAIL = 25


def need(tools: Sequence[str]) -> None:
    """Raise BuildError naming every tool that is not on this machine, with the packages that hold them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES.get(tool, tool) for tool in missing}))
        raise BuildError(f"missing here: {', '.join(missing)}; install with: apt-get install {packages}")


def run(argv: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """Run a tool to its end and return what it printed; raises BuildError with its last lines when it fails."""
    words = [str(word) for word in argv]
    # mksquashfs refuses both its own option and this variable, so only those who need it are given it.
    inherited = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(
        words,
        env={**inherited, "LC_ALL": "C.UTF-8", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-_TAIL:])
        raise BuildError(f"{words[0]} failed with status {done.returncode}:\n{tail}")
    return done.stdout
