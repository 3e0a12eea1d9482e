"""The chart of one run, as PNG and SVG. Needs the optional dependency group `bench`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.figures import RATE, READY, START

SVG = "http://www.w3.org/2000/svg"
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

    with_rates = any(RATE in row for row in results["contestants"].values())
    ratios = [3, 2] if with_rates else [1]
    figure, found = plt.subplots(
        1, len(ratios), figsize=(13, 5.6), gridspec_kw={"width_ratios": ratios}, layout="constrained", squeeze=False
    )
    _starts(found[0][0], results)
    if with_rates:
        _rates(found[0][1], results["contestants"])
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
    _describe(paths[1], results["contestants"])
    return paths


def _describe(path: Path, contestants: Mapping[str, Any]) -> None:
    """Words for who cannot see the drawing, and its colours turned round for who reads in the dark."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    tree = ET.parse(path)
    root = tree.getroot()
    medians = (
        f"{NAMES[key]} {contestants[key][START]['median']:.2f} s" for key in NAMES if START in contestants.get(key, {})
    )
    style = "@media (prefers-color-scheme: dark) { svg { filter: invert(1) hue-rotate(180deg) } }"
    words = {"style": style, "desc": "Medians: " + ", ".join(medians), "title": "How long a job waits for its VM"}
    for tag, text in words.items():
        element = ET.Element(f"{{{SVG}}}{tag}")
        element.text = text
        root.insert(0, element)
    tree.write(path, encoding="utf-8")


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
