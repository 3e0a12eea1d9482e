"""Alerts and the dashboard: they ask for numbers that exist, that somebody sets, and name sections that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from protocol.messages import Code, VmPhase
from wnod.config import load_bait, load_hostmaster, split_address
from wnod.metrics import BAIT, COMMON, HOSTMASTER, STAGES, Spec

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((PROMETHEUS / "wnod-alerts.yml").read_text())["groups"] for rule in group["rules"]
]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "wnod.json").read_text())
TARGETS = [(panel["title"], target["expr"]) for panel in BOARD["panels"] for target in panel.get("targets", [])]
EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in RULES] + TARGETS
SPECS = {spec.name: spec for spec in (*COMMON, *HOSTMASTER, *BAIT)}
LATER = {"le", "instance", "job"}
"""Labels that Prometheus itself adds."""


def spec_of(series: str) -> Spec | None:
    return SPECS.get(series) or SPECS.get(re.sub(r"_(bucket|sum|count)$", "", series))


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_only_series_and_labels_that_exist_are_asked_for(name: str, expression: str) -> None:
    series = re.findall(r"\bwnod_\w+", expression)
    assert series or "up{" in expression
    allowed = set(LATER)
    for one in series:
        spec = spec_of(one)
        assert spec, f"{one} is in no table of wnod/metrics.py"
        assert one.endswith("_bucket") == (spec.kind == "histogram")
        allowed |= set(spec.labels)
    grouped = re.findall(r"(?:by|ignoring) \(([^)]*)\)", expression)
    asked = {word.strip() for words in grouped for word in words.split(",")}
    asked |= set(re.findall(r"[{,](\w+)[!=]~?=?\"", expression))
    assert asked <= allowed, f"{asked - allowed} are no labels of {series}"


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_counters_are_never_read_raw(name: str, expression: str) -> None:
    for series in re.findall(r"\bwnod_\w+(?:_total|_bucket)\b", expression):
        assert re.search(rf"(?:rate|increase)\({series}\b", expression), f"{series} needs rate() or increase()"


def labels(name: str) -> set[str]:
    return {
        value
        for _, expression in EXPRESSIONS
        for values in re.findall(rf'\b{name}="([^"$]+)"', expression)
        for value in values.split("|")
    }


def test_label_values_are_words_of_the_code() -> None:
    leases = set(re.findall(r'^    [A-Z]+ = "(\w+)"', (ROOT / "bait" / "rules" / "lease.py").read_text(), re.MULTILINE))
    assert labels("phase") <= {*map(str, VmPhase)} | leases
    assert labels("code") <= {*map(str, Code)}
    assert labels("stage") <= {*STAGES}


def sections() -> set[str]:
    return set(re.findall(r"^## (.+)$", (ROOT / "docs" / "troubleshoot.md").read_text(), re.MULTILINE))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    (section,) = re.findall(r"troubleshoot\.md: (.+)$", rule["annotations"]["description"])
    assert section in sections()


def test_the_scrape_example_asks_the_default_ports(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "configure.md").read_text()
    smallest = dict(reversed(re.findall(r"```yaml\n# (hostmaster|bait)\.yaml\n(.*?)```", text, re.DOTALL)))
    ports = set()
    for kind, load in (("hostmaster", load_hostmaster), ("bait", load_bait)):
        (tmp_path / f"{kind}.yaml").write_text(smallest[kind])
        address = load(str(tmp_path / f"{kind}.yaml")).metrics
        assert address is not None
        ports.add(split_address(address)[1])
    jobs = yaml.safe_load((PROMETHEUS / "scrape.yml").read_text())["scrape_configs"]
    targets = {
        int(target.rpartition(":")[2]) for job in jobs for one in job["static_configs"] for target in one["targets"]
    }
    assert targets == ports


def test_panels_do_not_overlap_and_have_their_own_ids() -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            assert x < 24
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in cells, f"{panel['title']} lies on {cells[x, y]}"
                cells[x, y] = panel["title"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_understands_its_files(tmp_path: Path) -> None:
    for path in PROMETHEUS.glob("*.yml"):
        shutil.copy(path, tmp_path)
    queries = [{"alert": f"Panel{i}", "expr": re.sub(r"\$instance", ".*", q)} for i, (_, q) in enumerate(TARGETS)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": queries}]}))
    for argv in (
        ["promtool", "check", "config", "--syntax-only", str(tmp_path / "scrape.yml")],
        ["promtool", "check", "rules", str(tmp_path / "wnod-alerts.yml"), str(tmp_path / "panels.yml")],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def alarmed(directory: Path, alert: str, at: str, series: dict[str, str], expected: str) -> str:
    """What `promtool test rules` says of that alert after these samples, one a minute. Empty: it is as expected."""
    shutil.copy(PROMETHEUS / "wnod-alerts.yml", directory)
    assert alert in {rule["alert"] for rule in RULES}
    tests = {
        "rule_files": ["wnod-alerts.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                        "eval_time": at,
                        "exp_samples": [{"labels": "{}", "value": float(expected)}],
                    }
                ],
            }
        ],
    }
    (directory / "test.yml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", str(directory / "test.yml")], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize(("long", "expected"), [("0x99", "0"), ("0x50 1x49", "1")])
def test_a_busy_bait_through_which_jobs_pass_all_the_time_wakes_nobody(
    tmp_path: Path, long: str, expected: str
) -> None:
    series = {
        'wnod_bait_leases{instance="h1", phase="parked"}': "3x99",
        'wnod_bait_jobs_parked_long{instance="h1"}': long,
    }
    assert alarmed(tmp_path, "WnodJobsParkedLong", "90m", series, expected) == ""


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_a_host_that_was_never_connected_is_alarmed(tmp_path: Path) -> None:
    series = {'wnod_link_connected{instance="h1", peer="h1"}': "0x9"}
    assert alarmed(tmp_path, "WnodLinkDown", "5m", series, "1") == ""
