"""Golden states on disk: `golden/NAME/memory`, written by libvirt, and `golden/NAME/overlay`, the disk of that moment.

Blocking file work, for the threads of hostmaster.edges.images. A golden state is only ever read once it is whole: the
memory is named when libvirt has finished it (hostmaster.edges.libvirt_calls), the overlay is renamed into its place.
"""

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}\Z")


class GoldenFiles:
    """The directory of all golden states of one host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def start(self) -> None:
        """Make the directory. Guests' memory is in it: nobody but us, and libvirt, which is root or we, may look."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)

    def memory(self, name: str) -> Path:
        """Where its memory goes; makes the directory."""
        directory = self._of(name)
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory / "memory"

    def overlay(self, name: str) -> Path:
        """Where its overlay is, or goes."""
        return self._of(name) / "overlay"

    def freeze(self, name: str, overlay: Path) -> None:
        """Take the overlay. FileNotFoundError if there is none, and none was taken before."""
        target = self.overlay(name)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            overlay.replace(target)
        except FileNotFoundError:
            if not target.exists():
                raise

    def remove(self, name: str) -> None:
        """Remove all of it; what is gone already is fine."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._of(name))

    def sizes(self) -> Mapping[str, int]:
        """Name to bytes on disk, of whole ones and of parts."""
        return {d.name: _bytes_in(d) for d in sorted(self._directory.iterdir()) if d.is_dir()}

    def _of(self, name: str) -> Path:
        if not _NAME.match(name) or ".." in name:
            raise ValueError(f"golden name {name!r}: expected lower-case letters, digits, dots and hyphens")
        return self._directory / name


def _bytes_in(directory: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
        for file in directory.iterdir():
            total += file.lstat().st_blocks * 512
    return total
