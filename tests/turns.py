"""Test runs on one machine take turns at what there is one of: the labs with fixed names."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.lab.layout import Layout


@contextmanager
def in_turn(layout: Layout) -> Iterator[None]:
    """Wait until no other run has this lab, and keep it. The kernel gives it back even if we are killed."""
    path = Path("/run/lock", f"{layout.run.name}.turn")
    with path.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
