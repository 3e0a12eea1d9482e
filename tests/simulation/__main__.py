"""`python -m tests.simulation --seeds N --hosts H --jobs J [--faults KINDS] [--replay SEED]`: play and judge seeds."""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.simulation.faults import FAULTS
from tests.simulation.play import Result, play, play_one
from tests.simulation.site import BAIT_CPUS

SUMMARY = Path("build/simulate/summary.json")
GROWTH = Path("build/simulate/growth.json")
SMALL, LARGE = (50, 2000), (500, 20_000)
"""Hosts and jobs of two sites whose cost for each job is compared."""
MOST_GROWTH = 1.3
TOLD_EVERY = 100
SHOWN = 3
"""So many failing seeds are told in full."""


def arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many seeds to play")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first of them")
    parser.add_argument("--hosts", type=int, default=8, metavar="H", help="hosts, each with a bait")
    parser.add_argument("--jobs", type=int, default=60, metavar="J", help="jobs of all users together")
    parser.add_argument("--faults", default="all", metavar="KINDS", help=f"all, none, or some of: {', '.join(FAULTS)}")
    parser.add_argument(
        "--bait-cpus", type=int, default=BAIT_CPUS, metavar="N", help="of each bait's node (%(default)s)"
    )
    parser.add_argument("--replay", type=int, metavar="SEED", help="play this one seed and tell its story")
    parser.add_argument("--job", default="", help="with --replay: the story of this job")
    parser.add_argument("--growth", action="store_true", help="what a job costs on 50 hosts and on 500, without faults")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """The command. 0: no violation."""
    wanted = arguments(argv)
    kinds = () if wanted.faults == "none" else tuple(wanted.faults.split(","))
    if wanted.replay is not None:
        return replay(wanted, kinds)
    if wanted.growth:
        return growth()
    began = time.monotonic()
    results = []
    for result in played(wanted, kinds):
        results.append(result)
        if len(results) % TOLD_EVERY == 0:
            bad = sum(r.bad for r in results)
            print(f"{len(results)} seeds, {bad} bad, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if result.bad and sum(r.bad for r in results) <= SHOWN:
            print(story(result, wanted), flush=True)
    summary = summed_up(results, wanted, time.monotonic() - began)
    SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    failing = [result.seed for result in results if result.bad]
    words = (f"{key} {summary[key]}" for key in summary if key != "faults")
    print(", ".join(words) + (f"; failing seeds: {failing}" if failing else ""))
    return 1 if failing else 0


def played(wanted: argparse.Namespace, kinds: tuple[str, ...]) -> Iterator[Result]:
    """All seeds, in any order."""
    all_seeds = range(wanted.first, wanted.first + wanted.seeds)
    seeds = [(seed, wanted.hosts, wanted.jobs, kinds, wanted.bait_cpus) for seed in all_seeds]
    if wanted.processes <= 1 or len(seeds) == 1:
        yield from map(play_one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(wanted.processes) as pool:
        yield from pool.imap_unordered(play_one, seeds, chunksize=1)


def replay(wanted: argparse.Namespace, kinds: tuple[str, ...]) -> int:
    """One seed, with its story."""
    result = play(wanted.replay, wanted.hosts, wanted.jobs, kinds, wanted.bait_cpus, logs=True, job=wanted.job)
    print(story(result, wanted))
    did = f"{result.virtual_s:.0f} s of virtual time, {result.calls} calls, {result.given_back} hand-backs"
    print(f"hash {result.hash}, {did}, {result.seconds:.2f} s")
    return 1 if result.bad else 0


def growth() -> int:
    """A large site against a small one: CPU seconds for each job, and their ratio. 0: it grows with the jobs alone."""
    found: dict[tuple[int, int], list[float]] = {SMALL: [], LARGE: []}
    calls: dict[tuple[int, int], float] = {}
    for site in (SMALL, SMALL, LARGE, SMALL):  # ten seconds are too short to be measured once
        hosts, jobs = site
        with multiprocessing.get_context("spawn").Pool(1) as fresh:  # none finds another's memory
            result = fresh.apply(play, (1, hosts, jobs))
        cost, calls[site] = result.seconds / jobs, result.calls / jobs
        found[site].append(cost)
        done = f"{hosts} hosts, {jobs} jobs: {result.seconds:.1f} s of CPU, {result.starts} starts"
        each = f"a job {1000 * cost:.2f} ms and {calls[site]:.0f} events"
        print(f"{done}, {each}, {'; '.join(result.breaches) or 'all done'}", flush=True)
        if result.bad:
            return 1
    costs = [statistics.median(found[site]) for site in (SMALL, LARGE)]
    ratio = costs[1] / costs[0]
    GROWTH.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "small": SMALL,
        "large": LARGE,
        "cpu_ms_per_job": [1000 * cost for cost in costs],
        "events_per_job": [calls[SMALL], calls[LARGE]],
        "ratio": ratio,
    }
    GROWTH.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"ratio {ratio:.2f}, at most {MOST_GROWTH}; of the events {calls[LARGE] / calls[SMALL]:.2f}")
    return 0 if ratio <= MOST_GROWTH else 1


def story(result: Result, wanted: argparse.Namespace) -> str:
    """What went wrong with a seed, and how to see it again."""
    head = f"seed {result.seed}: " + ("; ".join(result.breaches[:4]) or "nothing wrong")
    again = (
        f"  again: python -m tests.simulation --replay {result.seed} --hosts {wanted.hosts} --jobs {wanted.jobs} "
        f"--faults {wanted.faults} --bait-cpus {wanted.bait_cpus}"
    )
    return "\n".join([head, *([result.history] if result.history else []), again])


def summed_up(results: list[Result], wanted: argparse.Namespace, seconds: float) -> dict[str, object]:
    """build/simulate/summary.json."""
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result.faults)
    return {
        "seeds": len(results),
        "hosts": wanted.hosts,
        "jobs": wanted.jobs,
        "faults": dict(sorted(faults.items())),
        "violations": sum(len(result.breaches) for result in results),
        "jobs_lost": sum(result.jobs_lost for result in results),
        "double_runs": sum(result.double_runs for result in results),
        "double_runs_beyond_reach": sum(result.beyond_reach for result in results),
        "not_converged": sum(result.not_converged for result in results),
        "checks": sum(result.checks for result in results),
        "starts": sum(result.starts for result in results),
        "given_back": sum(result.given_back for result in results),
        "virtual_hours": round(sum(result.virtual_s for result in results) / 3600, 1),
        "cpu_seconds_per_seed": round(sum(result.seconds for result in results) / len(results), 3),
        "seconds": round(seconds, 1),
        "seeds_per_second": round(len(results) / seconds, 2),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
