"""The lab's slurm.conf as text, and the layout it is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab import slurmconf
from deploy.lab.layout import Layout

LAYOUT = Layout(Path("/r"), Path("/run/r"), hosts=3)


def settings(text: str) -> dict[str, str]:
    """key -> value of the one-line settings; repeated keys are a mistake except for nodes and partitions."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if line and not line.startswith("#") and key not in {"NodeName", "PartitionName", "NodeSet"}:
            assert key not in found, f"{key} is set twice"
            found[key] = value
    return found


def test_every_host_has_a_bait() -> None:
    text = slurmconf.slurm_conf(LAYOUT, slurmconf.BaitShape(cpus=6))
    lines = [line for line in text.splitlines() if line.startswith("NodeName=")]
    assert [line.split()[0] for line in lines] == ["NodeName=bait-h1", "NodeName=bait-h2", "NodeName=bait-h3"]
    assert all(" CPUs=6 " in line and "Feature=bait,debian12,debian12-sci,retired6" in line for line in lines)


def test_the_fragment_is_used_unchanged_and_nothing_contradicts_it() -> None:
    text = slurmconf.slurm_conf(LAYOUT, slurmconf.BaitShape(), ("Extra=1",))
    assert (slurmconf.FRAGMENT / "slurm.conf.fragment").read_text() in text
    found = settings(text)
    assert (found["RequeueExit"], found["RequeueExitHold"], found["Extra"]) == ("198", "199", "1")


def test_prolog_and_epilog_are_the_files_that_are_installed() -> None:
    found = settings(slurmconf.slurm_conf(LAYOUT, slurmconf.BaitShape()))
    for key, name in (("Prolog", "prolog"), ("Epilog", "epilog")):
        assert found[key] == f"/usr/libexec/wnod/{name}"
        assert (slurmconf.FRAGMENT / name).stat().st_mode & 0o111


@pytest.mark.parametrize(("name", "options"), [("plugstack.conf", "clean refuse"), ("plugstack-vm.conf", "user run")])
def test_plugstack_is_required_and_says_where_user_code_may_run(name: str, options: str) -> None:
    words = (slurmconf.FRAGMENT / name).read_text().splitlines()[-1].split()
    env, steps = options.split()
    assert words[0] == "required"
    assert {f"env={env}", f"steps={steps}"} <= set(words)


def test_an_unknown_node_is_named_with_those_that_exist() -> None:
    with pytest.raises(KeyError, match="h1, h2, h3"):
        LAYOUT.node("h9")
