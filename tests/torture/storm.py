"""Lets the planned faults come at their times, several at once, and keeps a record of what really happened."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from deploy.lab.namespaces import LabError
from deploy.lab.site import DAEMONS
from tests.torture.faults import NothingToHit, break_it, take_copy
from tests.torture.ground import Ground
from tests.torture.judge import Hit
from tests.torture.plan import Fault

COPY_EVERY_S = 12.0


class Storm:
    """`hits` is what the judge is told of; `missed` what could not be done, and why."""

    def __init__(self, ground: Ground, faults: Sequence[Fault]) -> None:
        self._ground = ground
        self._faults = faults
        self._end = threading.Event()
        self._claimed: set[str] = set()
        self._free = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._copier = threading.Thread(target=self._copies, name="copies")
        self.hits: list[Hit] = []
        self.missed: list[str] = []
        self.now: dict[int, str] = {}
        """What is broken at the moment."""

    def begin(self) -> None:
        """The first fault's time counts from now."""
        for _ in range(2):
            self._copy_all()
        self._threads.append(threading.Thread(target=self._run, name="storm"))
        self._threads[0].start()
        self._copier.start()

    @property
    def over(self) -> bool:
        """True when all faults have come and gone."""
        return not any(thread.is_alive() for thread in list(self._threads))

    def stop(self) -> None:
        """End all faults that are under way, begin no other; returns when nothing is broken. Idempotent."""
        self._end.set()
        with self._free:
            self._free.notify_all()
        for thread in [*self._threads, self._copier]:
            if thread.is_alive():
                thread.join(120)

    def kinds(self) -> dict[str, int]:
        """How many there were of each kind."""
        return dict(sorted(Counter(hit.kind for hit in self.hits).items()))

    # --- threads ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        begun = time.monotonic()
        for fault in self._faults:
            if self._end.wait(max(0.0, begun + fault.at - time.monotonic())):
                return
            thread = threading.Thread(target=self._one, args=(fault,), name=str(fault))
            self._threads.append(thread)
            thread.start()

    @contextlib.contextmanager
    def _claiming(self, fault: Fault) -> Iterator[None]:
        """The plan keeps what one fault claims from others, but on a slow machine a fault may take longer."""
        claims = set(fault.claims)
        with self._free:
            self._free.wait_for(lambda: self._end.is_set() or self._claimed.isdisjoint(claims))
            self._claimed |= claims
        try:
            yield
        finally:
            with self._free:
                self._claimed -= claims
                self._free.notify_all()

    def _one(self, fault: Fault) -> None:
        with self._claiming(fault):
            if self._end.is_set():
                return
            at, vm = time.time(), ""
            try:
                with break_it(self._ground, fault) as vm:
                    at = min(at, time.time())
                    self.now[fault.number] = f"{fault} {vm}".strip()
                    self._end.wait(fault.seconds)
            except NothingToHit as nothing:
                self.missed.append(f"{fault}: {nothing}")
                return
            except Exception as error:  # whatever it is: the storm goes on, and the summary says what was missed
                self.missed.append(f"{fault}: {type(error).__name__}: {error}")
                if fault.number not in self.now:
                    return
            finally:
                self.now.pop(fault.number, None)
            self.hits.append(Hit(fault.number, fault.kind, fault.host, at, time.time(), vm))

    def _copies(self) -> None:
        """An administrator's backups, from which the old copies come."""
        while not self._end.wait(COPY_EVERY_S):
            self._copy_all()

    def _copy_all(self) -> None:
        for host in self._ground.lab.hosts:
            for daemon in DAEMONS:
                with contextlib.suppress(LabError, OSError, subprocess.SubprocessError):
                    take_copy(self._ground, host, daemon)
