"""VMs that are made too late: no job runs on an overlay that its VM's memory does not know."""

from dataclasses import replace
from typing import Any

import pytest

from hostmaster.rules import lifecycle
from protocol.messages import VmPhase
from tests.simulation.play import Result, play

SEED = 32


def a_day() -> Result:
    """Creates of libvirt hang while it answers all else, and come late; a hostmaster dies with them under way."""
    return play(SEED, 4, 40, ("libvirt-hangs", "clock-jump", "crash-host"))


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that is not answered is given up at once."""
    monkeypatch.setattr("tests.simulation.daemons.RETRIES", 0)


def test_a_late_restore_never_meets_the_overlay_of_the_boot_that_took_its_place() -> None:
    assert a_day().breaches == []


def test_it_would_if_the_boot_did_not_wait_until_the_restore_can_come_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = lifecycle.decide

    def hasty(vm: Any, facts: Any, times: Any) -> Any:
        return decide(vm, replace(facts, may_come=facts.may_come and vm.phase is not VmPhase.CREATING), times)

    monkeypatch.setattr(lifecycle, "decide", hasty)
    breaches = a_day().breaches
    assert breaches
    assert all("on the overlay of another try" in breach for breach in breaches)
