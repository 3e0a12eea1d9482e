"""Jobs that a bait has left alone are given back by another, and no others are (R12)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bait.lrms.base import NO_REQUEUE, OUR_NOTE, Home, JobState
from bait.rescue import LOOK_AGAIN_S, Rescue, orphans
from bait.rules import note
from bait.rules.lease import Phase
from bait.rules.note import PATIENCE_S, Note
from protocol.ids import LeaseId
from tests.conftest import LoggedFailures
from tests.fakes.daemons import BAIT as SITE_BAIT
from tests.fakes.living import living
from tests.fakes.lrms import PARK
from tests.fakes.site import Site
from tests.fakes.wire import Crash
from tests.unit.bait.bait_case import BaitCase, bait_case
from tests.unit.bait.records import BAIT, VM, a_lease, granted, parked_job

LATE = 100.0 + PATIENCE_S + 1
OURS = note.write(granted(), BAIT, 100.0)


def left(now: float = LATE, **changes: Any) -> bool:
    return bool(orphans([parked_job(**{"note": OURS, **changes})], (), now))


def test_a_note_says_what_is_needed_to_give_the_job_back() -> None:
    lease = a_lease(partition="long,short", requeue=False)
    text = note.write(lease, BAIT, 100.4)
    assert note.read(text) == Note(lease.lease, Home("long,short", False), BAIT, 1000.0)
    sent = granted(required_nodes=("m2", "n[1-3,7]"))
    text = note.write(sent, BAIT, 100.4)
    assert note.read(text) == Note(sent.lease, Home("batch", True, ("m2", "n[1-3,7]"), VM), BAIT, 1000.0)
    assert ":nodes=m2,n[1-3%2C7]:" in text  # for people, too


@given(st.lists(st.text(min_size=1), max_size=20), st.text())
def test_required_nodes_and_reservation_come_back_from_a_note_whatever_their_names_are(
    names: list[str], reservation: str
) -> None:
    lease = granted(required_nodes=tuple(names), reservation=reservation)
    read = note.read(note.write(lease, BAIT, 100.0))
    assert read is not None
    assert read.home == lease.home or (read.nodes_lost and read.home.required_nodes == ())


def test_a_list_of_nodes_that_is_too_long_for_a_note_is_said_to_be_lost() -> None:
    lease = granted(required_nodes=tuple(f"node{number}" for number in range(1000)))
    text = note.write(lease, BAIT, 100.0)
    assert len(text) < 300
    read = note.read(text)
    assert read is not None
    assert read.nodes_lost
    assert "too long" in note.left_alone(read)
    assert read.home.vm == VM  # all else is there


def test_an_older_note_names_no_vm_and_no_nodes() -> None:
    read = note.read(f"{OUR_NOTE}1:home=long:requeue=1:bait=b:until=5")
    assert read == Note("1", Home("long", True), "b", 5.0)
    assert left(held=False, required_nodes=(VM,), note=f"{OUR_NOTE}1:home=batch:requeue=1:bait=b:until=5")


@given(st.text())
def test_no_text_is_too_odd_to_be_read(text: str) -> None:
    for words in (text, OUR_NOTE + text, f"{OUR_NOTE}1:{text}", f"{OURS}{text}"):
        note.read(words)
        note.forbids_requeue(words)


def test_a_wish_for_no_requeue_is_read_from_the_sites_mark_and_from_ours() -> None:
    assert note.forbids_requeue(NO_REQUEUE)
    assert note.forbids_requeue(note.write(a_lease(requeue=False), BAIT, 100.0))
    assert not note.forbids_requeue(OURS)
    assert not note.forbids_requeue("")


def test_a_parked_job_whose_time_is_over_is_left_alone() -> None:
    assert left()
    assert left(held=False, required_nodes=(VM,))
    # simulation, seed 226: its user took the target away, nobody the partition in which nothing can run
    assert left(held=False, partition="vwn")


def test_a_job_that_is_somebodys_business_is_not() -> None:
    assert not left(now=LATE - 2)
    assert not left(note="wnod: refused: no such environment")
    assert not left(note="wnod: given back: the VM died")
    assert not left(note="")
    assert not left(state=JobState.RUNNING)
    assert not left(held=False)
    assert not left(held=False, required_nodes=(BAIT,))  # its user's own
    assert orphans([parked_job(note=OURS)], {a_lease().lease}, LATE) == []


@pytest.fixture
def case(tmp_path: Path) -> Iterator[BaitCase]:
    with bait_case(tmp_path / "journal") as case:
        yield case


def parked(case: BaitCase, **wishes: Any) -> str:
    """A job parked by a bait that is not this one."""
    job, _ = case.intercepted(**wishes)
    case.grant()
    case.run(1)
    case.lrms.exits(job, PARK)
    case.run(1)
    case.follower.leases.clear()
    return job


def notes(case: BaitCase) -> list[Note]:
    found = [note.read(job.note) for job in case.lrms.all_jobs.values()]
    return [one for one in found if one is not None]


def test_a_rescue_gives_the_job_back_once(case: BaitCase) -> None:
    job = parked(case)
    rescue = Rescue(case.mortal, case.lrms, case.follower)
    rescue.look()
    case.run(1)
    record = case.lrms.all_jobs[job]
    assert record.held_by == "exit"
    case.run(PATIENCE_S)
    rescue.look()
    case.run(1)
    assert (record.held_by, record.required_nodes) == ("", ())
    assert record.note == f"wnod: given back: {BAIT} did not go on with it"
    record.eligible_at = 0.0
    rescue.look()
    case.run(1)
    assert record.eligible_at == 0.0


def test_a_rescue_puts_back_the_nodes_that_its_user_asked_for(case: BaitCase) -> None:
    job = parked(case, required_nodes=(BAIT,))
    record = case.lrms.all_jobs[job]
    record.partition, record.required_nodes = "vwn", (VM,)  # sent, and then nobody saw to it
    case.run(PATIENCE_S)
    Rescue(case.mortal, case.lrms, case.follower).look()
    case.run(1)
    assert (record.partition, record.required_nodes, record.held_by) == ("batch", (BAIT,), "")


def test_a_job_whose_lease_neither_its_own_bait_nor_the_host_knows_is_given_back_at_the_second_look(
    case: BaitCase,
) -> None:
    """Torture, seed 4: both journals of a host were lost, and its VMs with them."""
    job = parked(case)
    rescue = Rescue(case.mortal, case.lrms, case.follower)
    case.hear_status()
    for held_by in ("exit", ""):
        rescue.look()
        case.run(1)
        assert case.lrms.all_jobs[job].held_by == held_by


def test_a_job_that_waits_for_the_node_of_a_lease_that_is_over_is_given_back_at_the_second_look(
    case: BaitCase,
) -> None:
    """Or each would wait for the other: the node is not removed while a job waits for it."""
    job, _ = case.intercepted()
    case.grant()
    case.run(1)
    case.lrms.exits(job, PARK)
    case.run(1)
    record, lease = case.lrms.all_jobs[job], case.lease
    case.follower.leases.clear()
    case.follower.leases[lease.lease] = replace(lease, phase=Phase.ENDED)
    rescue = Rescue(case.mortal, case.lrms, case.follower)
    rescue.look()
    case.run(LOOK_AGAIN_S - 1)
    assert record.held_by == "exit"
    case.run(2)
    assert record.held_by == ""


def test_a_job_whose_vm_the_host_still_has_or_may_have_is_not_given_back_before_its_time(case: BaitCase) -> None:
    job = parked(case)
    rescue = Rescue(case.mortal, case.lrms, case.follower)
    (left_alone,) = notes(case)
    assert case.view.told(LeaseId(left_alone.lease)).vm is not None
    for _ in range(3):
        rescue.look()
        case.run(1)
    case.hear_status()
    case.view.disconnected()
    for _ in range(3):
        rescue.look()
        case.run(1)
    assert case.lrms.all_jobs[job].held_by == "exit"


def test_a_rescue_waits_for_the_lrms(case: BaitCase) -> None:
    job = parked(case)
    rescue = Rescue(case.mortal, case.lrms, case.follower)
    case.run(PATIENCE_S)
    case.lrms.away = True
    rescue.look()
    case.run(1)
    case.lrms.away = False
    rescue.look()
    case.run(1)
    assert case.lrms.all_jobs[job].held_by == ""


def test_a_dead_vms_node_that_nobody_removes_is_removed(case: BaitCase) -> None:
    """Simulation, seeds 108 and 208: the bait lost its journal, or the LRMS forgot that the node was removed."""
    case.lrms.add_node(VM, vm=True).up = False
    rescue = Rescue(case.mortal, case.lrms, case.follower)
    for _ in range(3):
        assert VM in case.lrms.all_nodes
        rescue.look()
        case.run(PATIENCE_S / 2 + 1)
    rescue.look()
    case.run(1)
    assert VM not in case.lrms.all_nodes


def test_a_vms_node_that_comes_back_stays(case: BaitCase) -> None:
    node = case.lrms.add_node(VM, vm=True)
    rescue = Rescue(case.mortal, case.lrms, case.follower)
    for up in (False, True, False, True):
        node.up = up
        rescue.look()
        case.run(PATIENCE_S)
    assert VM in case.lrms.all_nodes


@pytest.fixture
def site(tmp_path: Path, logged_failures: LoggedFailures) -> Iterator[Site]:
    with living(Site(tmp_path), seconds=6) as site:
        yield site
    logged_failures.flush(Crash)


@pytest.mark.parametrize("phase", ["parking", "parked", "released"])
def test_a_job_whose_bait_and_host_lost_everything_runs_all_the_same(site: Site, phase: str) -> None:
    """No journal knows of it any more, and no VM: only its note is left."""
    job = site.submit()
    site.until(lambda: site.phases() == [phase])
    site.crash_bait(away_s=300.0, lose_journal=True)
    if phase == "released":
        site.kill_vm()
        site.lrms.all_nodes.pop("vm1")
    site.until(lambda: not site.vms(), 290.0)
    site.until(lambda: site.ended(job), 2000.0)
    assert [start[0] for start in site.starts] == [job]
    assert site.job(job).starts[0] == (SITE_BAIT, 0)
    site.rest()
