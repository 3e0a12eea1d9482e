"""Console logs of VMs, which libvirt writes and turns over, and which nobody else removes."""

import contextlib
from collections.abc import Collection
from pathlib import Path

from twisted.logger import Logger

_log = Logger("hostmaster.edges.consoles")


def prune(directory: Path, oldest: float, living: Collection[str]) -> None:
    """Remove those last written before `oldest` (seconds since 1970), but of no VM whose key is among the `living`.

    Never raises: one may go, or be turned over by libvirt, while this looks at it. Blocks: not on the reactor thread.
    """
    try:
        for path in directory.glob("*.log*"):
            if path.name.partition(".log")[0] not in living:
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()
    except OSError as error:
        _log.error("old console logs stay: {error}", error=error)
