"""An environment whose VMs keep failing rests, and one VM that comes up ends that."""

from hostmaster.rules.breaker import LIMIT, PAUSE_S, Breaker


def broken(times: int, at: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker = breaker.failed("no hello", at)
    return breaker


def test_a_few_failures_change_nothing() -> None:
    assert broken(LIMIT - 1).obstacle(100.0) == ""


def test_a_row_of_failures_rests_the_environment_and_says_why() -> None:
    text = broken(LIMIT).obstacle(100.0 + PAUSE_S - 0.1)
    assert "no hello" in text
    assert str(LIMIT) in text


def test_after_the_pause_one_vm_is_tried_and_its_failure_rests_it_again() -> None:
    breaker = broken(LIMIT)
    later = 100.0 + PAUSE_S
    assert breaker.obstacle(later) == ""
    assert breaker.failed("no hello", later).obstacle(later + 1.0) != ""
