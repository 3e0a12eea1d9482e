"""Group commit: whoever wants to write in the same moment shares one transaction, and one wait for the disk.

A commit waits for the disk, and nothing else happens meanwhile; five hundred jobs that arrive at once would wait
five hundred times. Nobody goes on before the commit of what he wrote: a deed and a reply still come after it.
"""

from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from wnod.journal import Journal


class Write(Protocol):
    """One change of the journal and of the memory that mirrors it."""

    def begin(self) -> None:
        """Nothing of this transaction has been written yet."""

    def put(self) -> None:
        """Journal it and believe it; do neither if it has become pointless. Inside the transaction: never waits."""

    def undo(self) -> None:
        """The commit has failed: believe again what was believed before `put`."""

    def done(self) -> None:
        """It is on disk, with all others of this transaction, and nobody has gone on yet."""


@dataclass
class Commits:
    """The writers of one journal."""

    clock: IReactorTime
    journal: Journal
    _waiting: list[tuple[Write, "Deferred[None]"]] = field(default_factory=list)

    def write(self, change: Write) -> "Deferred[None]":
        """Fires when the change is on disk. If the commit fails, with its error: then nothing of it was kept."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append((change, waiter))
        if len(self._waiting) == 1:
            self.clock.callLater(0, self._commit)
        return waiter

    def _commit(self) -> None:
        everybody, self._waiting = self._waiting, []
        wanted = [(change, waiter) for change, waiter in everybody if not waiter.called]  # others were cancelled
        tried: list[Write] = []
        try:
            for change, _ in wanted:
                change.begin()
            with self.journal.transaction():
                for change, _ in wanted:
                    tried.append(change)
                    change.put()
        except BaseException as error:
            for change in reversed(tried):
                change.undo()
            _fail(wanted, error)
            return
        try:
            for change in tried:
                change.done()
        except BaseException as error:
            _fail(wanted, error)
            return
        for _, waiter in wanted:
            if not waiter.called:
                waiter.callback(None)


def _fail(wanted: list[tuple[Write, "Deferred[None]"]], error: BaseException) -> None:
    for _, waiter in wanted:
        if not waiter.called:
            waiter.errback(error)
