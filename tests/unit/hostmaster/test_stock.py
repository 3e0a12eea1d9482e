"""Spares and golden states on a whole site in memory: made when nobody needs the host, taken, given up, made anew."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as replace_facts
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from hostmaster.background import FIRST_REST_S
from hostmaster.edges.domain import domain_xml
from hostmaster.rules.lifecycle import Way
from hostmaster.rules.spare import SparePhase
from hostmaster.rules.unheard import SETTLED_S
from hostmaster.stock import Stock
from hostmaster.world import Accelerator, Artifacts, DomainRefused, DomainState
from protocol.ids import Room
from tests.crash.ready_days import GOLDEN, LINE, PAUSED, over, waits
from tests.fakes.daemons import HostDaemon
from tests.fakes.hypervisor import TOO_LATE_S, Kept
from tests.fakes.living import living
from tests.fakes.site import Site
from wnod.config.ready import Ready

BOOTED = Ready(spares=(LINE,))


@contextmanager
def a_site(directory: Path, ready: Ready, refuse_save: str = "") -> Iterator[Site]:
    site = Site(directory, ready=ready)
    site.hypervisor.refuse_save = refuse_save
    with living(site):
        yield site


@pytest.fixture
def paused(tmp_path: Path) -> Iterator[Site]:
    """A site with one paused spare and both slots' golden states."""
    with a_site(tmp_path, PAUSED) as site:
        waits(site, paused=1, golden=2)
        yield site


@pytest.fixture
def golden(tmp_path: Path) -> Iterator[Site]:
    """A site with golden states only."""
    with a_site(tmp_path, GOLDEN) as site:
        waits(site, golden=2)
        yield site


def stock(site: Site) -> Stock:
    assert site.host is not None
    return site.host.core.stock


def counted(site: Site) -> list[tuple[Way, str]]:
    """From now on: what became of VMs that were made."""
    made: list[tuple[Way, str]] = []
    stock(site).background.made = lambda way, outcome: made.append((way, outcome))
    return made


def way_of(site: Site, job: str) -> str:
    return next(vm.way.value for vm in site.records.values() if vm.asked.job == job)


def runs(site: Site, job: str) -> None:
    site.until(lambda: site.running(job), 600.0)


def settle(site: Site) -> None:
    """libvirt says that all may have changed."""
    site.hypervisor.come_back()
    site.run(1.0)


def watch_lines(site: Site, look: Callable[[str, bytes], None]) -> None:
    assert site.host is not None
    guests: Any = site.host.guests
    send = guests.send

    def watched(name: str, lines: bytes) -> bool:
        look(name, lines)
        sent: bool = send(name, lines)
        return sent

    guests.send = watched


def lease_of(site: Site, key: str) -> str:
    for kept in site.hypervisor.kept.values():
        if kept.spec is not None and f"{kept.spec.ours.slot}-g{kept.spec.ours.generation}" == key:
            return kept.spec.ours.lease
    return ""


# --- ways ---------------------------------------------------------------------------------------------------


def test_nothing_is_made_in_advance_unless_it_was_asked_for(tmp_path: Path) -> None:
    with a_site(tmp_path, Ready()) as site:
        over(site, site.submit())
        site.run(60.0)
        assert (stock(site).spares, stock(site).goldens, site.images.golden) == ({}, {}, {})
        assert {vm.way for vm in site.records.values()} == {Way.BOOT}


def test_a_spare_whose_create_nobody_heard_of_keeps_its_room_until_it_can_come_no_more(tmp_path: Path) -> None:
    site = Site(tmp_path, ready=BOOTED)
    site.hypervisor.put_off = True
    with living(site):
        site.until(lambda: any(call.startswith("create") for call in site.hypervisor.calls), 60.0)
        (spare,) = stock(site).spares.values()
        stock(site).evict(spare.generation, "gives way")
        site.until(lambda: stock(site).keeper.unheard.may_come(spare.generation), TOO_LATE_S)
        site.run(3.0)
        assert stock(site).spares[spare.generation].phase is SparePhase.DESTROYING
        site.hypervisor.catch_up()
        assert spare.uuid in site.hypervisor.kept
        site.run(2.0)
        assert spare.uuid not in site.hypervisor.kept
        assert spare.generation in stock(site).spares
        site.run(SETTLED_S)
        assert spare.generation not in stock(site).spares


def test_a_job_takes_the_paused_spare_with_its_generation_and_another_is_made(paused: Site) -> None:
    (before,) = stock(paused).spares.values()
    job = paused.submit()
    runs(paused, job)
    (vm,) = [vm for vm in paused.records.values() if vm.asked.job == job]
    assert (vm.generation, vm.vm, vm.uuid, vm.way) == (before.generation, before.vm, before.uuid, Way.UNPAUSE)
    waits(paused, paused=1)
    (after,) = stock(paused).spares.values()
    assert after.generation > before.generation
    assert after.way is Way.RESTORE


def test_a_guest_is_told_nothing_of_its_lease_before_its_domain_carries_it(paused: Site) -> None:
    told: list[str] = []

    def look(key: str, lines: bytes) -> None:
        if b"account " in lines or b"credential " in lines or b"go\n" in lines:
            told.append(lease_of(paused, key))

    watch_lines(paused, look)
    runs(paused, paused.submit())
    runs(paused, paused.submit())
    assert len(told) >= 2
    assert all(told)


def test_a_spare_is_told_no_account_no_secret_and_no_mount(tmp_path: Path) -> None:
    said: list[bytes] = []
    with a_site(tmp_path, BOOTED) as site:
        waits(site, paused=1)
        watch_lines(site, lambda key, lines: said.extend(line.split(b" ")[0] for line in lines.splitlines()))
        site.kill_vm()
        site.run(60.0)
        waits(site, paused=1)
    assert b"standby" in said
    assert not {b"account", b"group", b"credential", b"go", b"seed"} & set(said)


def test_a_restored_vm_is_given_a_seed_and_a_booted_one_needs_none(golden: Site) -> None:
    """That it does not go without is the fake guest's, and the real one's, own care."""
    lines: list[bytes] = []
    watch_lines(golden, lambda key, said: lines.append(said))
    job = golden.submit()
    runs(golden, job)
    assert way_of(golden, job) == "restore"
    assert sum(b"seed " in said for said in lines) == sum(b"go\n" in said for said in lines) > 0


def test_a_job_of_another_shape_boots(paused: Site) -> None:
    job = paused.submit(memory_mib=700)
    runs(paused, job)
    assert way_of(paused, job) == "boot"


def test_each_job_has_a_vm_of_its_own(paused: Site) -> None:
    jobs = [paused.submit() for _ in range(5)]
    for job in jobs:
        over(paused, job)
    keys = [key for _, _, key in paused.starts]
    assert len(set(keys)) == len(keys) == 5


# --- what fails --------------------------------------------------------------------------------------------


def test_a_restore_that_is_refused_falls_back_to_a_boot_and_is_counted(golden: Site) -> None:
    made = counted(golden)
    golden.hypervisor.refuse_restore = "not of this world"
    names = set(stock(golden).goldens)
    job = golden.submit()
    runs(golden, job)
    assert way_of(golden, job) == "boot"
    assert (Way.RESTORE, "fell-back") in made
    assert (Way.BOOT, "ready") in made
    assert len(names - set(stock(golden).goldens)) == 1, "it is not tried again"


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        DomainRefused("restore x: cannot write: No space left on device"),
    ],
    ids=["ours", "libvirt's"],
)
@pytest.mark.parametrize("for_a_job", [True, False])
def test_a_full_disk_says_nothing_of_a_golden_state(paused: Site, trouble: Exception, for_a_job: bool) -> None:
    made, names, thaw = counted(paused), set(stock(paused).goldens), paused.images.thaw

    async def full(name: str, overlay: str) -> str:
        raise trouble

    paused.images.thaw = full  # type: ignore[method-assign]
    if for_a_job:
        jobs = [paused.submit(), paused.submit()]  # the second one finds no paused spare
        paused.until(lambda: (Way.RESTORE, "fell-back") in made, 60.0)
    else:
        jobs = []
        stock(paused).evict(next(iter(stock(paused).spares)), "gives way")
        paused.until(lambda: (Way.RESTORE, "failed") in made, 60.0)
    paused.images.thaw = thaw  # type: ignore[method-assign]
    for job in jobs:
        over(paused, job)
    assert set(stock(paused).goldens) == names
    waits(paused, paused=1, golden=2)


def test_a_golden_state_from_which_no_guest_comes_up_is_given_up(golden: Site) -> None:
    made = counted(golden)
    job = golden.submit()
    golden.until(lambda: any(vm.way is Way.RESTORE for vm in golden.records.values()), 60.0)
    used = next(vm.golden for vm in golden.records.values() if vm.way is Way.RESTORE)
    golden.until(lambda: "booting" in golden.vms(), 60.0)
    made_at = stock(golden).goldens[used].made_at
    golden.kill_vm()
    over(golden, job)
    assert (Way.RESTORE, "failed") in made
    waits(golden, golden=2)
    assert stock(golden).goldens[used].made_at > made_at, "made anew"


def test_a_golden_state_that_cannot_be_saved_is_left_for_a_while(tmp_path: Path) -> None:
    with a_site(tmp_path, GOLDEN, refuse_save="no space") as site:
        made = [call for call in site.hypervisor.calls if call.startswith("create")]
        assert len(made) == 1
        site.run(FIRST_REST_S - 12.0)
        assert [call for call in site.hypervisor.calls if call.startswith("create")] == made
        job = site.submit()
        runs(site, job)
        site.hypervisor.refuse_save = ""
        waits(site, golden=2)


def test_a_spare_that_dies_is_made_anew_and_no_job_notices(paused: Site) -> None:
    (before,) = stock(paused).spares
    paused.kill_vm()
    paused.run(2.0)
    waits(paused, paused=1)
    assert before not in stock(paused).spares


def test_a_spare_that_somebody_let_go_on_is_paused_again(paused: Site) -> None:
    (spare,) = stock(paused).spares.values()
    paused.hypervisor.kept[spare.uuid].state = DomainState.RUNNING
    paused.hypervisor._hint(spare.uuid)
    paused.run(2.0)
    assert paused.hypervisor.kept[spare.uuid].state is DomainState.PAUSED


def test_while_libvirt_is_away_nothing_is_made_and_nothing_destroyed(paused: Site) -> None:
    before = dict(stock(paused).spares)
    calls = len(paused.hypervisor.calls)
    paused.hypervisor.away = "restarting"
    paused.run(120.0)
    acts = [call for call in paused.hypervisor.calls[calls:] if call.split(" ")[0] not in ("domains", "identity")]
    assert (stock(paused).spares, acts) == (before, [])


# --- what changes -------------------------------------------------------------------------------------------


def test_another_qemu_makes_all_golden_states_and_spares_anew(paused: Site) -> None:
    names, (spare,) = set(stock(paused).goldens), stock(paused).spares
    paused.hypervisor.version = "fake-2"
    settle(paused)
    waits(paused, paused=1, golden=2)
    assert not names & set(stock(paused).goldens)
    assert spare not in stock(paused).spares
    assert set(paused.images.golden) == set(stock(paused).goldens)


def test_a_guest_that_would_be_told_something_else_today_is_made_anew(paused: Site) -> None:
    names = set(stock(paused).goldens)
    paused.config = replace(paused.config, lrms=replace(paused.config.lrms, controller="elsewhere:6817"))
    paused.crash_host()
    paused.run(10.0)
    waits(paused, paused=1, golden=2)
    assert not names & set(stock(paused).goldens)


def test_taken_out_of_the_configuration_all_of_it_goes(paused: Site) -> None:
    paused.config = replace(paused.config, ready=Ready())
    paused.crash_host()
    paused.run(30.0)
    assert (stock(paused).spares, stock(paused).goldens) == ({}, {})
    assert (paused.images.made, paused.images.golden, paused.hypervisor.saved, paused.hypervisor.kept) == (
        {},
        {},
        {},
        {},
    )


def test_less_capacity_after_a_restart_makes_spares_go_before_a_job_waits(paused: Site) -> None:
    """What is in use is more than there is: the job's VM must not wait for ever for room."""
    paused.config = replace(paused.config, capacity=Room(cpus=4, memory_mib=900, disk_mib=1024))
    paused.crash_host()
    paused.run(5.0)
    job = paused.submit(memory_mib=700)
    over(paused, job)
    assert way_of(paused, job) == "boot"


def test_a_refused_image_stops_the_making_and_keeps_what_is_there(paused: Site) -> None:
    before = set(stock(paused).goldens)
    (environment,) = paused.images.catalogue
    paused.images.altered[environment] = "root.squashfs is altered"
    settle(paused)
    paused.kill_vm()
    paused.run(60.0)
    assert stock(paused).spares == {}
    assert set(stock(paused).goldens) == before


def test_golden_states_that_are_gone_from_disk_are_forgotten_and_made_anew(golden: Site) -> None:
    golden.images.golden.clear()
    golden.hypervisor.saved.clear()
    settle(golden)
    waits(golden, golden=2)
    assert len(golden.images.golden) == 2


def test_a_spare_that_was_taken_is_used_though_its_image_is_refused_by_then(paused: Site) -> None:
    """Its domain carries the lease by nothing of the image."""
    assert paused.host is not None
    artifacts = paused.host.core.environments.artifacts
    take = stock(paused).take

    def and_then(*asked: Any) -> Any:
        vm = take(*asked)
        artifacts.clear()
        return vm

    stock(paused).take = and_then  # type: ignore[method-assign]
    job = paused.submit()
    paused.until(lambda: paused.running(job), 30.0)
    assert way_of(paused, job) == "unpause"


def test_a_directory_of_golden_states_that_cannot_be_read_keeps_no_job_from_its_vm(golden: Site) -> None:
    async def unreadable() -> Any:
        raise OSError("golden: input/output error")

    golden.images.goldens = unreadable  # type: ignore[method-assign]
    golden.crash_host()
    golden.run(5.0)
    job = golden.submit()
    runs(golden, job)
    assert stock(golden).goldens


def test_a_hostmaster_that_is_long_in_getting_ready_gives_no_golden_state_up(
    golden: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images are large: what it could not be asked to make yet counted as a restore that had failed, twice."""

    async def slowly(artifacts: Artifacts) -> Accelerator:
        proven: Deferred[None] = Deferred()
        golden.clock.callLater(40.0, proven.callback, None)
        await proven
        return Accelerator.TCG

    names = set(stock(golden).goldens)
    job = golden.submit()
    golden.until(lambda: any(vm.asked.job == job for vm in golden.records.values()), 60.0)
    monkeypatch.setattr(HostDaemon, "_prove", staticmethod(slowly))
    golden.crash_host()
    runs(golden, job)
    assert way_of(golden, job) == "restore"
    assert set(stock(golden).goldens) >= names


def test_no_more_disk_is_used_than_was_allowed(tmp_path: Path) -> None:
    with a_site(tmp_path, Ready(golden_disk_mib=700, spares=GOLDEN.spares)) as site:
        waits(site, golden=1)
        site.run(60.0)
        used = sum(state.mib for state in stock(site).goldens.values())
        assert 0 < used <= 700


# --- the journal is lost ---------------------------------------------------------------------------------------


def test_spares_and_golden_states_that_no_journal_knows_are_removed(paused: Site) -> None:
    old = {kept.spec.ours.generation for kept in paused.hypervisor.kept.values() if kept.spec is not None}
    paused.crash_host(lose_journal=True)
    paused.run(20.0)
    waits(paused, paused=1, golden=2)
    now = {kept.spec.ours.generation for kept in paused.hypervisor.kept.values() if kept.spec is not None}
    assert not old & now
    assert set(paused.images.golden) == set(stock(paused).goldens)
    assert set(paused.images.made) == {spare.key for spare in stock(paused).spares.values()}


def test_a_spare_that_libvirt_made_late_is_found_and_goes(tmp_path: Path) -> None:
    """A call without an answer may be carried out after it was given up: its slot would be taken for ever."""
    with a_site(tmp_path, PAUSED) as site:
        waits(site, paused=1, golden=2)
        (spare,) = stock(site).spares.values()
        late = site.hypervisor.kept[spare.uuid]
        assert late.spec is not None
        ours = replace_facts(late.spec.ours, generation=spare.generation + 1000, slot="vm2")
        spec = replace_facts(late.spec, uuid="00000000-0000-4000-8000-00000000beef", ours=ours)
        site.hypervisor.kept[spec.uuid] = Kept(domain_xml(spec), spec=spec)
        site.run(12.0)
        assert spec.uuid not in site.hypervisor.kept


def test_a_daemon_that_dies_as_it_takes_a_spare_has_given_it_to_the_lease(paused: Site) -> None:
    (spare,) = stock(paused).spares.values()
    paused.die_at["host"] = paused.commits["host"] + 1
    job = paused.submit()
    over(paused, job)
    assert way_of(paused, job) == "unpause"
    assert spare.generation not in stock(paused).spares


def test_a_taken_spare_is_adopted_as_a_vm_in_which_a_job_may_run(paused: Site) -> None:
    job = paused.submit()
    runs(paused, job)
    paused.crash_host(lose_journal=True)
    over(paused, job)
    assert len([start for start in paused.starts if start[0] == job]) == 1


def test_a_restarted_hostmaster_goes_on_with_its_spares(paused: Site) -> None:
    (before,) = stock(paused).spares
    paused.crash_host()
    paused.run(10.0)
    job = paused.submit()
    runs(paused, job)
    (vm,) = [vm for vm in paused.records.values() if vm.asked.job == job]
    assert (vm.generation, vm.way) == (before, Way.UNPAUSE)


def test_a_spare_waits_for_nothing_but_a_lease(paused: Site) -> None:
    calls = len(paused.hypervisor.calls)
    paused.run(25.0)
    assert [s.phase for s in stock(paused).spares.values()] == [SparePhase.PAUSED]
    assert {call.split(" ")[0] for call in paused.hypervisor.calls[calls:]} <= {"domains"}
