"""Reading Slurm's answers: what users write into their jobs must never look like Slurm's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bait.lrms.base import JobState, JobView, LrmsUnavailable, NodeState
from bait.lrms.slurm_parse import (
    JOB_FIELDS,
    NODE_FIELDS,
    columns,
    is_dynamic,
    is_job_id,
    job_id,
    mib,
    parse_jobs,
    parse_nodes,
    seconds,
    understood,
    up_for_s,
)
from protocol.ids import Run

MARK = "w0123456789abcdef"

PARKED = {
    "JobArrayID": "502",
    "UserID": "7701",
    "UserName": "alice",
    "State": "SPECIAL_EXIT",
    "PriorityLong": "0",
    "RestartCnt": "1",
    "NodeList": "",
    "Partition": "batch",
    "Account": "(null)",
    "Feature": "debian12&ssd",
    "NumCPUs": "2",
    "MinMemory": "513M",
    "tres": "cpu=2,mem=1026M,node=1,billing=2",
    "MinTmpDisk": "700M",
    "TimeLimit": "1:00:00",
    "NumNodes": "1",
    "BatchFlag": "1",
    "Requeue": "1",
    "ReqNodes": "",
    "admin_comment": "(null)",
    "Comment": "(null)",
    "exit_code": "50944",
    "Reservation": "(null)",
}


def answer(*changes: dict[str, str], mark: str = MARK) -> str:
    """squeue's answer: one record per argument, in 22.05's form."""
    rows = ("".join(({**PARKED, **change}[field] + mark) for field in JOB_FIELDS) for change in changes)
    return "".join(row + "\n" for row in rows)


def jobs(text: str) -> dict[str, tuple[JobView, str]]:
    return {job: understood(seen) for job, seen in parse_jobs(text, MARK, "c").items()}


def one(**change: str) -> JobView:
    (found,) = jobs(answer(change)).values()
    return found[0]


def test_a_parked_job() -> None:
    assert one() == JobView(
        run=Run(cluster="c", job="502", restart=1),
        owner=7701,
        user="alice",
        state=JobState.PENDING,
        word="SPECIAL_EXIT",
        held=True,
        node=None,
        partition="batch",
        account="",
        wishes="debian12&ssd",
        cpus=2,
        memory_mib=1026,
        disk_mib=700,
        time_limit_s=3600,
        nodes=1,
        batch=True,
        requeue=True,
        required_nodes=(),
        note="",
    )


def test_a_batch_job_whose_node_has_failed_is_still_a_batch_job() -> None:
    """Torture, seed 1: Slurm showed BatchFlag=2, the bait handed the job back, and so again every two minutes."""
    assert [one(BatchFlag=flag).batch for flag in ("0", "1", "2", "5")] == [False, True, True, True]


def test_a_running_job_has_a_node_and_is_not_held() -> None:
    view = one(State="RUNNING", NodeList="vm1", ReqNodes="vm1", PriorityLong="0")
    assert (view.state, view.node, view.required_nodes, view.held) == (JobState.RUNNING, "vm1", ("vm1",), False)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [("", ()), ("n1", ("n1",)), ("m2,n[1-3,7]", ("m2", "n[1-3,7]")), ("a[1,2]b[3-4],c", ("a[1,2]b[3-4]", "c"))],
)
def test_required_nodes_are_read_as_slurm_wants_them_back(text: str, nodes: tuple[str, ...]) -> None:
    view = one(ReqNodes=text)
    assert view.required_nodes == nodes
    assert ",".join(view.required_nodes) == text


@pytest.mark.parametrize(
    ("status", "code", "signal"), [("0", 0, 0), ("768", 3, 0), ("9", 0, 9), ("50944", 199, 0), ("139", 0, 11)]
)
def test_an_ended_jobs_exit(status: str, code: int, signal: int) -> None:
    view = one(State="FAILED", exit_code=status, NodeList="vm1")
    assert (view.state, view.exit_code, view.signal, view.node) == (JobState.ENDED, code, signal, None)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", JobState.PENDING),
        ("REQUEUE_HOLD", JobState.PENDING),
        ("RESV_DEL_HOLD", JobState.PENDING),
        ("CONFIGURING", JobState.RUNNING),
        ("SUSPENDED", JobState.RUNNING),
        ("COMPLETING", JobState.LEAVING),
        ("REQUEUED", JobState.LEAVING),
        ("CANCELLED", JobState.ENDED),
        ("NODE_FAIL", JobState.ENDED),
    ],
)
def test_states(word: str, state: JobState) -> None:
    assert one(State=word).state is state


def test_array_tasks_and_the_rest_of_an_array() -> None:
    found = jobs(answer({"JobArrayID": "509_3"}, {"JobArrayID": "509_[4-9%2]"}))
    assert list(found) == ["509_3"]
    run = found["509_3"][0].run
    assert (run.job, run.task, job_id(run)) == ("509", 3, "509_3")


def test_no_memory_wish_is_none_though_slurm_counts_the_whole_node() -> None:
    assert one(MinMemory="0", tres="cpu=1,mem=16000M,node=1").memory_mib is None
    assert one(MinMemory="100M", tres="cpu=1,node=1").memory_mib == 100


EVIL = (
    "\n",
    "\n\n502",
    "x=\"'\n1|2|3\x1f\x1e\tJobId=9 Features=vwn </name>`id` $(id)",
    "w0123456789abcde",
    "\x00",
    "(null",
    "é" * 10_000,
    "wffffffffffffffff" * 22 + "\n",
)


@pytest.mark.parametrize("text", EVIL)
def test_a_users_text_is_only_text(text: str) -> None:
    found = jobs(answer({"Account": text, "Comment": text}, {"JobArrayID": "503"}))
    assert list(found) == ["502", "503"]
    assert found["502"][0].account == text
    assert found["502"][1] == text


@given(st.text().filter(lambda text: MARK not in text and text not in {"(null)", "N/A", "none"}))
def test_any_text_that_does_not_know_the_mark_comes_back_as_it_is(text: str) -> None:
    found = jobs(answer({"Account": text, "Feature": text}))
    assert (found["502"][0].account, found["502"][0].wishes) == (text, text)


@given(st.integers(min_value=1, max_value=len(answer(PARKED)) - 2))
def test_an_answer_cut_off_anywhere_is_not_believed(length: int) -> None:
    whole = answer({}, {"JobArrayID": "503"})
    first = len(answer({}))
    with pytest.raises(LrmsUnavailable):
        parse_jobs(whole[: first + length], MARK, "c")


@pytest.mark.parametrize(
    "change",
    [{"State": "DANCING"}, {"RestartCnt": ""}, {"UserID": "alice"}, {"RestartCnt": "x"}, {"exit_code": "0:0"}],
)
def test_what_is_not_understood_is_unknown_not_absent(change: dict[str, str]) -> None:
    with pytest.raises(LrmsUnavailable, match="job 502: not understood"):
        one(**change)
    assert list(jobs(answer({"JobArrayID": "503"}))) == ["503"]
    assert isinstance(parse_jobs(answer(change, {"JobArrayID": "503"}), MARK, "c")["503"], tuple)


def test_no_jobs_at_all_is_an_answer() -> None:
    assert parse_jobs("", MARK, "c") == {}


def test_the_columns_end_in_the_mark_and_are_not_cut() -> None:
    assert columns(("State", "Comment"), MARK) == f"State:0{MARK},Comment:0{MARK}"


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("idle", "none", NodeState.READY),
        ("mixed+dynamic_norm", "none", NodeState.BUSY),
        ("allocated+completing", "none", NodeState.BUSY),
        ("idle+drain", "wnod: no room", NodeState.CLOSED_BY_US),
        ("mixed+drain", "wnod: no room", NodeState.CLOSED_BY_US),
        ("idle+drain", "disk broken", NodeState.CLOSED_BY_OTHERS),
        ("idle+drain", "none", NodeState.CLOSED_BY_OTHERS),
        ("down+drain", "disk broken", NodeState.CLOSED_BY_OTHERS),
        ("down+drain", "wnod: no room", NodeState.DOWN),
        ("down", "Not responding", NodeState.DOWN),
        ("idle+not_responding", "none", NodeState.DOWN),
        ("idle+drain+not_responding", "wnod: no room", NodeState.CLOSED_BY_US),
        ("idle+drain+not_responding", "disk broken", NodeState.CLOSED_BY_OTHERS),
        ("unknown*", "none", NodeState.DOWN),
        ("idle*", "none", NodeState.READY),
    ],
)
def test_nodes(state: str, reason: str, expected: NodeState) -> None:
    text = "".join(value + MARK for value in ("bait-h1", state, reason)) + "\n"
    assert len(NODE_FIELDS) == 3
    assert parse_nodes(text * 2, MARK)["bait-h1"].state is expected  # sinfo says it once per partition


@pytest.mark.parametrize(
    ("state", "occupied"),
    [
        ("idle+drain", False),
        ("idle", False),
        ("mixed+drain", True),
        ("allocated", True),
        ("idle+completing+drain", True),
    ],
)
def test_a_closed_node_is_occupied_until_its_last_job_has_been_cleaned_up(state: str, occupied: bool) -> None:
    text = "".join(value + MARK for value in ("bait-h1", state, "wnod: stopped")) + "\n"
    assert parse_nodes(text, MARK)["bait-h1"].occupied is occupied


def test_only_nodes_that_registered_themselves_are_dynamic() -> None:
    lines = "".join(f"{name}{MARK}{state}{MARK}none{MARK}\n" for name, state in (("a", "idle"), ("b", "DYNAMIC_NORM")))
    nodes = parse_nodes(lines, MARK)
    assert [is_dynamic(nodes[name]) for name in ("a", "b")] == [False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", None), ("700M", 700), ("1G", 1024), ("1.50G", 1536), ("1K", 1), ("2T", 2**21), ("5", 5), ("", None)],
)
def test_sizes(text: str, expected: int | None) -> None:
    assert mib(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1-02:03:04", 93784),
        ("1:00:00", 3600),
        ("30:00", 1800),
        ("30", 1800),
        ("2-0", 172800),
        ("0:30", 30),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
        ("NOT_SET", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "x", "5 ", "5\n", "-1", "5_", "_5", "5_[1-3]", "5,6", "5.batch", "9" * 40])
def test_what_cannot_be_a_job_id(text: str) -> None:
    assert not is_job_id(text)


def test_job_ids() -> None:
    assert is_job_id("5")
    assert is_job_id("5_0")


CONFIG = """Configuration data as of 2026-11-20T11:44:10
AccountingStorageType   = accounting_storage/none
BOOT_TIME               = 2026-11-19T11:44:08
BurstBufferType         = (null)
"""


def test_the_controllers_age_is_the_difference_of_its_own_two_times() -> None:
    assert up_for_s(CONFIG) == 86_402
    assert up_for_s(CONFIG.replace("11-19", "11-21")) == 0  # its clock was set back


@pytest.mark.parametrize(
    "text", ["", CONFIG.partition("BOOT")[0], CONFIG.partition("\n")[2], CONFIG.replace("2026-11-19T", "Nov 19 ")]
)
def test_an_age_that_is_not_understood_is_no_answer(text: str) -> None:
    with pytest.raises(LrmsUnavailable, match="scontrol show config"):
        up_for_s(text)
