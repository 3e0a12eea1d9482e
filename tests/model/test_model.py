"""The hand-off, explored: it holds as built, and every rule is needed. `python -m tests.model` prints the table."""

import pytest

from tests.model.explore import explore
from tests.model.mutants import AS_BUILT, MUTANTS, Case
from tests.model.rules import Rules


def name(case: Case) -> str:
    return f"{case.rule} {case.what}".strip()


@pytest.mark.parametrize("case", AS_BUILT, ids=name)
def test_the_promise_holds(case: Case) -> None:
    verdict = case.run()
    assert verdict.broken == "", "\n".join(verdict.story)


@pytest.mark.parametrize("case", [case for case in MUTANTS if not case.elsewhere], ids=name)
def test_without_a_rule_it_breaks_as_expected(case: Case) -> None:
    verdict = case.run()
    assert (case.expected in verdict.broken) if case.expected else verdict.broken == "", "\n".join(verdict.story)


def test_every_rule_is_in_the_table() -> None:
    assert {case.rule for case in MUTANTS} == {f"R{number}" for number in range(1, 16)}


def test_without_faults_a_job_starts_exactly_once_and_in_few_steps() -> None:
    verdict = explore(Rules())
    assert (verdict.broken, verdict.worlds < 100) == ("", True)
