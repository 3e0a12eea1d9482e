"""A seed is a storm: the same every time, dense enough, and without two faults that fight for one thing."""

from __future__ import annotations

from itertools import combinations, islice, pairwise

import pytest

from tests.torture import ledger
from tests.torture.judge import Row
from tests.torture.plan import KINDS, NAMES, draw
from tests.torture.users import LOOKS_AGAIN_S, forgotten_releases, wishes

HOSTS = ("h1", "h2")


@pytest.mark.parametrize("seed", range(8))
def test_ten_minutes_have_every_kind_of_fault_and_at_least_thirteen_a_minute(seed: int) -> None:
    faults = draw(seed, 600, HOSTS)
    assert len(faults) >= 130
    assert {fault.kind for fault in faults} == set(NAMES)
    assert {fault.host for fault in faults} == set(HOSTS)


@pytest.mark.parametrize("seed", range(8))
def test_two_faults_that_overlap_claim_nothing_in_common(seed: int) -> None:
    overlapping = 0
    for one, other in combinations(draw(seed, 600, HOSTS), 2):
        if one.at <= other.at < one.until:
            overlapping += 1
            assert set(one.claims).isdisjoint(other.claims), f"{one} and {other}"
    assert overlapping > 20


@pytest.mark.parametrize("seed", range(8))
def test_a_storm_is_in_order_and_over_in_time(seed: int) -> None:
    faults = draw(seed, 300, HOSTS)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert [fault.number for fault in faults] == list(range(1, len(faults) + 1))
    assert all(fault.at + fault.seconds <= 300 for fault in faults)


def test_a_seed_gives_the_same_storm_again_and_another_seed_another() -> None:
    assert draw(7, 120, HOSTS) == draw(7, 120, HOSTS)
    assert draw(7, 120, HOSTS) != draw(8, 120, HOSTS)


def test_a_short_storm_has_no_long_silence() -> None:
    long = {kind.name for kind in KINDS if kind.long}
    assert long
    assert not any(fault.kind in long for seed in range(8) for fault in draw(seed, 120, HOSTS))


def test_both_hosts_are_never_off_or_cut_off_for_long_at_the_same_time() -> None:
    for seed in range(8):
        big = [fault for fault in draw(seed, 600, HOSTS) if "reboot" in fault.claims]
        assert all(one.until <= other.at for one, other in pairwise(big))


def test_a_storm_of_chosen_kinds_has_no_others() -> None:
    assert {fault.kind for fault in draw(1, 120, HOSTS, ("kill-bait", "link-slow"))} == {"kill-bait", "link-slow"}


def test_users_submit_every_sort_of_job_under_names_that_are_never_used_twice() -> None:
    some = list(islice(wishes(3), 200))
    assert len({wish.name for wish in some}) == 200
    assert {wish.user for wish in some} == {"alice", "bob"}
    assert {wish.environment for wish in some} == {"debian12", "debian12-sci"}
    assert {wish.meddling for wish in some} == {"", "cancel", "hold", "requeue"}
    assert {wish.requeue for wish in some} == {True, False}
    assert any(len(wish.tasks) > 1 for wish in some)
    assert some == list(islice(wishes(3), 200))


PAGE = """start 100.5 7.1 12 1 vm-h1-1 0badcafe-1 alice
beat 101.0 7.6 1   
end 101.5 8.1 0   
"""


def test_a_page_of_the_ledger_is_read_back() -> None:
    run = ledger.page("t0001.-.8c4b", PAGE)
    assert run is not None
    assert (run.key, run.job, run.restart, run.host) == (("t0001", "-"), "12", 1, "vm-h1-1")
    assert (run.started, run.last, run.ended, run.status) == (100.5, 101.5, 101.5, 0)


def test_a_page_whose_writer_died_in_the_middle_of_a_line_is_read_as_far_as_it_goes() -> None:
    run = ledger.page("t0001.2.8c4b", PAGE[: PAGE.index("end") + 6])
    assert run is not None
    assert (run.task, run.last, run.ended) == ("2", 101.0, None)
    assert ledger.page("t0001.2.8c4b", PAGE[:20]) is None


def test_a_user_releases_again_what_slurm_has_forgotten_the_release_of() -> None:
    row = Row("t0001", "-", "7", "PENDING", "JobHeldUser")
    let_go_of = {"t0001": ("alice", 100.0), "t0002": ("bob", 100.0)}
    assert forgotten_releases({row.key: row}, let_go_of, 100.0 + LOOKS_AGAIN_S) == ["t0001"]
    assert not forgotten_releases({row.key: row}, let_go_of, 99.0 + LOOKS_AGAIN_S)
    started = Row("t0001", "-", "7", "RUNNING", "None")
    assert not forgotten_releases({started.key: started}, let_go_of, 200.0)
