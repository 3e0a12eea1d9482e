"""`python -m tests.bench`: wnod's ways to a VM against a bare node, Slurm's own cloud nodes and a prologue with ssh.

One run, one machine, the same guest, interleaved rounds. Writes build/bench/results.json and a chart; exit status 0 if
every contestant was measured. Whether the bars are held is in the results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.lab import images
from deploy.lab.lab import Lab
from deploy.lab.layout import PROJECT, Layout
from tests.bench import chart, figures, report, sshd, stopwatch
from tests.bench.cloud.configuration import Variant
from tests.bench.cloud.stand import CloudStand
from tests.bench.course import Course
from tests.bench.machine import describe
from tests.bench.site import logs
from tests.bench.stand import COLD, RESTORE, UNPAUSE, MainStand
from tests.bench.ways import Cloud, OnNode, Way, Wnod
from tests.turns import in_turn

OUT = PROJECT / "build" / "bench"
KEYS = ("bare", "wnod_cold", "wnod_restore", "wnod_unpause", "slurm_cloud_documented", "slurm_cloud_tuned", "kit_ssh")
RATED = {"bare": 120.0, "wnod_restore": 180.0, "slurm_cloud_documented": 120.0, "slurm_cloud_tuned": 45.0}
"""Whose throughput is measured, and how long at most in seconds: nobody waits for the slowest."""
REUSED_S = 75.0
HOSTS = {"wnod_cold": COLD, "wnod_restore": RESTORE, "wnod_unpause": UNPAUSE}
VARIANTS = {f"slurm_cloud_{variant.value}": variant for variant in Variant}


def layout(name: str, hosts: int) -> Layout:
    """A lab of the benchmark's own."""
    return Layout(Path(f"/var/lib/wnod-bench-{name}"), Path(f"/run/wb-{name}"), hosts)


def say(text: str) -> None:
    """One line for whoever watches, with the time."""
    print(f"-- {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Bench:
    """The stands that the chosen contestants need, and the contestants. `with Bench(keys):` ends all of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.main: MainStand
        self._stands = contextlib.ExitStack()

    def __enter__(self) -> Bench:
        try:
            self._up()
        except BaseException:
            self._stands.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Whoever presses Ctrl-C twice must not leave half a lab.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        say("ending everything")
        self._stands.close()
        for number, disposition in before.items():
            signal.signal(number, disposition)

    def _up(self) -> None:
        built = images.ensure(say, ("debian12",))["debian12"]
        main = self._lab("main", 4)
        self.main = MainStand(main, built, say, "kit_ssh" in self.keys)
        say("starting the cluster with wnod")
        self.main.up()
        self.clouds = {}
        for key in self.keys:
            if key in VARIANTS:
                say(f"starting the cluster of {key}")
                lab = self._lab(VARIANTS[key].value, 1)
                self.clouds[key] = CloudStand(lab, VARIANTS[key], built, self.main.accelerator)
                self.clouds[key].up()
        for lab in (main, *(stand.lab for stand in self.clouds.values())):
            stopwatch.prepare(lab)
        self.image = built.name

    def _lab(self, name: str, hosts: int) -> Lab:
        """A lab that nobody else uses meanwhile, and that is gone afterwards, with its logs kept."""
        lab = Lab(layout(name, hosts))
        self._stands.enter_context(in_turn(lab.layout))
        self._stands.callback(lab.purge)
        self._stands.callback(logs, lab, OUT / "logs" / name)
        return lab

    def ways(self) -> list[Way]:
        """The contestants that can be measured, in a fixed order."""
        return [self._way(key) for key in KEYS if key in self.keys]

    def _way(self, key: str) -> Way:
        if key in self.clouds:
            return Cloud(key, self.clouds[key])
        if key in ("bare", "kit_ssh"):
            return OnNode(key, self.main.lab, key.removesuffix("_ssh"))
        return Wnod(key, self.main.site, HOSTS[key])


def run(bench: Bench, rounds: int, rated: bool) -> dict[str, object]:
    """The whole course; what it found."""
    machine = describe(bench.main.accelerator.value, bench.image)
    course, ways = Course(say), bench.ways()
    floors: dict[str, list[float]] = {}

    def measure_floors() -> None:
        for name, seconds in bench.main.floors().items():
            floors.setdefault(name, []).append(seconds)

    begun = time.monotonic()
    course.rounds(ways, figures.phases(rounds), measure_floors)
    for way in ways if rated else ():
        if way.key in RATED:
            course.throughput(way, RATED[way.key])
        if way.key == "slurm_cloud_documented":
            course.throughput(way, REUSED_S, ["--partition=reuse"], f"{figures.RATE}_reusing_vms")
    machine["seconds"] = round(time.monotonic() - begun)
    rows = {key: samples.row() for key, samples in course.samples.items()}
    return report.results(rows, floors, machine)


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 if every contestant was measured in every round."""
    options = _options(argv)
    if "kit_ssh" in options.only:
        sshd.check()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))
    with Bench(options.only) as bench:
        found = run(bench, options.rounds, not options.no_rates)
    OUT.mkdir(parents=True, exist_ok=True)
    Path(OUT, "results.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2) if options.json else report.text(found))
    with contextlib.suppress(ImportError):
        say("chart: " + ", ".join(str(path.relative_to(PROJECT)) for path in chart.draw(found, OUT / "chart")))
    return 0 if _is_whole(found, options.only, options.rounds) else 1


def _is_whole(found: dict[str, object], keys: Sequence[str], rounds: int) -> bool:
    contestants = found["contestants"]
    assert isinstance(contestants, dict)
    return all(contestants.get(key, {}).get(figures.START, {}).get("n") == rounds for key in keys)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each contestant (10)")
    parser.add_argument("--only", type=_keys, default=KEYS, help=f"some of {','.join(KEYS)}")
    parser.add_argument("--no-rates", action="store_true", help="leave the jobs per minute away")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, not as a table")
    return parser.parse_args(argv)


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(text.split(","))
    if unknown := set(keys) - set(KEYS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(KEYS)}")
    return keys


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted: everything was ended, nothing was written")
