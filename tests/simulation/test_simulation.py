"""A few days in the life of simulated clusters; `python -m tests.simulation` plays thousands."""

import os
import subprocess
import sys

import pytest

from tests.model.mutants import MUTANTS as EXPLORED
from tests.simulation.cluster import Cluster
from tests.simulation.faults import FAULTS
from tests.simulation.judge import Judge
from tests.simulation.mutants import MUTANTS, Mutant, found_out
from tests.simulation.nemesis import Nemesis
from tests.simulation.play import Result, play, stand_ins
from tests.simulation.table import RULES

HASH = "from tests.simulation.play import play; print(play({seed}, 3, 12, ('all',)).hash)"


def well(result: Result) -> None:
    """Nothing went wrong, or the story of what did."""
    assert not result.breaches, f"seed {result.seed}: {result.breaches}\n{result.history}"


def test_a_day_without_faults_starts_each_job_once() -> None:
    result = play(1, 8, 60)
    well(result)
    assert result.starts == 60


@pytest.mark.parametrize("kind", sorted(FAULTS))
def test_a_day_with_one_kind_of_faults(kind: str) -> None:
    result = play(7, 4, 16, (kind,))
    well(result)
    assert result.faults[kind] > 0


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_a_day_with_faults_of_all_kinds(seed: int) -> None:
    well(play(seed, 8, 60, ("all",)))


@pytest.mark.parametrize("mutant", [mutant for mutants in MUTANTS.values() for mutant in mutants], ids=lambda m: m.what)
def test_daemons_without_a_rule_are_found_out(mutant: Mutant) -> None:
    """The simulation is worth its time only if it notices what it is there to notice."""
    assert found_out(mutant) is not None


def test_every_rule_has_a_mutant_that_the_model_or_the_simulator_is_to_notice() -> None:
    assert {case.rule for case in EXPLORED if case.expected} | set(MUTANTS) == set(RULES)


def test_a_day_is_the_same_whenever_it_is_played() -> None:
    here = play(42, 3, 12, ("all",)).hash
    hashes = {here, play(42, 3, 12, ("all",)).hash}
    for seed in ("1", "2"):
        command = [sys.executable, "-c", HASH.format(seed=42)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        hashes.add(done.stdout.strip())
    assert hashes == {here}
    assert play(43, 3, 12, ("all",)).hash != here


def test_a_fault_that_is_not_known_is_named() -> None:
    with stand_ins(), pytest.raises(ValueError, match="unknown faults \\['earthquake'\\]"):
        Nemesis(Cluster(1, 1, Judge()), ("earthquake",), FAULTS)
