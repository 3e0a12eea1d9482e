"""Small file systems of their own under a host's journals, overlays and images, so that each can be full.

They are files of the lab, mounted inside the host: a reboot of the host unmounts them and loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.lab.lab import Lab

STATE = "/var/lib/wnod"
SIZES_MIB = {"journal": 192, "overlay": 2048}
"""The image path is as large as the images and a little more."""
PLACES = {"journal": f"{STATE}/journals", "overlay": f"{STATE}/disks", "image": f"{STATE}/images"}
OWNERS = {"hostmaster": "wnod-host", "bait": "slurm"}


class Disks:
    """The file systems of every host of one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def make(self, host: str) -> None:
        """Make the files; once, before the first `mount`."""
        for name, size in SIZES_MIB.items():
            self._format(self._file(host, name), size, ())
        used = int(subprocess.run(["du", "-sm", str(self._lab.layout.images)], capture_output=True, text=True,
                                  check=True).stdout.split()[0])  # fmt: skip
        self._format(self._file(host, "image"), used + used // 8 + 32, ("-d", str(self._lab.layout.images)))

    def _format(self, path: Path, size_mib: int, more: tuple[str, ...]) -> None:
        with path.open("wb") as file:
            file.truncate(size_mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", *more, str(path)], check=True, capture_output=True)

    def _file(self, host: str, name: str) -> Path:
        return self._lab.layout.root / f"{host}-{name}.ext4"

    def mount(self, host: str) -> None:
        """In a host that has just booted, before its daemons' directories are made."""
        for name, place in PLACES.items():
            self._wait_unused(self._file(host, name))
            self._in(host, "mkdir", "-p", place)
            self._in(host, "mount", "-n", "-o", "loop", str(self._file(host, name)), place)
        for daemon in OWNERS:
            self._bind(host, f"{PLACES['journal']}/{daemon}", f"{STATE}/{daemon}", "root")

    def bind_overlays(self, host: str) -> None:
        """After the daemons' directories are made: overlays and their templates are on a file system of their own."""
        for name in ("overlays", "templates"):
            self._bind(host, f"{PLACES['overlay']}/{name}", f"{STATE}/hostmaster/{name}", OWNERS["hostmaster"])

    def _bind(self, host: str, source: str, target: str, owner: str) -> None:
        self._in(host, "install", "-d", "-o", owner, source)
        self._in(host, "install", "-d", target)
        self._in(host, "mount", "-n", "--bind", source, target)

    def _in(self, host: str, *argv: str) -> None:
        done = self._lab.run(host, list(argv))
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)} on {host}: {done.stderr.strip()}")

    def _wait_unused(self, file: Path) -> None:
        """A file that is still mounted by a host that is dying must not be mounted twice."""
        for _ in range(200):
            if not subprocess.run(["losetup", "-j", str(file)], capture_output=True, text=True, check=True).stdout:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{file} is still mounted 20 s after its host's end")

    @contextlib.contextmanager
    def full(self, host: str, name: str) -> Iterator[None]:
        """Not a byte is left on it meanwhile."""
        filler = Path(f"/proc/{self._lab.pid_on_machine(host)}/root{PLACES[name]}/filler")
        try:
            with filler.open("wb") as file:
                _fill(file.fileno())
            yield
        finally:
            with contextlib.suppress(OSError):  # the host may have died
                filler.unlink(missing_ok=True)


def _fill(fd: int) -> None:
    """Take all blocks, in ever smaller pieces."""
    end, piece = 0, 64 << 20
    while piece >= 1024:
        try:
            os.posix_fallocate(fd, end, piece)
            end += piece
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            piece //= 2
