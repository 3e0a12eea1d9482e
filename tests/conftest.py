"""What every test gets: a failed Deferred that nobody looked at, or a logged failure, fails the test."""

import gc
from collections.abc import Iterator
from typing import ClassVar
from unittest import TestCase
from weakref import WeakSet

import pytest
from hypothesis import settings
from twisted.internet import defer
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

# The gate says the same of the same tree, on every run. What it has not seen, `make properties` looks for.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("wide", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("gate")


class Debt(defer.DebugInfo):
    """What every failed Deferred gets: it complains when it is collected with its failure. This one is also known."""

    known: ClassVar["WeakSet[Debt]"] = WeakSet()

    def __init__(self) -> None:
        self.known.add(self)


defer.DebugInfo = Debt  # type: ignore[misc]


def collect() -> None:
    """Have every Deferred complain that has a failure and lives only in a cycle.

    A collection looks at all that is in memory, and takes longer than most tests: only if there is such a failure.
    """
    if any(debt.failResult is not None for debt in Debt.known):
        gc.collect()


class LoggedFailures:
    """The failures logged while a test ran. A test that means them to be logged takes them with `flush`."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def flush(self, *kinds: type[BaseException]) -> list[Failure]:
        """Take the failures of these kinds (all, if none is named): they were meant."""
        collect()
        meant = [event for event in self.events if not kinds or event["log_failure"].check(*kinds)]
        self.events = [event for event in self.events if event not in meant]
        return [event["log_failure"] for event in meant]


@pytest.fixture(autouse=True)
def logged_failures(request: pytest.FixtureRequest) -> Iterator[LoggedFailures]:
    """Fail a plain test that drops a failed Deferred or logs a failure. Trial's cases do that by themselves."""
    logged = LoggedFailures()
    if request.cls is not None and issubclass(request.cls, TestCase):
        yield logged
        return

    @implementer(ILogObserver)
    def watch(event: LogEvent) -> None:
        if "log_failure" in event:
            logged.events.append(event)

    globalLogPublisher.addObserver(watch)
    try:
        yield logged
        collect()
    finally:
        globalLogPublisher.removeObserver(watch)
    assert not logged.events, [event["log_failure"].getTraceback() for event in logged.events]
