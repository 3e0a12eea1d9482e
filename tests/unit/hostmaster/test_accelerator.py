"""Which accelerator the guests get: what was wished, what was proved, and what is not allowed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from hostmaster.accelerator import Proof, choose
from hostmaster.world import Accelerator, DomainRefused
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.images import artifacts
from wnod.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(str(tmp_path / "journal"), "hostmaster", "h1")
    yield journal
    journal.close()


def chosen(
    journal: Journal, hypervisor: FakeHypervisor, wish: Any = "auto", allow: bool = True, boot: str = "a"
) -> Proof:
    got: list[Any] = []
    Deferred.fromCoroutine(choose(wish, allow, hypervisor, artifacts(), journal, boot)).addBoth(got.append)
    if isinstance(got[0], Proof):
        return got[0]
    got[0].raiseException()
    raise AssertionError


def test_a_wish_for_tcg_needs_no_proof(journal: Journal) -> None:
    hypervisor = FakeHypervisor(Clock())
    assert chosen(journal, hypervisor, "tcg").accelerator is Accelerator.TCG
    assert hypervisor.calls == []


def test_what_a_probe_proved_is_kept_until_the_circumstances_change(journal: Journal) -> None:
    hypervisor = FakeHypervisor(Clock(), accelerator=Accelerator.KVM)
    assert chosen(journal, hypervisor).accelerator is Accelerator.KVM
    assert chosen(journal, hypervisor).reason == "the test said so"
    assert hypervisor.calls == ["probe"]
    hypervisor.accelerator = Accelerator.TCG
    assert chosen(journal, hypervisor, boot="b").accelerator is Accelerator.TCG
    assert hypervisor.calls == ["probe", "probe"]


@pytest.mark.parametrize(("wish", "allow"), [("kvm", True), ("auto", False)])
def test_tcg_is_not_taken_where_it_is_not_allowed(journal: Journal, wish: str, allow: bool) -> None:
    with pytest.raises(DomainRefused, match="allow_tcg: true"):
        chosen(journal, FakeHypervisor(Clock()), wish, allow)


def test_a_kept_proof_of_tcg_does_not_get_round_the_configuration(journal: Journal) -> None:
    hypervisor = FakeHypervisor(Clock())
    assert chosen(journal, hypervisor).accelerator is Accelerator.TCG
    with pytest.raises(DomainRefused):
        chosen(journal, hypervisor, allow=False)


def test_a_host_whose_kvm_was_repaired_serves_after_a_restart(journal: Journal) -> None:
    """It was refused by what a probe had found before, until the machine was booted again."""
    hypervisor = FakeHypervisor(Clock())
    with pytest.raises(DomainRefused, match="repair KVM"):
        chosen(journal, hypervisor, allow=False)
    hypervisor.accelerator = Accelerator.KVM
    assert chosen(journal, hypervisor, allow=False).accelerator is Accelerator.KVM
