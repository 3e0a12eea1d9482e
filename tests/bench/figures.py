"""What the benchmark's samples say: summaries, ratios and the bars of the project. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Contestants = Mapping[str, Mapping[str, Any]]
START = "submit_to_first_instruction_s"
READY = "end_to_ready_s"
RATE = "jobs_per_minute"
WAYS = ("wnod_unpause", "wnod_restore", "wnod_cold")


def summary(samples: Sequence[float]) -> dict[str, float | int]:
    """Median, spread and number of samples, in their own unit to the millisecond. ValueError without a sample."""
    if not samples:
        raise ValueError("no samples: a contestant without a figure is left out, not summed up")
    return {
        "median": round(statistics.median(samples), 3),
        "min": round(min(samples), 3),
        "max": round(max(samples), 3),
        "n": len(samples),
    }


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: what must hold, what was seen. `seen` and `held` are None while a figure for it is missing."""

    name: str
    text: str
    wanted: float | None
    seen: float | None
    at_most: bool

    @property
    def held(self) -> bool | None:
        if self.seen is None or self.wanted is None:
            return None
        return self.seen <= self.wanted if self.at_most else self.seen >= self.wanted

    def row(self) -> dict[str, Any]:
        """As it stands in results.json."""
        relation = "at most" if self.at_most else "at least"
        return {"name": self.name, "text": self.text, "relation": relation, "wanted": _short(self.wanted),
                "seen": _short(self.seen), "held": self.held}  # fmt: skip


def bars(contestants: Contestants, floors: Mapping[str, Mapping[str, Any]]) -> list[Bar]:
    """Every bar that one run can judge; the seconds are medians."""
    bare, boot = _median(contestants, "bare", START), _value(floors.get("boot_to_ready"))
    unpause, restore, cold = (_median(contestants, way, START) for way in WAYS)
    documented = _median(contestants, "slurm_cloud_documented", START)
    tuned = _median(contestants, "slurm_cloud_tuned", START)
    rate = contestants.get("slurm_cloud_documented", {}).get(RATE)
    return [
        Bar("unpause_extra_s", "unpause: submit to first instruction, beyond bare", 1.3, _less(unpause, bare), True),
        Bar("restore_extra_s", "restore: submit to first instruction, beyond bare", 1.8, _less(restore, bare), True),
        Bar("restore_hidden_extra_s", "restore hidden behind the move (jobs are parked at the grant): beyond bare", 1.3,
            _less(restore, bare), True),
        Bar("cold_s", "cold: at most bare + 1.1 x boot to ready + 1.3 s", _cold_limit(bare, boot), cold, True),
        Bar("documented_to_restore", "restore path against Slurm's cloud nodes as documented", 6.0,
            _over(documented, restore), False),
        Bar("tuned_to_restore", "restore path against Slurm's cloud nodes best tuned", 3.0,
            _over(tuned, restore), False),
        Bar("rate_to_documented", "jobs per minute against Slurm's cloud nodes as documented", 5.0,
            _over(best_rate(contestants), rate), False),
        Bar("recycle_s", "end of the job to a clean VM that is ready (restore path)", 1.0, _recycle(contestants), True),
    ]  # fmt: skip


def ratios(contestants: Contestants) -> dict[str, float]:
    """Each contestant's median start over that of bare, and the rivals' over each way's."""
    starts = {key: _median(contestants, key, START) for key in contestants}
    bare = starts.get("bare")
    found = {f"{key}/bare": _over(seconds, bare) for key, seconds in starts.items() if key != "bare"}
    for rival in ("slurm_cloud_documented", "slurm_cloud_tuned", "kit_ssh"):
        found |= {f"{rival}/{way}": _over(starts.get(rival), starts.get(way)) for way in WAYS}
    return {name: round(value, 2) for name, value in found.items() if value is not None}


def best_rate(contestants: Contestants) -> float | None:
    """Jobs per minute of the best of our ways."""
    rates = [contestants[way][RATE] for way in WAYS if RATE in contestants.get(way, {})]
    return max(rates, default=None)


def per_minute(jobs: int, seconds: float) -> float:
    """Jobs per minute. ValueError if no time has passed."""
    if seconds <= 0:
        raise ValueError(f"{jobs} jobs in {seconds} s: the clock stood still")
    return round(60 * jobs / seconds, 2)


def phases(rounds: int) -> list[float]:
    """Where between two looks of slurmctld each round submits: spread evenly, because it looks once a second."""
    stride = next(s for s in range(max(1, rounds // 3), rounds + 1) if _coprime(s, rounds))
    return [((number * stride) % rounds + 0.5) / rounds for number in range(rounds)]


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def _recycle(contestants: Contestants) -> float | None:
    found = [_median(contestants, way, READY) for way in ("wnod_restore", "wnod_unpause")]
    return max((value for value in found if value is not None), default=None)


def _cold_limit(bare: float | None, boot: float | None) -> float | None:
    return None if bare is None or boot is None else bare + 1.1 * boot + 1.3


def _median(contestants: Contestants, key: str, figure: str) -> float | None:
    return _value(contestants.get(key, {}).get(figure))


def _value(found: Mapping[str, Any] | None) -> float | None:
    return None if found is None else float(found["median"])


def _less(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _over(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
