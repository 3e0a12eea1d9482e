"""The benchmark's course: rounds in which every contestant has its turn, then the throughput of some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench import figures, stopwatch
from tests.bench.machine import Usage, touch_memory
from tests.bench.stopwatch import Late
from tests.bench.ways import Way, no_jobs, until

JOBS = 40


@dataclass
class Samples:
    """What was seen of one contestant."""

    starts: list[float] = field(default_factory=list)
    readies: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    rate: dict[str, float | int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """As it stands in results.json: figures that were not seen are left out."""
        lists = {figures.START: self.starts, figures.READY: self.readies, "cpu_s_per_job": self.cpu,
                 "memory_mib": self.memory}  # fmt: skip
        row: dict[str, object] = {name: figures.summary(found) for name, found in lists.items() if found}
        row |= self.rate
        if self.stages:
            row["stages_s"] = {name: figures.summary(seconds) for name, seconds in self.stages.items()}
        return {**row, "failures": self.failures} if self.failures else row


class Course:
    """Runs contestants and keeps their samples, by key."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.samples: dict[str, Samples] = {}
        self._say = say

    def rounds(self, ways: Sequence[Way], phases: Sequence[float], floors: Callable[[], None]) -> None:
        """One turn for each way and the floors in every round; who begins changes from round to round."""
        for number, phase in enumerate(phases):
            first = number % max(1, len(ways))
            said = [self._turn(way, number, phase) for way in (*ways[first:], *ways[:first])]
            floors()
            self._say(f"round {number + 1} of {len(phases)}: " + ", ".join(said))

    def _turn(self, way: Way, number: int, phase: float) -> str:
        mine = self.samples.setdefault(way.key, Samples())
        try:
            way.await_fresh()
            begun = way.looked(f"look-{way.key}-{number}")
            touch_memory()
            stopwatch.wait_for_phase(begun, phase)
            with Usage() as usage:
                seen = stopwatch.watch_one(way.lab, way.options, f"{way.key}-{number}")
                ready = way.settle(seen.ended)
        except Late as late:
            mine.failures.append(str(late))
            way.lab.run("head", ["scancel", "-u", "alice"])
            self._say(f"{way.key}, round {number + 1}: {late}")
            return f"{way.key} FAILED"
        mine.starts.append(seen.start_s)
        for name, seconds in way.stages(seen.submitted).items():
            mine.stages.setdefault(name, []).append(seconds)
        mine.readies += [] if ready is None else [ready]
        mine.cpu.append(usage.cpu_s)
        mine.memory.append(usage.memory_mib)
        return f"{way.key} {seen.start_s:.2f}" + ("" if ready is None else f" (again {ready:.2f})")

    def throughput(self, way: Way, limit_s: float, options: Sequence[str] = (), name: str = figures.RATE) -> None:
        """How many jobs a minute one host gets through, by an array of JOBS; what has ended in `limit_s` counts."""
        mine = self.samples.setdefault(way.key, Samples())
        way.await_fresh()
        with Usage() as usage:
            ended, seconds = stopwatch.watch_many(way.lab, [*way.options, *options], f"{way.key}-{name}", JOBS, limit_s)
        if ended:
            mine.rate[name] = figures.per_minute(ended, seconds)
            mine.rate[f"{name}_n"] = ended
            mine.rate[f"{name}_cpu_s_per_job"] = round(usage.cpu_s / ended, 2)
        self._say(f"{way.key}: {ended} of {JOBS} jobs in {seconds:.1f} s, {mine.rate.get(name, 0)} a minute ({name})")
        until(lambda: no_jobs(way.lab), f"{way.key}: the queue is empty", pause=0.2)
