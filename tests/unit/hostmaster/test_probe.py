"""The accelerator is the first under which a guest really boots, and the reason is told in one line."""

import pytest
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from hostmaster.edges.probe import MAX_TEXT, find_accelerator
from hostmaster.world import Accelerator, DomainRefused

KVM, TCG, NONE = Accelerator.KVM, Accelerator.TCG, Accelerator.NONE


class ProbeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.booted: list[Accelerator] = []
        self.failures: dict[Accelerator, str] = {}

    async def boot(self, accelerator: Accelerator) -> str:
        self.booted.append(accelerator)
        return self.failures.get(accelerator, "")

    def find(self, *offered: Accelerator) -> tuple[Accelerator, str]:
        return self.successResultOf(Deferred.fromCoroutine(find_accelerator(frozenset(offered), self.boot)))

    def test_kvm_is_tried_first_and_tcg_is_not_tried_then(self) -> None:
        assert self.find(TCG, KVM)[0] is KVM
        assert self.booted == [KVM]

    def test_a_kvm_that_is_offered_but_boots_nothing_gives_way_to_tcg_and_is_named(self) -> None:
        self.failures[KVM] = "a probe guest did not end within 10 s"
        accelerator, why = self.find(TCG, KVM)
        assert accelerator is TCG
        assert "kvm: a probe guest did not end within 10 s" in why
        assert self.booted == [KVM, TCG]

    def test_what_libvirt_does_not_offer_is_not_tried(self) -> None:
        accelerator, why = self.find(TCG)
        assert accelerator is TCG
        assert "kvm: libvirt does not offer it" in why
        assert self.booted == [TCG]

    def test_qemus_last_words_become_one_bounded_line(self) -> None:
        self.failures[KVM] = "first line\n" + "more\n" * 1000
        why = self.find(TCG, KVM)[1]
        assert "kvm: first line more" in why
        assert "\n" not in why
        assert len(why) < MAX_TEXT + 100

    def test_if_nothing_boots_every_finding_is_told(self) -> None:
        self.failures = {KVM: "aborts", TCG: "hangs"}
        failure = self.failureResultOf(Deferred.fromCoroutine(find_accelerator(frozenset({KVM, TCG}), self.boot)))
        with pytest.raises(DomainRefused, match="kvm: aborts; tcg: hangs"):
            failure.raiseException()

    def test_the_test_driver_needs_no_guest(self) -> None:
        assert self.find(NONE)[0] is NONE
        assert self.booted == []
