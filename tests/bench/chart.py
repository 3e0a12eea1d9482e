"""The chart of one run, as PNG and SVG. Needs the optional dependency group `bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.figures import RATE, READY, START

NAMES = {
    "bare": "bare slurmd",
    "wnod_unpause": "wnod: unpause",
    "wnod_restore": "wnod: restore",
    "wnod_cold": "wnod: cold boot",
    "kit_ssh": "prologue + ssh (KIT)",
    "slurm_cloud_tuned": "Slurm cloud, tuned",
    "slurm_cloud_documented": "Slurm cloud, documented",
}
FLOORS = {
    "resume": "virsh resume",
    "restore": "virsh restore",
    "create": "virsh create",
    "boot_to_ready": "virsh create to registered",
}
OURS, RIVAL, BASE, FLOOR = "#1b7f79", "#c8553d", "#3d405b", "#9a9a9a"


def draw(results: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write STEM.png and STEM.svg; their paths."""
    import matplotlib as mpl  # noqa: PLC0415 - only `make bench` installs it

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "wnod"
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice above

    figure, (starts, rates) = plt.subplots(
        1, 2, figsize=(13, 5.6), gridspec_kw={"width_ratios": [3, 2]}, layout="constrained"
    )
    _starts(starts, results)
    _rates(rates, results["contestants"])
    machine = results["machine"]
    rounds = max((row[START]["n"] for row in results["contestants"].values() if START in row), default=0)
    figure.suptitle(
        f"One guest, one machine ({machine['cpus']} CPUs, {machine['accelerator'].upper()}), one run: "
        f"{rounds} interleaved rounds, median and range"
    )
    paths = [stem.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=130)
    plt.close(figure)
    return paths


def _starts(axes: Any, results: Mapping[str, Any]) -> None:
    contestants, floors = results["contestants"], results["floors"]
    rows = [
        (label, contestants[key][START], _colour(key))
        for key, label in NAMES.items()
        if START in contestants.get(key, {})
    ]
    rows += [(label, floors[key], FLOOR) for key, label in FLOORS.items() if key in floors]
    _bars(axes, rows, "{:.2f} s")
    axes.set_xlabel(
        "seconds from sbatch to the job's first instruction (logarithmic);\ngrey: the raw command, no batch system"
    )
    axes.set_title("How long a job waits for its VM", loc="left", fontsize=11)


def _rates(axes: Any, contestants: Mapping[str, Any]) -> None:
    rows = []
    for key, label in NAMES.items():
        row = contestants.get(key, {})
        if RATE in row:
            rows.append((label, {"median": row[RATE]}, _colour(key)))
        if (reused := row.get(f"{RATE}_reusing_vms")) is not None:
            rows.append((f"{label},\nVMs used again", {"median": reused}, "#e3a99c"))
    _bars(axes, rows, "{:.1f}")
    label = "short jobs per minute on one host (logarithmic)"
    ready = contestants.get("wnod_unpause", {}).get(READY)
    if ready:
        label += f"\nwnod: {ready['median']:.2f} s from a job's end to the next clean VM"
    axes.set_xlabel(label)
    axes.set_title("40 short jobs (pale: VMs used again)", loc="left", fontsize=11)


def _bars(axes: Any, rows: Sequence[tuple[str, Mapping[str, float], str]], form: str) -> None:
    """Horizontal bars from the top, on a logarithmic axis, with the range as whiskers."""
    for place, (_, value, colour) in enumerate(rows):
        median = value["median"]
        axes.barh(place, median, color=colour, height=0.62)
        low, high = value.get("min", median), value.get("max", median)
        if high > low:
            axes.plot([low, high], [place, place], color="black", linewidth=1.2, marker="|", markersize=9)
        axes.text(high * 1.1, place, form.format(median), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    if rows:
        values = [
            value for _, row, _ in rows for value in (row.get("min", row["median"]), row.get("max", row["median"]))
        ]
        axes.set_xlim(min(values) / 2, max(values) * 2.5)
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(key: str) -> str:
    return BASE if key == "bare" else OURS if key.startswith("wnod") else RIVAL
