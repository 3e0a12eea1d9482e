"""Journal against libvirt: what is adopted, what is left alone, what is a leftover."""

import dataclasses

import msgspec
import pytest
from msgspec.structs import replace

from hostmaster.edges.domain import domain_xml, read_domain
from hostmaster.rules.lifecycle import Facts, Times, decide
from hostmaster.rules.reconcile import adoptable, leftovers
from hostmaster.rules.specify import Site, specify
from hostmaster.rules.vm import run_json
from hostmaster.world import Accelerator, DomainState
from protocol.ids import Generation
from protocol.messages import VmPhase
from tests.fakes.images import artifacts
from tests.fakes.site import CONFIG
from tests.unit.hostmaster.records import RUN, a_domain, a_vm

VM = a_vm(phase=VmPhase.BOUND, bound=RUN.next())
OURS = a_domain(VM, run=run_json(VM))


def test_a_domain_the_journal_has_lost_is_taken_up_as_if_its_run_had_started() -> None:
    (vm,) = adoptable((OURS,), {}, "h1", 200.0)
    assert (vm.phase, vm.boot_id, vm.bound, vm.asked) == (VmPhase.STARTED, None, RUN.next(), RUN)
    kept = ("generation", "vm", "uuid", "lease", "bait", "owner", "environment", "image", "shape", "key")
    assert all(getattr(vm, name) == getattr(VM, name) for name in kept)


def test_all_that_adoption_needs_survives_the_way_through_the_domains_xml() -> None:
    spec = specify(Site(CONFIG, Accelerator.TCG), VM, artifacts(), "/overlay", "/channel")
    domain = read_domain(domain_xml(spec), DomainState.RUNNING)
    assert adoptable((domain,), {}, CONFIG.host, 200.0) == adoptable((OURS,), {}, "h1", 200.0)


@pytest.mark.parametrize(
    "domain",
    [
        dataclasses.replace(OURS, ours=None),
        a_domain(VM, host="h2", run=run_json(VM)),
    ],
)
def test_strangers_and_domains_of_other_hosts_are_not_taken_up(domain: object) -> None:
    assert adoptable((domain,), {}, "h1", 200.0) == ()  # type: ignore[arg-type]


def test_a_domain_that_has_died_is_taken_up_to_be_removed() -> None:
    # simulation, seed 3244: a VM died while its host had lost its journal; its slot could not be used any more
    (vm,) = adoptable((a_domain(VM, state=DomainState.STOPPED, run=run_json(VM)),), {}, "h1", 200.0)
    seen = Facts(now=200.0, domain=DomainState.STOPPED, overlay=True)
    assert decide(vm, seen, Times()).vm.phase is VmPhase.DESTROYING


def test_a_generation_on_record_is_not_taken_up_again() -> None:
    assert adoptable((OURS,), {Generation(1): VM}, "h1", 200.0) == ()


def test_overlays_of_no_record_and_no_domain_are_leftovers() -> None:
    other = replace(VM, generation=Generation(2))
    assert leftovers(["vm1-g1", "vm1-g2", "vm1-g3"], (other,), (OURS,)) == ("vm1-g3",)


def test_the_run_in_the_metadata_is_the_one_asked_for() -> None:
    assert msgspec.json.decode(run_json(VM), type=type(RUN)) == RUN


def test_the_disk_of_a_domain_whose_metadata_nobody_understands_is_left_alone() -> None:
    """As after another version of wnod: what is not touched keeps what it runs on."""
    unknown = dataclasses.replace(OURS, name="vm1", ours=None, reason="its wnod metadata is not understood")
    assert leftovers(["vm1-g7", "vm11-g7"], (), (unknown,)) == ("vm11-g7",)
