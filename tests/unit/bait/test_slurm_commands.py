"""Argument lists for Slurm, and the meaning of its complaints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bait.lrms import slurm_commands as commands
from bait.lrms.base import Home, LrmsRefused, LrmsUnavailable

HOME = Home(partition="batch", requeue=False)


def test_the_move_is_one_update() -> None:
    assert commands.target("7_3", "vwn", "vm-h1-1", "wnod:lease:1") == (
        "scontrol",
        "update",
        "JobId=7_3",
        "Partition=vwn",
        "ReqNodeList=vm-h1-1",
        "StartTime=now",
        "Requeue=1",
        "AdminComment=wnod:lease:1",
    )


def test_giving_back_clears_the_target() -> None:
    argv = commands.untarget("7", Home("batch,long", True), (), "", 15)
    assert argv[3:] == ("Partition=batch,long", "ReqNodeList=", "StartTime=now+15", "Requeue=1", "AdminComment=")


def test_a_job_never_goes_back_within_the_second_of_its_end() -> None:
    for delay in (-5, 0, 9):
        assert "StartTime=now+10" in commands.untarget("7", HOME, None, "", delay)


def test_giving_back_puts_required_nodes_back_as_slurm_wrote_them_and_leaves_others_alone() -> None:
    argv = commands.untarget("7", HOME, ("m2", "n[1-3,7]"), "", 15)
    assert "ReqNodeList=m2,n[1-3,7]" in argv
    assert not [word for word in commands.untarget("7", HOME, None, "", 15) if word.startswith("ReqNodeList")]


@pytest.mark.parametrize("node", ["vm[1-9]", "a,b", "", "a b", "a\n", "-x", "ALL\x00", "x" * 80])
def test_a_node_name_names_one_node(node: str) -> None:
    for build in (lambda name: commands.undrain(name, True), commands.delete_node):
        with pytest.raises(LrmsRefused, match="node name"):
            build(node)


def test_a_nodes_reason_is_marked_as_ours_once() -> None:
    assert commands.our_reason("no room") == "wnod: no room"
    assert commands.our_reason("wnod: no room") == "wnod: no room"


@given(st.text())
def test_texts_become_one_printable_line(text: str) -> None:
    line = commands.one_line(text)
    assert len(line) <= 300
    assert line.isprintable()
    assert commands.one_line(line) == line


@given(st.text(max_size=200), st.text(max_size=400), st.text(max_size=400))
def test_the_users_comment_survives_ours(theirs: str, first: str, second: str) -> None:
    if theirs.endswith("]") or theirs != theirs.strip():
        return
    told = commands.with_word(commands.with_word(theirs, first), second)
    assert commands.with_word(told, "") == theirs
    assert len(told.encode()) <= max(1024, len(theirs.encode()))


def test_our_word_follows_the_users_comment() -> None:
    assert commands.with_word("mine", "waits for room") == "mine [wnod: waits for room]"
    assert commands.with_word("mine [wnod: waits for room]", "VM boots [2/3]") == "mine [wnod: VM boots |2/3|]"
    assert commands.with_word("", "waits") == "[wnod: waits]"
    assert commands.with_word("[wnod: waits]", "") == ""
    assert commands.with_word("x" * 1020, "waits") == "x" * 1020


AWAY = (
    "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "slurm_load_jobs error: Socket timed out on send/recv operation",
    "Unexpected message received for job 523",
    "slurm_suspend error: Unexpected message received",
    "delete_node nodename=vm2: Unable to contact slurm controller (connect failure)",
    "Upon execvpe b'/opt/slurm/bin/scontrol' [...] No such file or directory: b'/opt/slurm/bin/scontrol'",
    "scontrol: fatal: Could not establish a configuration source",
    "",
)
NO = (
    "Invalid job id specified for job 999999",
    "Job has already finished for job 462",
    "519_4: Job is no longer pending execution",
    "519_4: Invalid node name specified",
    "Access/permission denied for job 523",
    "delete_node nodename=vm1: Requested nodes are busy",
    "scontrol: error: Invalid Priority value: UNLIMITED",
)


@pytest.mark.parametrize("complaint", AWAY)
def test_no_answer_is_not_a_no(complaint: str) -> None:
    assert isinstance(commands.failure(("scontrol", "update"), complaint), LrmsUnavailable)


@pytest.mark.parametrize("complaint", NO)
def test_a_no_is_told_in_slurms_words(complaint: str) -> None:
    error = commands.failure(("scontrol", "update"), complaint)
    assert isinstance(error, LrmsRefused)
    assert complaint in str(error)


def test_absence_needs_slurms_own_word() -> None:
    assert commands.no_such_job("slurm_load_jobs error: Invalid job id specified")
    assert not commands.no_such_job("slurm_load_jobs error: Socket timed out on send/recv operation")
    assert commands.no_such_node(
        "scontrol: error: failed to delete nodes vm9\ndelete_node: Invalid node name specified"
    )
    assert not commands.no_such_node("delete_node nodename=vm2: Requested nodes are busy")
