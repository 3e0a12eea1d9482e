"""Five hundred interceptions at once: how long a starter waits for its answer.

One process asks for all (epoll, no thread), so that asking costs next to nothing; the bait is another. Three ways:
`connected`: all have connected before and ask at once; `connecting`: all connect and ask at once, and the time
begins before connect(); `starters`: the real program, five hundred processes, each of which times its own question:
they come as fast as the machine can start them. The floor is Twisted with a line echo in the bait's place.
"""

import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bait import starter
from tests.bench.daemons.common import ROOT, Peer, median, peer, spread

JOBS = 500
SETTLE_S = 4.0
LIMIT_S = 20.0
_ROW = struct.Struct("dd")
_LINE = b'{"version":1,"job":"%d","task":null,"restart":0,"step":"batch"}\n'


_STARTER = """
import os, struct, sys, time
root, path, job, out = sys.argv[1:5]
sys.path.insert(0, root)
from bait import starter
starter.take_signals()
begun = time.monotonic()
code = starter.ask(path, starter.question(["", "batch", job, "-", "0"]), begun + 20.0)
os.write(int(out), struct.pack("dd", begun, time.monotonic() - begun))
os._exit(code)
"""
"""The program, with a clock before its question and after its answer."""


class Burst:
    """All questions at once, each answered once."""

    def __init__(self, path: str, first: int) -> None:
        self.path = path
        self.lines = [_LINE % (first + n) for n in range(JOBS)]
        self.begun = [0.0] * JOBS
        self.took: list[float] = []
        self.words: dict[bytes, int] = {}
        self.selector = selectors.EpollSelector()

    def connect(self, number: int) -> socket.socket:
        """One starter's connection. Blocking: with a full queue it waits, as the starter does."""
        one = socket.socket(socket.AF_UNIX)
        one.connect(self.path)
        self.selector.register(one, selectors.EVENT_READ, number)
        return one

    def run(self, connected: bool) -> dict[str, Any]:
        """The times of all answers."""
        ends = [self.connect(n) for n in range(JOBS)] if connected else []
        time.sleep(0.5 if connected else 0.0)
        for number in range(JOBS):
            self.begun[number] = time.perf_counter()
            (ends[number] if connected else self.connect(number)).send(self.lines[number])
        sent_s = time.perf_counter() - self.begun[0]
        until = time.perf_counter() + LIMIT_S
        while len(self.took) < JOBS and time.perf_counter() < until:
            for key, _ in self.selector.select(0.1):
                self.read(key)
        assert len(self.took) == JOBS, f"{JOBS - len(self.took)} were not answered"
        return {**spread(self.took), "all_sent_after_ms": round(sent_s * 1000, 1), "answers": self.answers()}

    def read(self, key: selectors.SelectorKey) -> None:
        """One answer."""
        one: Any = key.fileobj
        answer = one.recv(4096)
        self.took.append(time.perf_counter() - self.begun[key.data])
        self.words[answer[:18]] = self.words.get(answer[:18], 0) + 1
        self.selector.unregister(one)
        one.close()

    def answers(self) -> dict[str, int]:
        """How many were told what."""
        return {word.decode().split('"')[3]: count for word, count in self.words.items()}


def starters(path: str, first: int) -> dict[str, Any]:
    """The real program for each job, all begun as fast as this machine can; each times its own question."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    children = []
    for job in range(first, first + JOBS):
        argv = [sys.executable, "-I", "-S", "-c", _STARTER, str(ROOT), path, str(job), str(writing)]
        usual = (os.SCHED_OTHER, os.sched_param(0))  # whatever the benchmark itself is given
        children.append(os.posix_spawn(sys.executable, argv, os.environ, scheduler=usual))
    os.close(writing)
    data = b""
    while part := os.read(reading, 65536):
        data += part
    os.close(reading)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    rows = sorted(_ROW.iter_unpack(data))
    assert len(rows) == JOBS
    parked = codes.count(starter.PARK)
    over_s = round(rows[-1][0] - rows[0][0], 2)
    return {
        **spread([row[1] for row in rows]),
        "asked_within_s": over_s,
        "answers": {"park": parked, "other": JOBS - parked},
    }


def measured(server: Peer, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """With what the bait used of the processor meanwhile, and how long it waited for one."""
    cpu, waited, began = server.cpu_s(), server.waited_s(), time.monotonic()
    result = call()
    result["between"] = (began, time.monotonic())
    result["server_cpu_ms"] = round((server.cpu_s() - cpu) * 1000, 1)
    result["server_waited_ms"] = round((server.waited_s() - waited) * 1000, 1)
    return result


def run(rounds: int, state: Path) -> dict[str, Any]:
    """All ways, `rounds` times each, in turns. `state` is where the journal is: on the disk that the site would use."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ("connected", "connecting", "starters", "floor")}
    state.mkdir(parents=True)
    socket_path = f"{state}/hook"
    with (
        peer("tests.bench.daemons.hook_bait", socket_path, str(state), str(3 * rounds * JOBS)) as bait,
        peer("tests.bench.daemons.hook_floor", f"{socket_path}-floor") as floor,
    ):
        assert (bait.line(), floor.line()) == ("ready", "ready")
        for number in range(rounds):
            first = 1 + 3 * number * JOBS
            ways: dict[str, tuple[Peer, Callable[[], dict[str, Any]]]] = {
                "connected": (bait, partial(Burst(socket_path, first).run, connected=True)),
                "connecting": (bait, partial(Burst(socket_path, first + JOBS).run, connected=False)),
                "starters": (bait, partial(starters, socket_path, first + 2 * JOBS)),
                "floor": (floor, partial(Burst(f"{socket_path}-floor", 1).run, connected=False)),
            }
            for name, (server, call) in ways.items():
                results[name].append(measured(server, call))
                time.sleep(SETTLE_S if server is bait else 0.1)
    told = json.loads((state / "answers.json").read_text())
    for runs in results.values():
        for one in runs:
            began, ended = one.pop("between")
            inside = [seconds for at, seconds in told if began <= at - seconds <= ended]
            one["in_the_bait"] = spread(inside) if inside else {}
    return {name: _summary(runs) for name, runs in results.items()}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    best = min(runs, key=lambda one: one["p99_ms"])
    middle = median([one["p99_ms"] for one in runs])
    inside = [one["in_the_bait"]["p99_ms"] for one in runs if one["in_the_bait"]]
    return {
        "p99_ms": middle,
        "p50_ms": median([one["p50_ms"] for one in runs]),
        "best_p99_ms": best["p99_ms"],
        "in_the_bait_p99_ms": median(inside) if inside else None,
        "server_cpu_ms": median([one["server_cpu_ms"] for one in runs]),
        "runs": runs,
    }
