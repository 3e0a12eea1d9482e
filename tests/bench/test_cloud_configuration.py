"""The rivals' slurm.conf: the scheduler settings that everybody gets, and nothing that only a site with wnod has."""

from __future__ import annotations

import pytest

from deploy.lab.layout import Layout
from deploy.lab.slurmconf import FRAGMENT, BaitShape, slurm_conf
from tests.bench.cloud.configuration import OURS, PROGRAMS, Variant, configuration, without

NODES = [("cloud1", "10.77.1.21"), ("cloud2", "10.77.1.22")]


def settings(variant: Variant) -> dict[str, str]:
    text = configuration(slurm_conf(Layout(hosts=1), BaitShape()), variant, NODES)
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith(("NodeName", "PartitionName")))


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("name", ["SchedulerType", "SchedulerParameters", "SelectType", "DefMemPerCPU", "TreeWidth"])
def test_the_tuned_scheduler_is_applied_to_the_rivals_too(variant: Variant, name: str) -> None:
    fragment = dict(
        line.split("=", 1) for line in (FRAGMENT / "slurm.conf.fragment").read_text().splitlines() if line[:1].isalpha()
    )
    assert settings(variant)[name] == fragment[name]


@pytest.mark.parametrize("variant", Variant)
def test_nothing_of_wnod_is_left_in_it(variant: Variant) -> None:
    text = configuration(slurm_conf(Layout(hosts=1), BaitShape()), variant, NODES)
    assert "bait" not in text
    assert "vwn" not in text
    assert {line.split("=")[0] for line in text.splitlines()} & set(OURS) == {"NodeName", "PartitionName"}


@pytest.mark.parametrize("variant", Variant)
def test_no_setting_is_there_twice(variant: Variant) -> None:
    text = configuration(slurm_conf(Layout(hosts=1), BaitShape()), variant, NODES)
    names = [line.split("=")[0] for line in text.splitlines() if not line.startswith(("NodeName", "PartitionName"))]
    assert sorted(names) == sorted(set(names))


def test_the_documented_one_keeps_slurms_defaults_and_tells_addresses_by_itself() -> None:
    found = settings(Variant.DOCUMENTED)
    assert (found["SuspendTimeout"], found["ResumeTimeout"]) == ("30", "60")
    assert "PrologSlurmctld" not in found
    assert "cloud_dns" not in found["SlurmctldParameters"]
    assert settings(Variant.TUNED)["PrologSlurmctld"] == f"{PROGRAMS}/prolog"


def test_a_setting_is_left_out_whatever_its_case_and_comments_go() -> None:
    assert without("prolog=/x\n# PrologFlags\nPrologFlags=Alloc\n\n", ["Prolog"]) == ["PrologFlags=Alloc"]
