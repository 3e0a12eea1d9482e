"""results.json of one run, and the same as text for whoever watches. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench import figures


def results(
    contestants: Mapping[str, Mapping[str, Any]],
    floors: Mapping[str, Sequence[float]],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything one run has found, with every bar it can judge."""
    summed = {name: figures.summary(seconds) for name, seconds in floors.items() if seconds}
    return {
        "contestants": {key: dict(row) for key, row in contestants.items()},
        "floors": summed,
        "ratios": figures.ratios(contestants),
        "bars": [bar.row() for bar in figures.bars(contestants, summed)],
        "machine": dict(machine),
    }


def text(found: Mapping[str, Any]) -> str:
    """The results as a table, and the bars as lines."""
    lines = [
        f"{'contestant':24} {'first instruction, s':>28} {'again, s':>9} {'jobs/min':>9} {'cpu s/job':>10} {'MiB':>6}"
    ]
    for key, row in found["contestants"].items():
        lines.append(
            f"{key:24} {_spread(row.get(figures.START)):>28} {_median(row.get(figures.READY)):>9} "
            f"{_number(row.get(figures.RATE)):>9} {_median(row.get('cpu_s_per_job')):>10} "
            f"{_median(row.get('memory_mib')):>6}"
        )
    lines += [_stages(key, row["stages_s"]) for key, row in found["contestants"].items() if "stages_s" in row]
    lines += [f"floor {name:18} {_spread(value):>28}" for name, value in found["floors"].items()]
    return "\n".join([*lines, "", *(_bar(row) for row in found["bars"])])


def _stages(key: str, stages: Mapping[str, Mapping[str, float]]) -> str:
    reached = sorted((value["median"], name) for name, value in stages.items())
    return f"  {key}: " + ", ".join(f"{name} {seconds:.2f}" for seconds, name in reached)


def _bar(row: Mapping[str, Any]) -> str:
    verdict = {True: "held", False: "NOT HELD", None: "not seen"}[row["held"]]
    return f"{verdict:9} {row['text']}: {_number(row['seen'])}, wanted {row['relation']} {_number(row['wanted'])}"


def _spread(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else f"{value['median']:.2f} ({value['min']:.2f}-{value['max']:.2f}, n={value['n']})"


def _median(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else _number(value["median"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
