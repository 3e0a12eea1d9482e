"""The figures as a table: what was measured, what it compares to, the bar, and whether it is reached."""

from collections.abc import Iterator
from typing import Any

Row = tuple[str, str, str, str]


def table(results: dict[str, Any]) -> str:
    """For the terminal."""
    rows = [("measured", "figure", "bar", "reached"), *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in rows)


def _yes(reached: bool) -> str:
    return "yes" if reached else "NO"


def _rows(results: dict[str, Any]) -> Iterator[Row]:
    parts = {"journal": _journal, "srvmsg": _srvmsg, "interceptions": _hook, "thousand_vms": _vms, "restart": _restart}
    for name, rows in parts.items():
        if name in results:
            yield from rows(results[name])


def _journal(part: dict[str, Any]) -> Iterator[Row]:
    yield "journal, commits/s", f"{part['journal']['commits_per_s']}", "", ""
    yield "  SQLite alone, same pragmas", f"{part['sqlite']['commits_per_s']} (x {part['ratio']})", "", ""
    yield "  records/s in groups of 100", f"{part['journal']['records_per_s_in_groups_of_100']}", "", ""


def _srvmsg(part: dict[str, Any]) -> Iterator[Row]:
    ours, floor = part["srvmsg"], part["twisted_tls"]["requests_per_s"]
    reached = ours["requests_per_s"] >= 20_000 or ours["requests_per_s"] * 2 >= floor
    yield "SrvMsg over TLS, window 64, requests/s", f"{ours['requests_per_s']}", ">= 20000 or floor / 2", _yes(reached)
    yield "  p99", f"{ours['p99_ms']:.2f} ms", "", ""
    for name, words in (("twisted_tls", "Twisted TLS echo, same sizes"), ("blocking_tls", "blocking ssl, same sizes")):
        yield f"  floor: {words}", f"{part[name]['requests_per_s']} (p99 {part[name]['p99_ms']:.2f} ms)", "", ""


def _hook(part: dict[str, Any]) -> Iterator[Row]:
    words = {
        "connected": "500 interceptions at once, connected before: p99",
        "connecting": "  connecting at once: p99",
    }
    for name, what in words.items():
        figure = f"{part[name]['p99_ms']:.1f} ms (p50 {part[name]['p50_ms']:.1f})"
        yield what, figure, "< 50 ms", _yes(part[name]["p99_ms"] < 50)
    real = part["starters"]
    inside = real["in_the_bait_p99_ms"]
    yield "  500 real starter processes, the bait's part: p99", f"{inside:.1f} ms", "< 50 ms", _yes(inside < 50)
    yield "    with the starters' wait for a processor: p99", f"{real['p99_ms']:.1f} ms", "", ""
    yield "  floor: line echo, connecting at once: p99", f"{part['floor']['p99_ms']:.1f} ms", "", ""


def _vms(part: dict[str, Any]) -> Iterator[Row]:
    event = part["event_to_state"]
    yield (
        "1000 VMs, event to state: p99",
        f"{event['p99_ms']:.1f} ms (p50 {event['p50_ms']:.1f})",
        "<= 50 ms",
        _yes(event["p99_ms"] <= 50),
    )
    yield "  RSS", f"{part['rss_mib']:.0f} MiB", "<= 120 MB", _yes(part["rss_mib"] * 1.048576 <= 120)
    yield "  idle", f"{part['idle_cpu_percent']:.2f} % of a core", "<= 1 %", _yes(part["idle_cpu_percent"] <= 1)


def _restart(part: dict[str, Any]) -> Iterator[Row]:
    yield "kill -9 with 1000 leases: ready again", f"{part['ready_s']:.2f} s", "<= 2 s", _yes(part["ready_s"] <= 2)
    yield "  all taken up again", f"{part['taken_up_s']:.2f} s", "<= 2 s", _yes(part["taken_up_s"] <= 2)
