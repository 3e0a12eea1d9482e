"""Which creates may still be carried out: until the hypervisor has answered for a while, without a pause."""

from hostmaster.rules.unheard import SETTLED_S, STEP_S, Unheard
from protocol.ids import Generation

ONE, TWO = Generation(1), Generation(2)


def answers(unheard: Unheard, since: float, seconds: float) -> None:
    """It answers each second, from then on and for so long."""
    for passed in range(int(seconds) + 1):
        unheard.answered(since + passed)


def test_a_create_that_nobody_heard_of_may_come_until_the_hypervisor_has_answered_for_a_while() -> None:
    unheard = Unheard()
    unheard.asked(ONE)
    answers(unheard, 100.0, SETTLED_S - 1)
    assert (unheard.may_come(ONE), unheard.may_come(TWO)) == (True, False)
    unheard.answered(100.0 + SETTLED_S)
    assert not unheard.may_come(ONE)


def test_a_hypervisor_that_hangs_again_has_answered_for_no_time() -> None:
    unheard = Unheard()
    unheard.asked(ONE)
    answers(unheard, 100.0, SETTLED_S - 1)
    unheard.silent()
    answers(unheard, 200.0, SETTLED_S - 1)
    assert unheard.may_come(ONE)
    unheard.answered(200.0 + SETTLED_S)
    assert not unheard.may_come(ONE)


def test_each_create_that_is_not_heard_of_begins_the_wait_anew() -> None:
    unheard = Unheard()
    unheard.asked(ONE)
    answers(unheard, 100.0, SETTLED_S - 1)
    unheard.asked(ONE)
    unheard.answered(100.0 + SETTLED_S)
    assert unheard.may_come(ONE)


def test_a_clock_that_jumps_ends_no_wait() -> None:
    unheard = Unheard()
    unheard.asked(ONE)
    unheard.answered(100.0)
    unheard.answered(100.0 + 3600.0)
    unheard.answered(100.0)
    assert unheard.may_come(ONE)
    answers(unheard, 100.0, SETTLED_S - STEP_S - 1)
    assert unheard.may_come(ONE)
    unheard.answered(100.0 + SETTLED_S - STEP_S)
    assert not unheard.may_come(ONE)
