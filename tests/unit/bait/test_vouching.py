"""The bait's word for a run is as fresh as its look, and one message for all that one look has shown."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
from twisted.internet.task import Clock

from bait.lrms.base import JobState
from bait.rules.lease import Phase, Times
from bait.vouching import Vouching
from hostmaster.contact import WORD_IS_ENOUGH_S
from protocol.ids import LeaseId
from protocol.messages import Renew
from tests.unit.bait.bait_case import BaitCase, bait_case
from tests.unit.bait.records import VM, a_job, a_lease
from tests.unit.bait.test_follower import running
from wnod.config.bait import Lrms

RUNNING = a_job(run=a_lease().target, state=JobState.RUNNING, node=VM)
STARTED = a_lease(phase=Phase.STARTED, vm=VM)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[BaitCase]:
    with bait_case(tmp_path / "bait.sqlite") as made:
        yield made


def words(case: BaitCase) -> list[Renew]:
    return [message for message in case.sent if isinstance(message, Renew)]


def test_a_run_that_was_seen_in_its_vm_is_vouched_for_at_every_look(case: BaitCase) -> None:
    running(case)
    case.sent.clear()
    case.run(30)
    assert {word.leases for word in words(case)} == {(case.lease.lease,)}
    assert 30 / (1.5 * Times().running_s) <= len(words(case)) <= 30 / (0.5 * Times().running_s)
    assert len({word.id for word in words(case)}) == len(words(case))


def test_no_configuration_lets_a_healthy_run_wait_so_long_for_its_word_that_the_host_asks_the_controller() -> None:
    longest_s = get_type_hints(Lrms, include_extras=True)["running_s"].__metadata__[0].le
    assert 1.5 * longest_s < WORD_IS_ENOUGH_S


def test_two_looks_are_less_apart_than_a_requeued_job_waits_in_the_queue() -> None:
    assert 1.5 * Times().running_s < 10, "Slurm's own least; 121 s as it is shipped"


def test_nobody_vouches_while_the_lrms_is_silent_or_the_link_is_down(case: BaitCase) -> None:
    running(case)
    case.lrms.away, case.sent = True, []
    case.run(20)
    assert words(case) == []
    case.lrms.away = False
    case.view.disconnected()
    case.run(20)
    assert words(case) == []
    case.link()
    case.follower.kick_all()
    case.run(0.2)
    assert len(words(case)) == 1


def test_what_one_answer_shows_is_told_in_one_message() -> None:
    clock, said = Clock(), list[tuple[LeaseId, ...]]()
    vouching = Vouching(clock, said.append)
    others = [a_lease(phase=Phase.STARTED, vm=VM, lease=LeaseId(f"{n:032x}")) for n in range(3)]
    for lease in (*others, *others):
        vouching.saw(lease, RUNNING)
    clock.advance(0)
    assert said == [tuple(lease.lease for lease in others)]


@pytest.mark.parametrize(
    ("lease", "job"),
    [
        (STARTED, None),
        (a_lease(phase=Phase.RELEASED, vm=VM), RUNNING),
        (STARTED, a_job(run=a_lease().run, state=JobState.RUNNING, node=VM)),
        (STARTED, a_job(run=a_lease().target, state=JobState.LEAVING, node=VM)),
        (STARTED, a_job(run=a_lease().target, state=JobState.RUNNING, node="vm2")),
    ],
)
def test_a_run_that_was_not_seen_in_its_vm_has_no_word(lease: object, job: object) -> None:
    clock, said = Clock(), list[tuple[LeaseId, ...]]()
    vouching = Vouching(clock, said.append)
    vouching.saw(lease, job)  # type: ignore[arg-type]
    clock.advance(0)
    assert said == []
