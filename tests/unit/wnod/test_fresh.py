"""Answers are shared between those who ask in one moment, and never older than the question."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from wnod.fresh import Fresh


class FreshTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.queries: list[Deferred[str]] = []
        self.fresh: Fresh[str] = Fresh(self.clock, self.query)

    def query(self) -> "Deferred[str]":
        self.queries.append(Deferred())
        return self.queries[-1]

    def ask(self) -> "Deferred[str]":
        return Deferred.fromCoroutine(self.fresh.get())

    def test_those_who_ask_in_one_moment_share_one_query(self) -> None:
        asked = [self.ask() for _ in range(3)]
        self.clock.advance(0)
        self.assertEqual(len(self.queries), 1)
        self.queries[0].callback("now")
        self.assertEqual([self.successResultOf(d) for d in asked], ["now"] * 3)
        self.clock.advance(1)
        self.assertEqual(len(self.queries), 1)

    def test_who_asks_while_a_query_runs_gets_the_next_one(self) -> None:
        early = self.ask()
        self.clock.advance(0)
        late = [self.ask(), self.ask()]
        self.clock.advance(0)
        self.assertEqual(len(self.queries), 1)
        self.queries[0].callback("before")
        self.assertEqual(self.successResultOf(early), "before")
        self.assertNoResult(late[0])
        self.clock.advance(0)
        self.queries[1].callback("after")
        self.assertEqual([self.successResultOf(d) for d in late], ["after"] * 2)

    def test_a_failure_is_everybodys_and_the_next_question_asks_again(self) -> None:
        asked = [self.ask(), self.ask()]
        self.clock.advance(0)
        self.queries[0].errback(OSError("away"))
        for waiter in asked:
            self.failureResultOf(waiter, OSError)
        again = self.ask()
        self.clock.advance(0)
        self.queries[1].callback("back")
        self.assertEqual(self.successResultOf(again), "back")

    def test_one_who_gives_up_does_not_spoil_it_for_the_others(self) -> None:
        first, second = self.ask(), self.ask()
        self.clock.advance(0)
        first.cancel()
        self.failureResultOf(first)
        self.queries[0].callback("now")
        self.assertEqual(self.successResultOf(second), "now")

    def test_a_query_that_raises_at_once_fails_its_askers_only(self) -> None:
        def broken() -> "Deferred[str]":
            raise RuntimeError("bug")

        fresh: Fresh[str] = Fresh(self.clock, broken)
        asked = Deferred.fromCoroutine(fresh.get())
        self.clock.advance(0)
        self.failureResultOf(asked, RuntimeError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
