"""`python -m tests.torture --minutes M --seed S`: real jobs, real faults, and a judge who asks nothing of wnod.

Exit code 0 only if no job was lost, none ran twice or once too often, nothing is left behind, and there were at least
ten faults per minute. The figures are in build/torture/summary.json, after a breach the logs in build/torture/logs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from deploy.lab.lab import Lab
from deploy.lab.layout import PROJECT, Layout
from tests.torture import judge, ledger, plan, witness
from tests.torture.ground import Ground
from tests.torture.judge import Breach, Evidence
from tests.torture.storm import Storm
from tests.torture.users import Users

OUT = PROJECT / "build" / "torture"
LAYOUT = Layout(Path("/var/lib/wnod-lab-torture"), Path("/run/wlt"), hosts=2)
FAULTS_PER_MINUTE = 10
TELL_S, TELL_ANYWAY_S = 5.0, 60.0
DRAIN_S, CLEAN_S = 1500.0, 1200.0
"""Other baits wait 15 minutes before they take a job for left alone: so long may it take."""
HOPELESS_S = 200.0
"""When a daemon has ended for good."""


def say(text: str) -> None:
    """One line for whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Course:
    """One run, from the first job to the verdict."""

    def __init__(self, ground: Ground, seed: int, faults: list[plan.Fault]) -> None:
        self.ground = ground
        self.seed = seed
        self.storm = Storm(ground, faults)
        self.users = Users(ground, seed, self.storm.hits)
        self.begun = time.monotonic()
        self.spent: dict[str, float] = {}
        self.left: dict[str, int] = {}

    def run(self) -> None:
        """Storm, drain, clean; each with a line every few seconds."""
        self.ground.supervisor.begin()
        self.users.begin()
        self.storm.begin()
        self._until("storm", lambda: self.storm.over, float("inf"))
        self.storm.stop()
        self.users.submit_no_more()
        self._until("drain", lambda: not self.users.waiting() and self.users.looked > self._at("drain"), DRAIN_S)
        self.users.stop()
        self._until("clean", self._is_clean, CLEAN_S)

    def _is_clean(self) -> bool:
        self.left = witness.left_behind(self.ground)
        return not any(self.left.values())

    def _at(self, phase: str) -> float:
        return self.spent.get(f"{phase}-begun", float("inf"))

    def _until(self, phase: str, done: Callable[[], bool], limit: float) -> None:
        begun, told, before = time.monotonic(), 0.0, ""
        self.spent[f"{phase}-begun"] = begun
        while not done() and time.monotonic() - begun < self._patience(limit):
            now = self.picture(phase)
            if time.monotonic() - told > (TELL_S if now != before else TELL_ANYWAY_S):
                told, before = time.monotonic(), now
                say(f"{phase} {told - self.begun:.0f} s: {now}")
            time.sleep(0.5)
        del self.spent[f"{phase}-begun"]
        self.spent[phase] = round(time.monotonic() - begun, 1)

    def _patience(self, limit: float) -> float:
        hopeless = self.ground.supervisor.given_up and limit != float("inf")
        return HOPELESS_S if hopeless else limit

    def picture(self, phase: str) -> str:
        """One line."""
        states = Counter(row.state for row in list(self.users.rows.values()))
        words = " ".join(f"{state.lower()} {number}" for state, number in sorted(states.items()))
        more = f"; broken: {', '.join(self.storm.now.values())}" if self.storm.now else ""
        if phase == "clean":
            more = f"; left: {', '.join(f'{kind} {n}' for kind, n in self.left.items() if n)}"
        elif phase == "drain":
            more = f"; waits: {', '.join(f'{r.name}/{r.task} {r.state} {r.reason}' for r in self.users.waiting()[:5])}"
        return f"{len(self.storm.hits)} faults; jobs: {words}{more}"

    def evidence(self) -> Evidence:
        """For the judge."""
        self.users.look()
        runs = ledger.read(self.ground.ledger)
        return Evidence(self.users.submissions, self.users.deeds, self.storm.hits, list(self.users.rows.values()), runs)

    def stop(self) -> None:
        """Nothing of it goes on. Idempotent."""
        self.storm.stop()
        self.users.stop()
        self.ground.supervisor.stop()


def summed_up(course: Course, seen: Evidence, breaches: list[Breach], left: dict[str, int]) -> dict[str, Any]:
    """What build/torture/summary.json says."""
    kinds = Counter(breach.kind for breach in breaches)
    return {
        "seed": course.seed,
        "jobs": sum(len(one.tasks) for one in seen.submissions if one.sure),
        "starts": len(seen.runs),
        "fault_count": len(seen.hits),
        "faults": course.storm.kinds(),
        "jobs_lost": kinds["lost"],
        "double_runs": kinds["double"],
        "starts_over_budget": kinds["over_budget"],
        "ran_on_bait": kinds["on_bait"],
        "left_behind": left,
        "anomalies": course.ground.anomalies,
        "given_up": {f"{name}@{where}": code for (where, name), code in course.ground.supervisor.given_up.items()},
        "restarts": dict(course.ground.supervisor.restarts),
        "forgotten_by_slurm": _forgotten(seen),
        "states": dict(Counter(row.state for row in seen.rows)),
        "missed": course.storm.missed,
        "seconds": course.spent.get("storm", 0.0),
        "seconds_by_phase": course.spent,
    }


def _forgotten(seen: Evidence) -> int:
    known = {row.name for row in seen.rows}
    gone = [one for one in seen.submissions if one.sure and one.name not in known]
    return sum(judge.forgotten(one, seen.hits) for one in gone)


def wrong(summary: dict[str, Any], minutes: float) -> list[str]:
    """Why the exit code is not 0; empty if it is."""
    zeroes = ("jobs_lost", "double_runs", "starts_over_budget", "ran_on_bait")
    found = [f"{name} = {summary[name]}" for name in zeroes if summary[name]]
    found += [f"left behind: {kind} {number}" for kind, number in summary["left_behind"].items() if number]
    found += [f"{daemon} gave up with {code}" for daemon, code in summary["given_up"].items()]
    found += summary["anomalies"]
    if summary["fault_count"] < FAULTS_PER_MINUTE * minutes:
        found.append(f"only {summary['fault_count']} faults, expected {FAULTS_PER_MINUTE * minutes:.0f}")
    return found


def tell(course: Course, seen: Evidence, breaches: list[Breach]) -> None:
    """The history of each breach from both sides."""
    rows = {row.key: row for row in seen.rows}
    for key in dict.fromkeys(breach.key for breach in breaches):
        print(f"\n=== {key[0]}/{key[1]}")
        lines = [str(breach) for breach in breaches if breach.key == key]
        submitted = next(one for one in seen.submissions if one.name == key[0])
        lines += [str(submitted), *(f"user: {deed}" for deed in seen.deeds if deed.name == key[0])]
        runs = ledger.of(seen.runs, key)
        lines += [f"ledger: {run}" for run in runs]
        lines += [f"fault: {hit}" for hit in seen.hits if any(judge.hits(hit, run) for run in runs)]
        job = rows[key].job if key in rows else (runs[0].job if runs else "")
        lines += witness.history(course.ground, key, job) if job else []
        print("\n".join(lines), flush=True)


def play(course: Course, minutes: float) -> int:
    """Run it and write down what came of it; the exit code."""
    course.run()
    seen = course.evidence()
    breaches = judge.judge(seen)
    left = course.left
    summary = summed_up(course, seen, breaches, left)
    tell(course, seen, breaches)
    for line in witness.left_words(course.ground) if any(left.values()) else ():
        print(f"left behind: {line}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (OUT / "faults.txt").write_text("\n".join(map(str, seen.hits)) + "\n")
    problems = wrong(summary, minutes)
    print(json.dumps({key: value for key, value in summary.items() if key not in ("faults", "missed")}))
    for problem in problems:
        print(f"torture: {problem}", file=sys.stderr)
    print("torture: FAILED" if problems else "torture: nothing lost, nothing run twice, nothing left behind")
    return 1 if problems else 0


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults come (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which storm (default %(default)s)")
    parser.add_argument("--kinds", default="", help=f"only these, with commas, of: {', '.join(plan.NAMES)}")
    parser.add_argument("--plan", action="store_true", help="print the storm's faults and do nothing")
    options = parser.parse_args(argv)
    kinds = options.kinds.split(",") if options.kinds else plan.NAMES
    ground = Ground(Lab(LAYOUT), say)
    faults = plan.draw(options.seed, options.minutes * 60, ground.lab.hosts, kinds)
    if options.plan:
        print("\n".join(f"{fault.at:7.1f} s {fault}" for fault in faults))
        return 0
    signal.signal(signal.SIGTERM, _interrupted)
    return _with_lab(ground, options, faults)


def _with_lab(ground: Ground, options: argparse.Namespace, faults: list[plan.Fault]) -> int:
    code, course = 1, None
    try:
        ground.up()
        course = Course(ground, options.seed, faults)
        code = play(course, options.minutes)
    except KeyboardInterrupt:
        code = 130
        print("torture: stopped; cleaning up", file=sys.stderr)
    finally:
        if course is not None:
            course.stop()
        if code:
            witness.keep_logs(ground, OUT / "logs")
            print(f"torture: the lab's logs are in {OUT / 'logs'}", file=sys.stderr)
        if not os.environ.get("WNOD_TORTURE_KEEP"):
            ground.lab.purge()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
