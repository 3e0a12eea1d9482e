"""How far a journal has come, in a file beside it: what shows that an older copy has been put in its place (R15)."""

import contextlib
import os

_WIDTH = 20


class Mark:
    """The number of commits of the journal at `path`, in `path`.mark.

    Written after each commit and not synced: a machine's crash may leave it behind the journal, never ahead of it.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError if the file cannot be opened."""
        self._fd = os.open(f"{path}.mark", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def read(self) -> int:
        """The number; 0 if there is none."""
        digits = os.pread(self._fd, _WIDTH, 0)
        return int(digits) if digits.isdigit() else 0

    def write(self, number: int) -> None:
        """Keep this number, as far as the disk lets us: the commit has been made all the same."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, b"%0*d" % (_WIDTH, number), 0)

    def close(self) -> None:
        os.close(self._fd)
