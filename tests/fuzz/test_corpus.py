"""The inputs that are kept, and some thousand new ones, break no promise. `make fuzz` sends as many as one likes."""

import random
from collections.abc import Iterator

import pytest

from protocol.framing import Frames
from tests.fuzz import journals, strangers
from tests.fuzz.kept import read
from tests.fuzz.mutate import mutated

TARGETS = (*strangers.TARGETS, *journals.TARGETS)
NEW = 3000


@pytest.fixture(autouse=True, scope="module")
def leaves_nothing() -> Iterator[None]:
    yield
    journals.forget_places()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_inputs_that_are_kept_break_no_promise(target: strangers.Target) -> None:
    kept = [*target.seeds, *read(target.name)]
    assert read(target.name), "its corpus is missing: python -m tests.fuzz --collect"
    for data in kept:
        for seed in range(3):
            target.check(random.Random(seed), data)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_inputs_break_no_promise(target: strangers.Target) -> None:
    outcomes = set()
    for seed in range(int(NEW * target.share) + 10):
        rng = random.Random(f"{target.name} {seed}")
        outcomes.add(target.check(rng, mutated(rng, target.seeds)))
    assert len(outcomes) > 1, "nothing gets past the first check"


class Greedy(Frames):
    """A reader that holds whatever it is sent, and what it makes of it depends on the chunks."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        return iter([data] if data else [])


def test_a_reader_that_keeps_no_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "Frames", Greedy)
    rng = random.Random(1)
    whole = strangers.TARGETS[0].seeds[0] * 1000
    with pytest.raises(AssertionError, match=r"frame is held|chunks"):
        strangers.check_frames(rng, whole)
