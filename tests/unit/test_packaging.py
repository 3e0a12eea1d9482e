"""The four import packages are ours, typed, and shipped in one distribution."""

import tomllib
from importlib.util import find_spec
from pathlib import Path

from wnod.doctor.finding import Verdict
from wnod.doctor.packages import OURS, check_owners

ROOT = Path(__file__).resolve().parents[2]


def test_nobody_else_has_installed_one_of_our_packages() -> None:
    findings = list(check_owners())
    assert [finding.verdict for finding in findings] == [Verdict.OK], findings


def test_the_packages_come_from_this_checkout() -> None:
    for name in OURS:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        assert Path(spec.origin).resolve().is_relative_to(ROOT), f"{name} comes from {spec.origin}"


def test_every_package_is_shipped_and_says_that_it_is_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert sorted(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == sorted(OURS)
    assert [name for name in OURS if not (ROOT / name / "py.typed").exists()] == []


def test_a_clash_with_a_package_of_the_index_is_found() -> None:
    owners = {"wnod": ["wnod"], "bait": ["wnod"], "hostmaster": ["wnod"], "protocol": ["wnod", "protocol"]}
    (finding,) = check_owners(owners, lambda package: "/opt/wnod/lib")
    assert finding.verdict is Verdict.BAD
    assert "'protocol'" in finding.text
    assert finding.remedy


def test_a_package_from_elsewhere_is_found() -> None:
    (finding,) = check_owners({}, lambda package: "/usr/lib" if package == "bait" else "/opt/wnod/lib")
    assert finding.verdict is Verdict.BAD
    assert "/usr/lib" in finding.text
