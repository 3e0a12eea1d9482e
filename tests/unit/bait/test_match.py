"""What a job wants: the user's words, then the site's rules, then the environment's own default."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from bait.rules.match import Impossible, Wanted, match
from protocol.ids import EnvironmentName, Shape
from protocol.messages import Offer
from tests.unit.bait.records import DEBIAN, a_job, an_offer
from wnod.config import Rule

ROCKY = EnvironmentName("rocky9")
ONE = {DEBIAN: an_offer()}
TWO = {DEBIAN: an_offer(), ROCKY: an_offer(ROCKY)}


def wanted(offers: dict[EnvironmentName, Offer], rules: tuple[Rule, ...] = (), **job: Any) -> Wanted:
    result = match(a_job(**job), rules, offers)
    assert isinstance(result, Wanted), result
    return result


def impossible(offers: dict[EnvironmentName, Offer], rules: tuple[Rule, ...] = (), **job: Any) -> str:
    result = match(a_job(**job), rules, offers)
    assert isinstance(result, Impossible), result
    return result.text


def test_a_job_that_says_nothing_gets_the_only_environment_and_its_usual_shape() -> None:
    assert wanted(ONE) == Wanted(DEBIAN, ONE[DEBIAN].usual)


@pytest.mark.parametrize("field", sorted({f.name for f in fields(Rule)} - {"partition", "account", "user"}))
def test_whatever_a_rule_can_give_a_job_gets(field: str) -> None:
    """`time_limit_s` could be configured, and nothing ever looked at it."""
    given = ROCKY if field == "environment" else 1000
    rules = (Rule(**{field: given}), Rule(environment=DEBIAN))
    assert wanted(TWO, rules) != wanted(TWO, rules[1:])


def test_a_job_that_says_nothing_among_several_environments_is_told_their_names() -> None:
    assert "debian12, rocky9" in impossible(TWO)


@pytest.mark.parametrize("wishes", ["rocky9", "(rocky9)", "[rocky9]", "rocky9|debian12", "centos7|rocky9"])
def test_the_first_offered_alternative_of_the_wish_is_taken(wishes: str) -> None:
    assert wanted(TWO, wishes=wishes).environment == ROCKY


def test_an_alternative_that_this_host_cannot_make_now_gives_way_to_one_that_it_can() -> None:
    """The first was asked for all the same, denied, and the job came back every minute to hear it again."""
    broken = {DEBIAN: an_offer(available=False), ROCKY: an_offer(ROCKY, tags=("numpy",))}
    assert wanted(broken, wishes="debian12|rocky9").environment == ROCKY
    tagged = {DEBIAN: an_offer(available=False, tags=("numpy",)), ROCKY: an_offer(ROCKY, tags=("numpy",))}
    assert wanted(tagged, wishes="numpy").environment == ROCKY
    assert wanted(broken, wishes="debian12").environment == DEBIAN  # its host says why not, and for how long


@pytest.mark.parametrize("wishes", ["windows", "windows|dos"])
def test_an_unknown_wish_is_named_with_what_there_is(wishes: str) -> None:
    text = impossible(TWO, wishes=wishes)
    assert "'windows'" in text
    assert "debian12, rocky9" in text


def test_two_environments_at_once_are_impossible() -> None:
    assert "no environment is all of" in impossible(TWO, wishes="debian12&rocky9")


def test_an_environment_is_also_found_by_what_is_in_it() -> None:
    offers = {DEBIAN: an_offer(), ROCKY: replace(an_offer(ROCKY), tags=("numpy", "root6"))}
    assert wanted(offers, wishes="numpy").environment == ROCKY
    assert wanted(offers, wishes="rocky9&root6&numpy").environment == ROCKY
    assert wanted(offers, wishes="debian12&numpy|root6").environment == ROCKY


@pytest.mark.parametrize(
    "wishes",
    ["[debian12|rocky9]&numpy", "numpy&[debian12|rocky9]", "(debian12|rocky9)&numpy", "(root6&numpy)|(rocky9&numpy)"],
)
def test_brackets_group_what_is_wished(wishes: str) -> None:
    """They were taken for decoration: the job got debian12, which has no numpy."""
    offers = {DEBIAN: an_offer(), ROCKY: replace(an_offer(ROCKY), tags=("numpy",))}
    assert wanted(offers, wishes=wishes).environment == ROCKY
    assert "'root7'" in impossible(offers, wishes=f"root7&({wishes})")


DEEP = "(" * 1500 + "rocky9" + ")" * 1500, "(a&" * 900 + "b" + ")" * 900


@pytest.mark.parametrize("wishes", [*DEEP, "(a|b)&" * 600 + "a", "a|" * 9000])
def test_a_wish_of_many_brackets_is_answered_all_the_same(wishes: str) -> None:
    assert "known: debian12, rocky9" in impossible(TWO, wishes=wishes)


def test_software_that_the_named_environment_lacks_is_impossible() -> None:
    offers = {DEBIAN: an_offer(), ROCKY: replace(an_offer(ROCKY), tags=("numpy",))}
    assert "no environment is all of" in impossible(offers, wishes="debian12&numpy")
    assert "'fortran'" in impossible(offers, wishes="rocky9&fortran")


def test_a_job_on_several_nodes_is_impossible() -> None:
    assert "--nodes=1" in impossible(ONE, nodes=2)


def test_the_first_rule_that_applies_and_has_the_field_wins() -> None:
    rules = (
        Rule(user="bob", cpus=8),
        Rule(partition="batch", memory_mib=700),
        Rule(environment=ROCKY, memory_mib=900, cpus=2, disk_mib=300),
    )
    assert wanted(TWO, rules) == Wanted(ROCKY, Shape(cpus=2, memory_mib=700, disk_mib=300))
    assert wanted(TWO, rules, user="bob", partition="long").shape == Shape(cpus=8, memory_mib=900, disk_mib=300)


def test_what_the_user_says_beats_the_rules() -> None:
    rules = (Rule(environment=ROCKY, memory_mib=900, disk_mib=300),)
    found = wanted(TWO, rules, wishes="debian12", memory_mib=100, disk_mib=50)
    assert found == Wanted(DEBIAN, Shape(cpus=1, memory_mib=100, disk_mib=50))


def test_a_rule_for_an_environment_that_is_not_offered_is_impossible() -> None:
    assert "'sles15'" in impossible(TWO, (Rule(environment=EnvironmentName("sles15")),))


def test_tiny_wishes_are_rounded_up_to_what_a_vm_needs() -> None:
    assert wanted(ONE, memory_mib=1, disk_mib=1).shape == Shape(cpus=1, memory_mib=64, disk_mib=16)


@given(
    wishes=st.text("debian12rocky9|&,()[]*! é", max_size=30),
    cpus=st.integers(1, 4096),
    memory=st.none() | st.integers(1, 2**26),
    disk=st.none() | st.integers(1, 2**31),
)
def test_whatever_a_user_writes_gives_an_offered_environment_or_a_text(
    wishes: str, cpus: int, memory: int | None, disk: int | None
) -> None:
    result = match(a_job(wishes=wishes, cpus=cpus, memory_mib=memory, disk_mib=disk), (), TWO)
    if isinstance(result, Wanted):
        assert result.environment in TWO
        assert result.environment in wishes
        assert result.shape.cpus >= cpus
        assert result.shape.memory_mib >= (memory or 0)
    else:
        assert "known: debian12, rocky9" in result.text
