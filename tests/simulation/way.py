"""One bait's own unreliable way to the batch system of a large site: delays, errors, answers that are old or empty."""

import contextlib
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bait.lrms.base import Home, JobView, LrmsRefused, LrmsUnavailable, NodeView
from protocol.ids import Run, Shape
from tests.simulation.clock import Life, at_once
from tests.simulation.lrms import Controller

T = TypeVar("T")

ANSWER_LIMIT_S = 10.0
"""How long a bait waits for the LRMS (bait.yaml's lrms.timeout_s)."""


@dataclass(slots=True)
class _Question:
    """What those ask together who ask for jobs in the same moment: as Slurm's adapter, one `squeue` for all."""

    at: float
    ids: list[str] = field(default_factory=list)
    waiting: list[Deferred[Mapping[str, JobView]]] = field(default_factory=list)


class Way:
    """One bait's way to the controller: Lrms, with the delays and errors that this bait meets."""

    def __init__(
        self, controller: Controller, life: Life, rng: random.Random, trouble: "Trouble",
        touches: Callable[[str, str, float], None],
    ) -> None:  # fmt: skip
        self._controller = controller
        self._life = life
        self._rng = rng
        self._trouble = trouble
        self._touches = touches
        self._question: _Question | None = None
        self.cluster = controller.cluster

    def _call(self, call: Callable[[], Coroutine[Any, Any, T]], *, change: bool) -> "Deferred[T]":
        """The question takes a while to get there, and its answer to come back."""
        life, trouble = self._life, self._trouble
        life.point("before-lrms")
        delay = 0.002 + 0.02 * self._rng.random()
        if trouble.hang_until > life.world.now:
            delay = min(ANSWER_LIMIT_S, trouble.hang_until - life.world.now + delay)
        answer: Deferred[T] = Deferred()
        life.callLater(delay, self._arrive, call, change, delay >= ANSWER_LIMIT_S, answer)
        return answer

    def _arrive(
        self, call: Callable[[], Coroutine[Any, Any, T]], change: bool, late: bool, answer: "Deferred[T]"
    ) -> None:
        trouble = self._trouble
        if trouble.away or trouble.cut or late:
            if change and trouble.late and not (trouble.away or trouble.cut):
                with contextlib.suppress(LrmsRefused):
                    at_once(call())
            answer.errback(LrmsUnavailable("the batch system does not answer"))
            return
        try:
            result: Any = at_once(call())
        except (LrmsRefused, LrmsUnavailable) as error:
            result = Failure(error)  # type: ignore[no-untyped-call]
        if not change:
            answer.callback(result)  # a deed that follows takes its time to get there: by then this is old
            return
        self._life.callLater(0.001, self._return, result, change, answer)

    def _return(self, result: Any, change: bool, answer: "Deferred[Any]") -> None:
        if change and not isinstance(result, Failure):
            self._life.point("after-lrms")
            if self._trouble.lose_replies > 0:
                self._trouble.lose_replies -= 1
                result = Failure(LrmsUnavailable("the batch system's reply was lost"))  # type: ignore[no-untyped-call]
        answer.callback(result)

    async def _change(self, verb: str, job: str, call: Callable[[], Coroutine[Any, Any, None]], more: str = "") -> None:
        self._touches(verb, job or more, self._life.seconds())
        what = f"{verb} {more}".rstrip()
        try:
            await self._call(call, change=True)
        except LrmsRefused as error:
            self._controller.trace(job, f"{self._life.name}: {what} refused: {error}")
            raise
        except LrmsUnavailable:
            self._controller.trace(job, f"{self._life.name}: {what}: no answer")
            raise
        self._controller.trace(job, f"{self._life.name}: {what}")

    # --- Lrms ---

    async def jobs(self, ids: Collection[str]) -> Mapping[str, JobView]:
        question = self._question
        if question is None or question.at != self._life.world.now:
            question = self._question = _Question(self._life.world.now)
            self._call(partial(self._controller.jobs, question.ids), change=False).addBoth(self._tell, question)
        question.ids.extend(ids)
        waiter: Deferred[Mapping[str, JobView]] = Deferred()
        question.waiting.append(waiter)
        return await waiter

    def _tell(self, answer: Any, question: "_Question") -> None:
        if self._question is question:  # a clock that jumps ahead is answered at once: who asks now comes too late
            self._question = None
        if not isinstance(answer, Failure):
            answer = self._trouble.jobs(self._life.world.now, question.ids, answer)
        for waiter in question.waiting:
            waiter.callback(answer)

    async def node(self, name: str) -> NodeView | None:
        return await self._call(partial(self._controller.node, name), change=False)

    async def up_for_s(self) -> float:
        return await self._call(self._controller.up_for_s, change=False)

    async def waiting(self) -> Mapping[str, JobView]:
        return await self._call(self._controller.waiting, change=False)

    async def dead_nodes(self) -> tuple[str, ...]:
        return await self._call(self._controller.dead_nodes, change=False)

    async def make_requeueable(self, run: Run, note: str) -> None:
        await self._change("make requeueable", run.key, lambda: self._controller.make_requeueable(run, note))

    async def send(self, run: Run, node: str, shape: Shape, note: str) -> None:
        await self._change("send", run.key, lambda: self._controller.send(run, node, shape, note), f"to {node}")

    async def forbid_requeue(self, run: Run) -> None:
        await self._change("forbid requeue", run.key, lambda: self._controller.forbid_requeue(run))

    async def give_back(self, run: Run, home: Home, note: str, delay_s: int = 0, told: str = "") -> None:
        await self._change("give back", run.key, lambda: self._controller.give_back(run, home, note, delay_s, told))

    async def refuse(self, run: Run, home: Home, text: str) -> None:
        await self._change("refuse", run.key, lambda: self._controller.refuse(run, home, text), f"({text})")

    async def tell(self, run: Run, text: str) -> None:
        await self._call(lambda: self._controller.tell(run, text), change=True)

    async def close_node(self, node: str, reason: str) -> None:
        await self._change("close", "", lambda: self._controller.close_node(node, reason), node)

    async def open_node(self, node: str) -> None:
        await self._change("open", "", lambda: self._controller.open_node(node), node)

    async def fail_node(self, node: str, reason: str) -> None:
        await self._change("fail node", "", lambda: self._controller.fail_node(node, reason), node)

    async def remove_node(self, node: str) -> None:
        await self._change("remove node", "", lambda: self._controller.remove_node(node), node)


class Trouble:
    """What one bait meets on its way to the controller. Outlives the bait's daemon."""

    def __init__(self) -> None:
        self.away = False
        self.cut = False
        """The whole host is cut off."""
        self.hang_until = 0.0
        self.late = True
        """Changes whose answer came too late were made all the same."""
        self.lose_replies = 0
        self.empty = 0
        self.stale_until = 0.0
        self._last_empty = -10.0
        self._seen: dict[str, JobView | None] = {}

    def end(self) -> None:
        self.away = False
        self.hang_until = self.stale_until = 0.0
        self.lose_replies = self.empty = 0

    def jobs(self, now: float, ids: Collection[str], answer: Mapping[str, JobView]) -> Mapping[str, JobView]:
        """The answer as it arrives: now and then without anything in it, or as it was a moment ago."""
        if self.empty > 0 and now - self._last_empty > 3.0:  # never twice: two good reads make a fact (R13)
            self.empty -= 1
            self._last_empty = now
            return {}
        if now < self.stale_until:
            old = {job: self._seen.get(job, answer.get(job)) for job in ids}  # as before they became stale
            return {job: view for job, view in old.items() if view is not None}
        for job in ids:
            self._seen[job] = answer.get(job)
        return answer
