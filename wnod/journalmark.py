"""How far a journal has come, in a file beside it: what shows that an older copy has been put in its place (R15).

And from where the one that follows a lost journal has to count.
"""

import contextlib
import os
from typing import NamedTuple

_LENGTH = 64
AHEAD = 1024
"""So many numbers may be given before the mark must have reached the disk: a host makes fewer VMs in minutes."""


class Reached(NamedTuple):
    """Which journal it was, and how many commits it had."""

    journal: str = ""
    commits: int = 0
    below: int = 0
    """Neither this journal nor those that were here before it have given a number that is not below this one."""

    def covering(self, number: int) -> "Reached":
        """This number may be given, and AHEAD more."""
        return self if number < 1 or number + AHEAD < self.below else self._replace(below=number + 2 * AHEAD)


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
        if len(words) not in (2, 3) or not all(word.isdecimal() for word in (words[0], *words[2:])):
            return Reached()
        return Reached(words[1], int(words[0]), *map(int, words[2:]))  # there are two in those of older versions

    def write(self, reached: Reached) -> None:
        """Keep it, as far as the disk lets us: the commit has been made all the same."""
        with contextlib.suppress(OSError):
            line = b"%020d %s %020d\n" % (reached.commits, reached.journal.encode("ascii"), reached.below)
            os.pwrite(self._fd, line, 0)

    def close(self) -> None:
        os.close(self._fd)
