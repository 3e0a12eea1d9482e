"""What Slurm's commands print, as values. Pure: text in, values out.

Users choose much of what squeue prints (accounts, names, comments; newlines and separators included). So every
field of a query ends in a mark that is drawn at random for that one query: no text can hold a mark that was
chosen after the text was written. squeue -O prints `TYPE:0MARK` untruncated and appends MARK literally.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from bait.lrms.base import OUR_NOTE, JobState, JobView, LrmsUnavailable, NodeState, NodeView
from protocol.ids import Run

JOB_FIELDS = (
    "JobArrayID", "UserID", "UserName", "State", "PriorityLong", "RestartCnt", "NodeList", "Partition", "Account",
    "Feature", "NumCPUs", "MinMemory", "tres", "MinTmpDisk", "TimeLimit", "NumNodes", "BatchFlag", "Requeue",
    "ReqNodes", "admin_comment", "Comment", "exit_code", "Reservation",
)  # fmt: skip
WAITING_FIELDS = ("JobArrayID", "State", "Partition", "ReqNodes", "admin_comment")
NODE_FIELDS = ("NodeList", "StateComplete", "Reason")
OUR_REASON = "wnod:"

_PENDING = frozenset({"PENDING", "SPECIAL_EXIT", "REQUEUE_HOLD", "RESV_DEL_HOLD"})
_RUNNING = frozenset({"RUNNING", "CONFIGURING", "RESIZING", "SUSPENDED", "STOPPED", "SIGNALING"})
_LEAVING = frozenset({"COMPLETING", "STAGE_OUT", "REQUEUED", "REQUEUE_FED"})
_ENDED = frozenset(
    {
        "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
        "OUT_OF_MEMORY", "REVOKED",
    }
)  # fmt: skip
_STATES = {
    **dict.fromkeys(_PENDING, JobState.PENDING),
    **dict.fromkeys(_RUNNING, JobState.RUNNING),
    **dict.fromkeys(_LEAVING, JobState.LEAVING),
    **dict.fromkeys(_ENDED, JobState.ENDED),
}
PARKED_WORDS = frozenset({"SPECIAL_EXIT", "REQUEUE_HOLD"})
"""The states in which Slurm, not the user, put the hold on."""
_HAND_BACK = 198
"""The starter's exit code for "back to the queue". A job whose node fails shows the code of its run before: a park."""
HOLD_MARK = "[wnod-hold]"
"""job_submit.lua begins the comment of a parked job with it that somebody holds: Slurm itself shows no difference."""
REFUSED_NOTE = "wnod: refused:"
"""How the note of a job that we refused begins: its hold is ours too."""

_DOWN = frozenset(
    {"down", "error", "unknown", "future", "invalid", "fail", "powered_down", "powering_down", "power_down",
     "reboot_issued", "reboot_requested", "invalid_reg"}
)  # fmt: skip
_DRAIN = frozenset({"drain", "drained", "draining"})
_BUSY = frozenset({"allocated", "mixed", "completing"})
_JOB_ID = re.compile(r"(?P<job>[0-9]+)(?:_(?P<task>[0-9]+))?\Z")
_NODES = re.compile(r"(?:[^,\[]|\[[^]]*\])+")  # of "m2,n[1-3,7]": two
_MIB = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<clock>[0-9]+(?::[0-9]+){0,2})\Z")
_AS_OF = re.compile(r"^Configuration data as of (\S+)$", re.MULTILINE)
_BOOT_TIME = re.compile(r"^BOOT_TIME\s*= (\S+)$", re.MULTILINE)
_SECONDS = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}  # "30" is minutes, "30:00" too


def job_id(run: Run) -> str:
    """Slurm's own form of a run's job: `A_T` for an array task, never the raw id behind it."""
    return run.job if run.task is None else f"{run.job}_{run.task}"


def is_job_id(text: str) -> bool:
    """True if Slurm could have given out this id; anything else is not worth a question."""
    return len(text) <= 32 and _JOB_ID.match(text) is not None


def columns(fields: Sequence[str], mark: str) -> str:
    """The `-O` argument that prints these fields in full, each ended by the mark."""
    return ",".join(f"{field}:0{mark}" for field in fields)


def records(text: str, fields: Sequence[str], mark: str) -> Iterator[dict[str, str]]:
    """The records of an answer; LrmsUnavailable if it is not made of whole records (cut off, garbled)."""
    parts = text.split(mark)
    width = len(fields)
    if (len(parts) - 1) % width or parts[-1].strip():
        raise LrmsUnavailable(f"squeue/sinfo: {len(parts) - 1} fields are not whole records of {width}")
    for start in range(0, len(parts) - 1, width):
        row = parts[start : start + width]
        if start and not row[0].startswith("\n"):
            raise LrmsUnavailable(f"squeue/sinfo: no new line before record {start // width}")
        yield {field: _plain(value) for field, value in zip(fields, [row[0].lstrip("\n"), *row[1:]], strict=True)}


Seen = tuple[JobView, str]
"""A job and the comment its user sees."""


def parse_jobs(text: str, mark: str, cluster: str) -> dict[str, Seen | LrmsUnavailable]:
    """Job id (`A` or `A_T`) -> the job, or why it was not understood; of the others all is known then.
    LrmsUnavailable when that is so of the whole answer."""
    found: dict[str, Seen | LrmsUnavailable] = {}
    for record in records(text, JOB_FIELDS, mark):
        if _JOB_ID.match(record["JobArrayID"]):  # "7_[1-9%2]" is the unsplit rest of an array, not a job
            found[record["JobArrayID"]] = _read(record, cluster)
    return found


def understood(seen: Seen | LrmsUnavailable) -> Seen:
    """The job; LrmsUnavailable if its record says something that nobody here knows (R13)."""
    if isinstance(seen, LrmsUnavailable):
        raise LrmsUnavailable(str(seen))  # one for each who asks
    return seen


def may_be_ours(text: str, mark: str, vm_partition: str) -> set[str]:
    """Ids of waiting jobs that a bait has parked, or sent: those carry our note and wait for a node, anywhere."""
    found = set()
    for record in records(text, WAITING_FIELDS, mark):
        parked = record["State"] in PARKED_WORDS or vm_partition in record["Partition"].split(",")
        sent = bool(record["ReqNodes"]) and record["admin_comment"].startswith(OUR_NOTE)
        if (parked or sent) and _JOB_ID.match(record["JobArrayID"]):  # not the unsplit rest of an array: nobody's yet
            found.add(record["JobArrayID"])
    return found


def waited_for(text: str, mark: str) -> set[str]:
    """Nodes that jobs with our note wait for, held or not. Others' jobs are not ours to give back, and bind no node."""
    waiting = records(text, WAITING_FIELDS, mark)
    ours = (record["ReqNodes"] for record in waiting if record["admin_comment"].startswith(OUR_NOTE))
    return {node for nodes in ours for node in _NODES.findall(nodes)}


def parse_nodes(text: str, mark: str) -> dict[str, NodeView]:
    """Node name -> node. LrmsUnavailable when not understood."""
    return {view.name: view for view in map(_node, records(text, NODE_FIELDS, mark))}


def up_for_s(text: str) -> float:
    """Age of the slurmctld that printed its configuration; LrmsUnavailable when not understood. Both times are its own,
    in whole seconds."""
    try:
        now, began = (datetime.fromisoformat(_found(pattern, text)) for pattern in (_AS_OF, _BOOT_TIME))
    except ValueError as error:
        raise LrmsUnavailable(f"scontrol show config: not understood: {error}") from error
    return max(0.0, (now - began).total_seconds())


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    if match is None:
        raise ValueError(f"no line {pattern.pattern}")
    return match[1]


def is_dynamic(node: NodeView) -> bool:
    """True for nodes that registered themselves (a VM's): only those may be deleted."""
    return "dynamic" in node.word


def held_by_us(job: JobView) -> bool:
    """True if the hold is Slurm's for our exit code, or ours of a refusal: one that we may release."""
    return job.held and (job.word in PARKED_WORDS or job.note.startswith(REFUSED_NOTE))


def mib(text: str) -> int | None:
    """Slurm's size ("0", "700M", "1.50G") in MiB, rounded up; None for none."""
    match = re.match(r"([0-9]+(?:\.[0-9]+)?)([KMGTP]?)", text)
    if match is None:
        return None
    size = float(match[1]) * _MIB[match[2] or "M"]
    return int(-(-size // 1)) or None


def seconds(text: str) -> int | None:
    """Slurm's time limit ("1-02:03:04", "30:00", "UNLIMITED") in seconds; None for none."""
    match = _TIME.match(text)
    if match is None:
        return None
    clock = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:  # D-H, D-H:M, D-H:M:S
        units: tuple[int, ...] = (3600, 60, 1)
    else:
        units = _SECONDS[len(clock)]
    return int(match["days"] or 0) * 86400 + sum(n * unit for n, unit in zip(clock, units, strict=False))


def _plain(value: str) -> str:
    return "" if value in {"(null)", "N/A", "none"} else value


def _read(record: dict[str, str], cluster: str) -> Seen | LrmsUnavailable:
    try:
        return _job(record, cluster), record["Comment"]
    except (ValueError, KeyError) as error:
        return LrmsUnavailable(f"squeue: job {record['JobArrayID']}: not understood: {error!r}")


def _job(record: dict[str, str], cluster: str) -> JobView:
    state = _STATES[record["State"]]
    code = int(record["exit_code"])
    ended = state is JobState.ENDED
    return JobView(
        run=_run(record, cluster),
        owner=int(record["UserID"]),
        user=record["UserName"],
        state=state,
        word="PENDING" if _is_held_besides(record) else record["State"],
        held=state is JobState.PENDING and int(record["PriorityLong"]) == 0,
        node=(record["NodeList"] or None) if state is JobState.RUNNING else None,
        partition=record["Partition"],
        account=record["Account"],
        wishes=record["Feature"],
        cpus=_first(record["NumCPUs"]),
        memory_mib=_memory(record),
        disk_mib=mib(record["MinTmpDisk"]),
        time_limit_s=seconds(record["TimeLimit"]),
        nodes=_first(record["NumNodes"]),
        batch=record["BatchFlag"] not in ("", "0"),  # Slurm counts on in it how often a job's node has failed
        requeue=record["Requeue"] == "1",
        required_nodes=tuple(_NODES.findall(record["ReqNodes"])),
        note=record["admin_comment"],
        exit_code=code >> 8 & 255 if ended else None,
        signal=code & 127 if ended else None,
        gave_back=state is JobState.PENDING and code == _HAND_BACK << 8,
        reservation=record["Reservation"],
    )


def _is_held_besides(record: dict[str, str]) -> bool:
    """By somebody, who has to release it himself: not only by Slurm for our exit code."""
    return record["State"] in PARKED_WORDS and record["Comment"].startswith(HOLD_MARK)


def _run(record: dict[str, str], cluster: str) -> Run:
    match = _JOB_ID.match(record["JobArrayID"])
    assert match is not None  # parse_jobs looked already
    task = None if match["task"] is None else int(match["task"])
    return Run(cluster=cluster, job=match["job"], task=task, restart=int(record["RestartCnt"]))


def _first(text: str) -> int:
    """The smallest of a range ("2-4") that Slurm prints for jobs that have not started."""
    return int(text.partition("-")[0])


def _memory(record: dict[str, str]) -> int | None:
    """What the job asked for in all; None if it said nothing, which Slurm reads as "a whole node"."""
    asked = mib(record["MinMemory"])
    if asked is None:
        return None
    for item in record["tres"].split(","):
        name, _, value = item.partition("=")
        if name == "mem":
            return mib(value)
    return asked


def _node(record: dict[str, str]) -> NodeView:
    words = frozenset(record["StateComplete"].lower().rstrip("*$~#!%@^-").split("+"))
    reason = record["Reason"]
    state, word = _node_state(words, reason), record["StateComplete"].lower()
    return NodeView(record["NodeList"], state, word, reason, occupied=bool(words & _BUSY))


def is_idle(view: NodeView) -> bool:
    """True for a node that has no job on it, also none that is being cleaned up, and that answers slurmctld."""
    return frozenset(view.word.split("+")) <= {"idle", *_DRAIN}


def _node_state(words: frozenset[str], reason: str) -> NodeState:
    drained, ours = bool(words & _DRAIN), reason.startswith(OUR_REASON)
    if drained and not ours:
        return NodeState.CLOSED_BY_OTHERS
    if words & _DOWN:
        return NodeState.DOWN
    if drained:
        return NodeState.CLOSED_BY_US
    if "not_responding" in words:  # also for seconds after an open that was not of an idle node (`undrain`)
        return NodeState.DOWN
    return NodeState.BUSY if words & _BUSY else NodeState.READY
