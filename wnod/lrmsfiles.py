"""What an LRMS's daemon finds in a guest at standby (`lrms.guest_files` of hostmaster.yaml), read when it changes."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MOST_FILES = 16
MOST_BYTES = 64 * 1024
"""Of all files together: a guest reads its lines one byte at a time."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
NEEDED = "slurm.conf"

_Mark = tuple[tuple[str, int, int, int], ...]


class LrmsFilesRefused(Exception):
    """The directory cannot be given to guests; the text names it, what is wrong with it, and the remedy."""


@dataclass
class LrmsFiles:
    """One directory's files. Without a directory there are none."""

    directory: str | None
    _mark: _Mark | None = None
    _files: Mapping[str, bytes] = field(default_factory=dict)

    def read(self) -> Mapping[str, bytes]:
        """Name to content, in the order of names; the same object while nothing is changed. LrmsFilesRefused."""
        if self.directory is None:
            return self._files
        try:
            mark = _mark(Path(self.directory))
            if mark != self._mark:
                files = {name: Path(self.directory, name).read_bytes() for name, _, _, _ in mark}
                self._mark, self._files = mark, files
        except OSError as error:
            remedy = "create it and make it readable for the hostmaster, or leave the field out"
            raise _refused(self.directory, f"{error.filename}: {error.strerror}", remedy) from error
        return self._files


def _mark(directory: Path) -> _Mark:
    """Names, sizes and times. LrmsFilesRefused for what guests would not be given."""
    with os.scandir(directory) as entries:
        found = sorted((entry.name, entry.stat()) for entry in entries if not entry.name.startswith("."))
    for name, info in found:
        if not NAME.fullmatch(name) or not stat.S_ISREG(info.st_mode):
            remedy = "only files belong there, with names of at most 64 letters, digits, . _ -"
            raise _refused(directory, f"{name!r} is no such file", remedy)
    names, size = [name for name, _ in found], sum(info.st_size for _, info in found)
    if NEEDED not in names:
        raise _refused(directory, f"no {NEEDED} is there", f"copy the {NEEDED} that slurmctld serves to VMs")
    if len(names) > MOST_FILES or size > MOST_BYTES:
        text = f"{len(names)} files of {size} bytes, at most {MOST_FILES} of {MOST_BYTES} are given"
        raise _refused(directory, text, "leave only what slurmd in a VM reads")
    return tuple((name, info.st_size, info.st_mtime_ns, info.st_ino) for name, info in found)


def _refused(directory: str | Path, text: str, remedy: str) -> LrmsFilesRefused:
    return LrmsFilesRefused(f"lrms.guest_files {directory}: {text}; {remedy}")
