"""The judge of the torture sees what it must see, and blames nobody for what users and faults explain."""

from __future__ import annotations

import dataclasses

import pytest

from tests.torture.ground import guest_of
from tests.torture.judge import Deed, Evidence, Hit, Row, Submission, judge
from tests.torture.ledger import Run

JOB = Submission("t0001", "alice", 90.0)
DONE = Row("t0001", "-", "12", "COMPLETED")
FIRST = Run("t0001", "-", "12", 1, "vm-h1-1", "b1", "alice", started=100.0, last=106.0, ended=106.0, status=0)
AGAIN = dataclasses.replace(FIRST, restart=3, host="vm-h2-1", boot="b2", started=130.0, last=136.0, ended=136.0)
CUT_SHORT = dataclasses.replace(FIRST, last=104.0, ended=None, status=None)
KILLED = Hit(1, "kill-qemu", "h1", 104.2, 104.2, vm="vm-h1-1")


def verdict(
    *runs: Run,
    job: Submission = JOB,
    row: Row | None = DONE,
    hits: tuple[Hit, ...] = (),
    deeds: tuple[Deed, ...] = (),
) -> list[str]:
    """The kinds of breaches found."""
    return [b.kind for b in judge(Evidence([job], deeds, hits, [row] if row is not None else [], runs))]


def test_a_job_that_ran_once_to_its_end_is_fine() -> None:
    assert verdict(FIRST) == []


def test_two_runs_of_a_job_alive_at_the_same_time_are_caught_whatever_excuses_the_second_start() -> None:
    beside, killed = dataclasses.replace(AGAIN, started=103.0), dataclasses.replace(KILLED, at=102.0)
    assert verdict(FIRST, beside, hits=(killed,)) == ["double"]
    assert verdict(beside, FIRST, hits=(killed,)) == ["double"]


def test_a_run_that_never_said_that_it_ended_is_alive_as_long_as_it_gave_signs() -> None:
    beside, killed = dataclasses.replace(AGAIN, started=103.0), dataclasses.replace(KILLED, at=102.0)
    assert verdict(CUT_SHORT, beside, hits=(killed,)) == ["double"]
    after = dataclasses.replace(AGAIN, started=105.0)
    assert verdict(CUT_SHORT, after, hits=(KILLED,)) == []


def test_two_tasks_of_one_array_may_run_side_by_side() -> None:
    array = dataclasses.replace(JOB, tasks=("1", "2"))
    runs = [dataclasses.replace(FIRST, task=task) for task in array.tasks]
    rows = [dataclasses.replace(DONE, task=task) for task in array.tasks]
    assert judge(Evidence([array], [], [], rows, runs)) == []


def test_a_second_start_without_any_failure_is_over_budget() -> None:
    assert verdict(FIRST, AGAIN) == ["over_budget"]


def test_a_second_start_after_its_vm_was_killed_is_within_the_budget() -> None:
    assert verdict(CUT_SHORT, AGAIN, hits=(KILLED,)) == []


def test_each_start_needs_a_failure_of_its_own() -> None:
    third = dataclasses.replace(AGAIN, restart=5, host="vm-h1-2", boot="b3", started=150.0, last=155.0)
    assert verdict(CUT_SHORT, AGAIN, third, hits=(KILLED,)) == ["over_budget"]


@pytest.mark.parametrize(
    "hit",
    [
        dataclasses.replace(KILLED, vm="vm-h1-2"),
        dataclasses.replace(KILLED, at=70.0, until=70.0),
        dataclasses.replace(KILLED, at=140.0, until=140.0),
        Hit(1, "kill-hostmaster", "h1", 102.0, 103.0),
        Hit(1, "kill-libvirtd", "h1", 102.0, 103.0),
        Hit(1, "kill-bait", "h1", 102.0, 103.0),
        Hit(1, "reboot-host", "h2", 102.0, 103.0),
        Hit(1, "journal-deleted-hostmaster", "h1", 102.0, 103.0),
    ],
    ids=lambda hit: f"{hit.kind}-{hit.host}-{hit.at:.0f}",
)
def test_a_fault_that_did_not_hit_the_vm_of_the_run_excuses_nothing(hit: Hit) -> None:
    assert verdict(FIRST, AGAIN, hits=(hit,)) == ["over_budget"]


def test_a_reboot_of_the_host_excuses_one_more_start() -> None:
    assert verdict(CUT_SHORT, AGAIN, hits=(Hit(1, "reboot-host", "h1", 104.0, 110.0),)) == []


def test_a_slurmctld_that_is_killed_between_a_launch_and_its_first_word_may_have_forgotten_the_launch() -> None:
    """Seed 3 of that day: Slurm had started the run, was killed 1.2 s before its first word, and knew nothing of it."""
    for ago_s, said in ((1.2, []), (-7.0, []), (3.5, ["over_budget"]), (-30.0, ["over_budget"])):
        killed = Hit(1, "kill-slurmctld", "h2", FIRST.started - ago_s, FIRST.started - ago_s + 2.9)
        assert verdict(CUT_SHORT, AGAIN, hits=(killed,)) == said


def test_a_users_own_requeue_excuses_one_more_start() -> None:
    assert verdict(CUT_SHORT, AGAIN, deeds=(Deed(104.0, "t0001", "requeue"),)) == []
    assert verdict(CUT_SHORT, AGAIN, deeds=(Deed(104.0, "t0002", "requeue"),)) == ["over_budget"]


def test_a_job_that_is_not_over_is_lost() -> None:
    assert verdict(row=dataclasses.replace(DONE, state="PENDING", reason="JobHeldAdmin")) == ["lost"]
    assert verdict(CUT_SHORT, row=dataclasses.replace(DONE, state="RUNNING")) == ["lost"]


def test_a_job_that_slurm_calls_completed_without_a_run_to_its_end_is_lost() -> None:
    assert verdict() == ["lost"]
    assert verdict(CUT_SHORT) == ["lost"]


def test_a_failed_job_is_lost_unless_its_user_cancelled_it() -> None:
    failed = dataclasses.replace(DONE, state="FAILED")
    assert verdict(FIRST, row=failed) == ["lost"]
    assert verdict(CUT_SHORT, row=failed, deeds=(Deed(102.0, "t0001", "cancel"),)) == []
    assert verdict(CUT_SHORT, row=failed, deeds=(Deed(102.0, "t0001", "cancel", done=False),)) == ["lost"]


def test_a_job_that_must_not_be_requeued_may_fail_with_its_node_once_it_has_started() -> None:
    once, failed = dataclasses.replace(JOB, requeue=False), dataclasses.replace(DONE, state="NODE_FAIL")
    assert verdict(CUT_SHORT, job=once, row=failed, hits=(KILLED,)) == []
    assert verdict(CUT_SHORT, job=once, row=failed) == ["lost"]
    assert verdict(job=once, row=failed, hits=(KILLED,)) == ["lost"]
    assert verdict(CUT_SHORT, row=failed, hits=(KILLED,)) == ["lost"]


def test_a_job_without_requeue_whose_machine_is_hit_as_it_begins_may_have_had_no_time_to_sign() -> None:
    once = dataclasses.replace(JOB, requeue=False)
    failed = dataclasses.replace(DONE, state="NODE_FAIL", node="vm-h1-1", started=100.0)
    cut = Hit(1, "host-cut-long", "h1", 100.6, 173.0)
    assert verdict(job=once, row=failed, hits=(cut,)) == []
    assert verdict(job=once, row=failed, hits=(dataclasses.replace(cut, at=106.0),)) == ["lost"]
    assert verdict(job=once, row=failed, hits=(dataclasses.replace(cut, host="h2"),)) == ["lost"]
    assert verdict(job=JOB, row=failed, hits=(cut,)) == ["lost"]


def test_a_job_that_slurm_does_not_know_is_lost_unless_slurm_was_killed_right_after_it_took_it() -> None:
    assert verdict(row=None) == ["lost"]
    assert verdict(row=None, hits=(Hit(1, "kill-slurmctld", "h1", 93.0, 95.0),)) == []
    assert verdict(row=None, hits=(Hit(1, "kill-slurmctld", "h1", 130.0, 132.0),)) == ["lost"]
    assert verdict(row=None, job=dataclasses.replace(JOB, sure=False)) == []


def test_a_run_on_a_host_itself_is_a_breach() -> None:
    assert verdict(dataclasses.replace(FIRST, host="h1")) == ["on_bait"]


def test_a_qemu_that_libvirt_only_asked_what_it_can_is_no_vm() -> None:
    """Seen: libvirtd was killed in that moment, and the clean-up waited for a process that nobody had."""
    probe = b"/usr/libexec/qemu-system-i386 -S -no-user-config -nodefaults -machine none,accel=kvm:tcg -daemonize"
    assert guest_of(probe.split()) is None
    vm = b"/usr/bin/qemu-system-x86_64 -name guest=vm-h1-1,debug-threads=on -S -machine pc-q35-7.2,accel=tcg"
    assert guest_of(vm.split()) == "vm-h1-1"
    assert guest_of([b"/usr/bin/qemu-system-x86_64", b"-S"]) == "?"
    assert guest_of([b"sleep", b"guest=vm-h1-1"]) is None
