"""The demo's live picture and its tables: text for people, redrawn in place on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from deploy.demo.judge import Job

WIDTH = 6
TRACK = ("caught", "granted", "parked", "ready", "released", "running", "ended")
WORDS = {"caught": "intercepted"}


def progress(job: Job) -> str:
    """How far a job has come, as a bar and a word."""
    reached = [name for name in TRACK if WORDS.get(name, name) in job.stages]
    done = len(TRACK) if job.over else len(reached)
    word = job.state.lower() if job.over else (reached[-1] if reached else "queued")
    return "#" * done + "." * (len(TRACK) - done) + f" {word}"


def frame(jobs: Sequence[Job], baits: Mapping[str, str], begun: float) -> list[str]:
    """One picture: the baits, then a line for each job."""
    over = sum(job.over for job in jobs)
    lines = [f"{time.time() - begun:5.0f} s   {over} of {len(jobs)} jobs over"]
    lines += [f"  {name:9} {state}" for name, state in sorted(baits.items())]
    for job in jobs:
        place = job.vm or ("-" if not job.bait else job.bait)
        lines.append(
            f"  {job.id:>5} {job.case.user:6} {job.case.name:12} {progress(job):22} {place:10} {job.told[:60]}"
        )
    return lines


class Screen:
    """Draws frames. On a terminal each replaces the one before; elsewhere only lines that changed are printed."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._height = 0
        self._shown: set[str] = set()

    def draw(self, lines: list[str]) -> None:
        """Show a frame."""
        if self._out.isatty():
            back = f"\033[{self._height}A\033[J" if self._height else ""
            self._out.write(back + "\n".join(line[:160] for line in lines) + "\n")
            self._height = len(lines)
        else:
            fresh = [line for line in lines[1:] if line not in self._shown]
            self._shown = set(lines)
            for line in fresh:
                self._out.write(f"{lines[0].split(' s ')[0]} s {line}\n")
        self._out.flush()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as an aligned table; columns in the order of the first row that has them."""
    columns: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            columns[name] = max(columns.get(name, len(name)), len(_text(value)))
    lines = ["  ".join(name.ljust(width) for name, width in columns.items())]
    lines += ["  ".join(_text(row.get(n)).ljust(w) for n, w in columns.items()) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
