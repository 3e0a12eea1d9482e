"""How far a journal has come, in a file beside it: what shows that an older copy has been put in its place (R15)."""

import contextlib
import os
from typing import NamedTuple

_LENGTH = 64


class Reached(NamedTuple):
    """Which journal it was, and how many commits it had."""

    journal: str = ""
    commits: int = 0


class Mark:
    """The journal at `path` and its commits, in `path`.mark.

    Written after each commit and not synced: a machine's crash may leave it behind the journal, never ahead of it.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError if the file cannot be opened."""
        self._fd = os.open(f"{path}.mark", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def read(self) -> Reached:
        """What was written last; nothing, if that cannot be read."""
        words = os.pread(self._fd, _LENGTH, 0).decode("ascii", "replace").split()
        return Reached(words[1], int(words[0])) if len(words) == 2 and words[0].isdecimal() else Reached()

    def write(self, reached: Reached) -> None:
        """Keep it, as far as the disk lets us: the commit has been made all the same."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, b"%020d %s\n" % (reached.commits, reached.journal.encode("ascii")), 0)

    def close(self) -> None:
        os.close(self._fd)
