"""Names every place where a daemon may die with something half done. A no-op, except in tests that die there.

Before and after each commit and each outside act there is one. `tests/crash` enumerates all names, dies at each,
and requires that the daemon's next life ends the work (reliability.md 5.6).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_watchers: list[Callable[[str], None]] = []


def crash_point(name: str) -> None:
    """The daemon is at the place of that name: `WHO.what.before` or `WHO.what.after`."""
    for watcher in _watchers:
        watcher(name)


class around:  # noqa: N801 - reads as a statement; a class, because each deed and commit passes through one
    """One before and one after what is done inside; none after what fails."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        crash_point(f"{self._name}.before")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            crash_point(f"{self._name}.after")


@contextmanager
def watched(reached: Callable[[str], None]) -> Iterator[None]:
    """For tests: inside, `reached` is called at each place, and may raise."""
    _watchers.append(reached)
    try:
        yield
    finally:
        _watchers.remove(reached)
