"""`python -m deploy.demo`: exit status 0 only if everything became of the jobs that was to become of them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from deploy.demo import judge, ledger, play
from deploy.demo.judge import Job
from deploy.demo.picture import Screen, table
from deploy.demo.stage import Stage
from deploy.lab.lab import Lab
from deploy.lab.layout import PROJECT

OUT = PROJECT / "build" / "demo"
RATIO_LIMIT = 1.5
ZEROES = ("jobs_lost", "jobs_run_twice", "jobs_run_on_bait", "vms_left", "overlays_left", "nodes_left")


def say(text: str) -> None:
    """One line for whoever watches."""
    print(f"-- {text}", flush=True)


def tell_bait_count(stage: Stage, name: str) -> int:
    """How often all baits together have been closed or opened since their daemons started."""
    return int(sum(stage.metric(host, "bait", f"wnod_bait_{name}_total") for host in stage.lab.hosts))


def run(stage: Stage) -> tuple[dict[str, Any], list[Job], list[ledger.Page]]:
    """The whole demo on a stage that is up; everything it found."""
    latency = play.latency(stage, say)
    before = {name: tell_bait_count(stage, name) for name in ("closed", "opened")}
    begun = time.time()
    jobs = play.perform(stage, Screen())
    left = play.settle(stage, jobs)
    seconds = round(time.time() - begun, 1)
    pages = [page for page in ledger.read(stage.ledger) if not page.case.startswith("cold-")]
    status = stage.site.daemon_status("h1", "hostmaster")
    summary = {
        **judge.counts(jobs, pages),
        "baits_closed": tell_bait_count(stage, "closed") - before["closed"],
        "baits_reopened": tell_bait_count(stage, "opened") - before["opened"],
        **{f"{name}_left": number for name, number in left.items()},
        "seconds": seconds,
        "seconds_by_stage": judge.stage_seconds(jobs),
        "latency": latency,
        "accelerator": status["accelerator"],
        "accelerator_reason": status["accelerator_reason"],
        "hosts": stage.lab.hosts,
        "complaints": {f"{j.id} {j.case.name}": w for j in jobs if (w := judge.complaints(j, pages))},
    }
    return summary, jobs, pages


def verdict(summary: dict[str, Any]) -> list[str]:
    """Why the demo failed; empty if it did not."""
    wrong = [f"{name} = {summary[name]}, expected 0" for name in ZEROES if summary[name]]
    wrong += [f"{name} = 0: no bait ever did" for name in ("baits_closed", "baits_reopened") if not summary[name]]
    wrong += [f"job {job}: {'; '.join(what)}" for job, what in summary["complaints"].items()]
    ratio = summary["latency"]["ratio"]
    if ratio > RATIO_LIMIT:
        wrong.append(f"interception to user code takes {ratio} x the raw boot, expected at most {RATIO_LIMIT}")
    return wrong


def show(summary: dict[str, Any], jobs: list[Job], pages: list[ledger.Page]) -> None:
    """The tables at the end. Stage times are seconds since the bait's interception."""
    print("\n" + table([judge.row(job, pages) for job in jobs]))
    print("\n" + table([{"stage": name, **figures} for name, figures in summary["seconds_by_stage"].items()]))
    latency = summary["latency"]
    print(
        f"\nraw virsh create to idle in Slurm {latency['floor_s']:.2f} s, "
        f"interception to user code in a cold VM {latency['interception_to_user_code_s']:.2f} s: "
        f"{latency['ratio']:.2f} x"
    )
    print("  ".join(f"{name}={summary[name]}" for name in ("jobs_submitted", "jobs_ended_in_vm", *ZEROES)))
    print(f"baits closed {summary['baits_closed']} times, reopened {summary['baits_reopened']} times; "
          f"accelerator {summary['accelerator']}")  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the demo and write build/demo/summary.json."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards (make lab-down ends it)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON at the end")
    options = parser.parse_args(argv)
    stage = Stage(Lab(), say)
    wrong = ["the demo did not come to its end"]
    try:
        stage.up()
        summary, jobs, pages = run(stage)
        OUT.mkdir(parents=True, exist_ok=True)
        Path(OUT, "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        show(summary, jobs, pages)
        wrong = verdict(summary)
        if options.json:
            print(json.dumps(summary))
    finally:
        if not options.keep:
            stage.down(OUT / "logs" if wrong else None)
    for line in wrong:
        print(f"demo: {line}", file=sys.stderr)
    print("demo: FAILED" if wrong else "demo: all as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
