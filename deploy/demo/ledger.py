"""What the jobs themselves wrote down: one page for each start of user code, outside wnod's control."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Page:
    """One start of a job's user code, as it saw the world. Times are seconds since 1970 on its own clock."""

    case: str
    job: str
    """`12`, or `12_3` for an array task."""
    started: float
    hostname: str
    kernel: str
    user: str
    ended: float | None = None
    status: int | None = None

    @property
    def in_vm(self) -> bool:
        """True if it ran in one of the lab's VMs."""
        return self.hostname.startswith("vm-")


def read(directory: Path) -> list[Page]:
    """Every page there is. ValueError for one that no job of the demo wrote."""
    return [page(path) for path in sorted(directory.iterdir())]


def page(path: Path) -> Page:
    """One page. ValueError if no job of the demo wrote it, or not yet all of its first line."""
    case, identity, *_ = path.name.split(".")
    job, task = identity.split("_")
    lines = [line.split() for line in path.read_text().splitlines()]
    (_, started, hostname, kernel, user, _restart) = lines[0]
    ends = [line for line in lines[1:] if line[0] == "end"]
    return Page(
        case=case,
        job=job if task == "-" else f"{job}_{task}",
        started=float(started),
        hostname=hostname,
        kernel=kernel,
        user=user,
        ended=float(ends[0][1]) if ends else None,
        status=int(ends[0][2]) if ends else None,
    )


def starts(pages: Iterable[Page], job: str) -> list[Page]:
    """The pages of one job."""
    return [page for page in pages if page.job == job]
