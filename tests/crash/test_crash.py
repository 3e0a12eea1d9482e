"""Each daemon dies at each place where it has something half done; its next life ends the work (reliability.md 5.6)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import LoggedFailures
from tests.crash.days import DAYS, Day
from tests.crash.points import points
from tests.crash.ready_days import READY_DAYS, ReadyDay
from tests.fakes.living import living
from tests.fakes.site import Site
from tests.fakes.wire import Crash
from wnod.crashpoint import watched
from wnod.journal import JournalFull

ALL_DAYS: tuple[Day | ReadyDay, ...] = (*DAYS, *READY_DAYS)


@contextmanager
def alive(directory: Path, day: Day | ReadyDay) -> Iterator[Site]:
    site = Site(directory, ready=day.ready if isinstance(day, ReadyDay) else None)
    with living(site):
        yield site


@cache
def passed(day: Day | ReadyDay) -> Counter[str]:
    """How often that day leads past each point when nothing crashes."""
    seen: Counter[str] = Counter()
    with TemporaryDirectory() as place, alive(Path(place), day) as site, watched(lambda name: seen.update([name])):
        day.live(site)
    return seen


class Death:
    """Kills the daemon at whose place the point is when it first comes there; `again`: its next life at once, too."""

    def __init__(self, site: Site, point: str, again: bool) -> None:
        self.site, self.point, self.left = site, point, 2 if again else 1
        self.happened = False
        self.who = point.split(".", maxsplit=1)[0]

    def reached(self, name: str) -> None:
        recovering = self.left == 1 and self.point == ""
        if name == self.point or (recovering and name.startswith(self.who)):
            self.left, self.point, self.happened = self.left - 1, "", True
            self.site.clock.callLater(0, self.site._die, self.who)
            self.site._stop(self.who)
            raise Crash(f"{self.who} dies at {name}")


def day_of(point: str) -> Day | ReadyDay | None:
    """The first day that leads past the point."""
    return next((day for day in ALL_DAYS if passed(day)[point]), None)


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("point", points())
def test_a_daemon_that_dies_there_leaves_nothing_undone(
    point: str, again: bool, tmp_path: Path, logged_failures: LoggedFailures
) -> None:
    """`twice`: it dies again at the first place that its next life comes to, if there is work left for that."""
    day = day_of(point)
    assert day is not None, f"no day in tests/crash/days.py leads to {point}"
    with alive(tmp_path, day) as site:
        death = Death(site, point, again)
        with watched(death.reached):
            day.live(site)
    assert death.happened
    logged_failures.flush(Crash, JournalFull)  # who looked in the same moment finds the journal closed


def test_every_place_that_is_reached_is_on_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """The other way round: a new place in the code must be enumerated, or this fails."""
    seen = {point for day in ALL_DAYS for point in passed(day)}
    assert seen - set(points()) == set()
    reached = len(seen & set(points()))
    with capsys.disabled():
        print(f"\ncrash points: {reached} of {len(points())} reached, and died at once and twice", end=" ")
