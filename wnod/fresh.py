"""One query for everybody who asks in the same moment, never an answer older than the question."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")


class Fresh(Generic[T]):
    """Shares the answers of `query`. A question asked while a query runs waits for the next one: the running
    query may have looked before the asker's last deed took effect."""

    def __init__(self, clock: IReactorTime, query: Callable[[], Awaitable[T]]) -> None:
        self._clock = clock
        self._query = query
        self._waiting: list[Deferred[T]] = []
        self._running = False

    async def get(self) -> T:
        """The answer of a query begun after this call; its exception, if it fails."""
        waiter: Deferred[T] = Deferred()
        self._waiting.append(waiter)
        if not self._running:
            self._running = True
            self._clock.callLater(0, self._begin)
        return await waiter

    def _begin(self) -> None:
        asked, self._waiting = self._waiting, []
        answer = Deferred.fromCoroutine(self._ask())
        answer.addCallbacks(self._deliver, self._fail, callbackArgs=(asked,), errbackArgs=(asked,))
        answer.addBoth(self._ended)

    async def _ask(self) -> T:
        return await self._query()

    def _deliver(self, answer: T, asked: list["Deferred[T]"]) -> None:
        for waiter in asked:
            if not waiter.called:
                waiter.callback(answer)

    def _fail(self, failure: object, asked: list["Deferred[T]"]) -> None:
        for waiter in asked:
            if not waiter.called:
                waiter.errback(failure)  # type: ignore[arg-type]

    def _ended(self, _: object) -> None:
        self._running = bool(self._waiting)
        if self._running:
            self._clock.callLater(0, self._begin)
