"""The 35 crash points of the design, each with the places where a daemon is killed for it or the tests."""

HANDOFF = "tests/unit/test_handoff.py::"
MODEL = "tests/model/mutants.py::AS_BUILT"

TABLE: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("a job comes while the bait is down", (f"{HANDOFF}test_a_bait_that_dies_after_any_commit_loses_no_job",)),
    2: ("bait: before the lease is journalled", ("bait.commit.requested.before",)),
    3: ("bait: lease journalled, not sent", ("bait.commit.requested.after", "bait.deed.ask.before")),
    4: ("hostmaster: lease heard, not journalled", ("host.commit.reserved.before",)),
    5: ("hostmaster: journalled, not created", ("host.commit.reserved.after", "host.deed.create.before")),
    6: (
        "hostmaster: created, answer unknown",
        ("host.deed.create.after", f"{HANDOFF}test_a_create_whose_answer_is_lost_makes_one_vm"),
    ),
    7: ("the grant is lost", ("host.say.granted.before", "host.say.granted.after")),
    8: ("the VM dies or never boots", (f"{HANDOFF}test_a_job_whose_vm_dies_before_it_starts_runs_once_in_another",)),
    9: ("hostmaster: ready, not told", ("host.commit.bound.before", "host.commit.bound.after")),
    10: ("bait: around bind", ("bait.deed.bind.before", "bait.deed.bind.after", "bait.commit.parking.before")),
    11: ("the VM dies when it is bound and the starter still there", (MODEL,)),
    12: ("bait: move journalled, starter not told", ("bait.commit.parking.after", "bait.deed.say-park.before")),
    13: ("the bait's node reboots there", (MODEL,)),
    14: ("the starter has exited, the LRMS not yet requeued", ("bait.deed.say-park.after",)),
    15: (
        "parked, the bait down",
        ("bait.commit.parked.before", "bait.commit.parked.after", "bait.rescue.before", "bait.rescue.after"),
    ),
    16: (
        "between target and release",
        ("tests/contract/lrms/test_contract.py::test_a_job_sent_before_it_was_released_is_sent_once", MODEL),
    ),
    17: (
        "the release's answer is lost",
        ("bait.deed.send.after", f"{HANDOFF}test_an_lrms_whose_answers_get_lost_still_starts_a_job_once"),
    ),
    18: ("the VM dies after the release, before the start", (MODEL,)),
    19: ("the job starts in the VM, the hostmaster is down", ("host.commit.started.before",)),
    20: ("hostmaster: around the gate's yes", ("host.commit.started.after", "host.say.allow.before")),
    21: ("the VM dies while the job runs", (f"{HANDOFF}test_a_job_whose_vm_dies_while_it_runs_starts_once_more",)),
    22: ("hostmaster: dies while the VM runs", ("host.say.allow.after",)),
    23: ("libvirt is away", (f"{HANDOFF}test_libvirt_away_while_a_job_runs_changes_nothing_for_it",)),
    24: ("the whole host dies", ("tests/simulation/faults.py::reboot",)),
    25: (
        "the host is cut off",
        ("host.deed.pause.before", "host.deed.pause.after", "host.deed.unpause.before", "host.deed.unpause.after"),
    ),
    26: ("the run has ended, the LRMS does not say so yet", ("bait.commit.ended.before",)),
    27: ("bait: before the VM is released", ("bait.commit.ended.after", "bait.deed.release-vm.before")),
    28: ("the release's answer is lost or repeated", ("host.say.released.before", "bait.deed.release-vm.after")),
    29: (
        "hostmaster: while it destroys",
        (
            "host.commit.destroying.after", "host.deed.destroy.before", "host.deed.destroy.after",
            "host.deed.clean.before", "host.deed.clean.after", "host.commit.gone.before", "host.forget.before",
        ),
    ),
    30: ("while a VM is recycled", ()),
    31: ("the bait's journal is lost", (f"{HANDOFF}test_a_bait_that_lost_its_journal_adopts_its_leases",)),
    32: ("the hostmaster's is", (f"{HANDOFF}test_a_host_that_lost_its_journal_adopts_its_vms_from_libvirt",)),
    33: ("the LRMS forgets its last seconds", (MODEL, "tests/simulation/faults.py::amnesia")),
    34: ("the user cancels or holds at any step", (f"{HANDOFF}test_a_user_who_holds_his_parked_job",)),
    35: ("daemons of two versions", ("tests/unit/protocol/test_link_refusals.py::version",)),
}  # fmt: skip
"""Row of the design's table: what happens there; a crash point, or FILE::WORD in that file. Row 30 is not built."""
