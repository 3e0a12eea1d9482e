"""Duties: one deed at a time per key, kicks neither lost nor doubled, failures tried again."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from wnod.duties import Duties, Next, Now


class DutiesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.steps: list[str] = []
        self.gates: list[Deferred[Next]] = []
        self.answer: Callable[[], Next | Deferred[Next]] = lambda: Now.REST
        self.duties = Duties(self.clock, self.step, "test")

    async def step(self, key: str) -> Next:
        self.steps.append(key)
        answer = self.answer()
        return await answer if isinstance(answer, Deferred) else answer

    def wait_at_a_gate(self) -> Deferred[Next]:
        self.gates.append(Deferred())
        return self.gates[-1]

    def test_a_kick_makes_one_step(self) -> None:
        self.duties.kick("a")
        self.clock.advance(0)
        assert self.steps == ["a"]
        assert self.clock.getDelayedCalls() == []
        assert not self.duties.busy()

    def test_kicks_during_a_step_make_exactly_one_more(self) -> None:
        self.answer = self.wait_at_a_gate
        self.duties.kick("a")
        self.clock.advance(0)
        for _ in range(3):
            self.duties.kick("a")
        self.clock.advance(0)
        assert self.steps == ["a"]
        self.gates[0].callback(Now.REST)
        self.clock.advance(0)
        assert self.steps == ["a", "a"]
        self.gates[1].callback(Now.REST)
        self.clock.advance(0)
        assert self.steps == ["a", "a"]

    def test_a_kick_in_a_steps_first_moment_begins_no_second_step_beside_it(self) -> None:
        def kicks_itself() -> Deferred[Next]:
            self.duties.kick("a")
            return self.wait_at_a_gate()

        self.answer = kicks_itself
        self.duties.kick("a")
        self.clock.advance(0)
        self.clock.advance(0)
        assert self.steps == ["a"]
        self.answer = lambda: Now.REST
        self.gates[0].callback(Now.REST)
        self.clock.advance(0)
        assert self.steps == ["a", "a"]
        assert not self.duties.busy()

    def test_keys_do_not_wait_for_each_other(self) -> None:
        self.answer = self.wait_at_a_gate
        self.duties.kick("a")
        self.duties.kick("b")
        self.clock.advance(0)
        assert self.steps == ["a", "b"]
        for gate in self.gates:
            gate.callback(Now.REST)

    def test_again_steps_until_there_is_rest(self) -> None:
        answers: list[Next] = [Now.AGAIN, Now.AGAIN, Now.REST]
        self.answer = lambda: answers.pop(0)
        self.duties.kick("a")
        self.clock.pump([0, 0, 0, 0])
        assert len(self.steps) == 3

    def test_a_number_is_a_time_to_look_again_and_a_kick_comes_earlier(self) -> None:
        self.answer = lambda: 5.0
        self.duties.kick("a")
        self.clock.advance(0)
        self.clock.advance(4.9)
        assert len(self.steps) == 1
        self.duties.kick("a")
        self.clock.advance(0)
        assert len(self.steps) == 2
        self.clock.advance(4.9)
        assert len(self.steps) == 2
        self.clock.advance(0.2)
        assert len(self.steps) == 3

    def test_a_failed_step_is_tried_again_with_back_off_and_reported(self) -> None:
        seen: list[str] = []
        self.duties = Duties(self.clock, self.step, "test", failed=lambda key, error: seen.append(f"{key}: {error}"))

        def fail() -> Next:
            raise RuntimeError("no answer")

        self.answer = fail
        self.duties.kick("a")
        self.clock.advance(0)
        self.clock.advance(0.5)
        assert len(self.steps) == 2
        self.clock.advance(0.9)
        assert len(self.steps) == 2
        self.clock.advance(0.1)
        assert len(self.steps) == 3
        assert seen == ["a: no answer"] * 3
        assert len(self.flushLoggedErrors(RuntimeError)) == 3

    def test_stop_cancels_what_runs_and_starts_nothing_more(self) -> None:
        self.answer = self.wait_at_a_gate
        self.duties.kick("a")
        self.clock.advance(0)
        self.duties.kick("b")
        self.successResultOf(Deferred.fromCoroutine(self.duties.stop()))
        self.duties.kick("a")
        self.clock.advance(100)
        assert self.steps == ["a"]
        assert self.clock.getDelayedCalls() == []
