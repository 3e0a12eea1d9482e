"""The argument lists of Slurm's commands, and what their complaints mean. Pure: values in, argv out.

Every value is one argv element, so nothing a user wrote is ever split, quoted or interpreted by a shell.
"""

import re
from collections.abc import Sequence

from bait.lrms.base import Home, LrmsRefused, LrmsUnavailable
from bait.lrms.slurm_parse import JOB_FIELDS, NODE_FIELDS, OUR_REASON, WAITING_FIELDS, columns

Argv = tuple[str, ...]

_COMMENT_LIMIT = 1024  # longer comments are refused by slurmctld
_TEXT_LIMIT = 300
_NOTE_LIMIT = 8192  # AdminComment itself takes what an argument can hold: 130 000 bytes were kept (22.05.8)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})\Z")
_OURS = re.compile(r" ?\[wnod: [^\[\]]*\]\Z")
# slurmctld away or too slow, in the words of Slurm's commands. "Unexpected message" is what scontrol says of a
# time-out or a refused connection when the job id could be an array's (seen with 22.05.8); "upon execvpe" is what
# Twisted's child says of a program it cannot start.
_AWAY = (
    "unable to contact slurm controller", "socket timed out", "unexpected message received", "connection refused",
    "communication connection failure", "zero bytes were transmitted", "backup controller", "standby mode",
    "slurm_load_ctl_conf", "unable to establish", "configuration source", "protocol authentication error",
    "invalid authentication credential", "temporarily unable", "receive failure", "send failure", "reset by peer",
    "munge", "busy, retry", "upon execvpe",
)  # fmt: skip
# A job that starts on the node it has just left, within that second of its end, is taken for the old run and fails
# ("Job credential revoked"). The clocks of slurmctld and the node may differ, so more than a second.
_BACK_S = 10
_NO_SUCH_JOB = "invalid job id specified"
_NO_SUCH_NODE = "invalid node name specified"
_NO_SUCH_RESERVATION = "requested reservation is invalid"


SHOW_CONFIG: Argv = ("scontrol", "show", "config")
"""Among much else, when slurmctld started."""


def squeue(ids: Sequence[str], mark: str) -> Argv:
    """One query for all these jobs, ended ones and single array tasks included."""
    wanted = ("-j", ",".join(ids))
    return ("squeue", "-h", "-a", "-r", "-t", "all", "--noconvert", *wanted, "-O", columns(JOB_FIELDS, mark))


def squeue_waiting(mark: str) -> Argv:
    """One query for what `may_be_ours` and `waited_for` must know of every job that waits."""
    return ("squeue", "-h", "-a", "-t", "PENDING,SPECIAL_EXIT,REQUEUE_HOLD", "-O", columns(WAITING_FIELDS, mark))


def sinfo(mark: str, partition: str) -> Argv:
    """All nodes of a partition, hidden ones too."""
    return ("sinfo", "-h", "-p", partition, "-N", "-O", columns(NODE_FIELDS, mark))


def sinfo_of(mark: str, node: str) -> Argv:
    """One node, wherever it is: of a single one slurmctld is asked for no other (0.4 ms of its time and 3 ms of ours
    instead of 2.6 and 53 with 2 000 nodes, 22.05.8)."""
    return ("sinfo", "-h", "-a", "-N", "-n", checked_node(node), "-O", columns(NODE_FIELDS, mark))


def target(job: str, partition: str, node: str, note: str, is_reserved: bool = False) -> Argv:
    """Point a parked job at its VM. Without StartTime a requeued job waits two minutes, in a reservation for ever."""
    place = (f"Partition={partition}", f"ReqNodeList={checked_node(node)}", "StartTime=now")
    free = ("ReservationName=",) if is_reserved else ()
    return (*_update(job), *place, *free, "Requeue=1", f"AdminComment={note_line(note)}")


def untarget(job: str, home: Home, nodes: Sequence[str] | None, note: str, delay_s: int) -> Argv:
    """Undo `target`; eligible again after the delay. `nodes`: required from now on; None: those that are stay, and
    the reservation."""
    required: Argv = () if nodes is None else (f"ReqNodeList={','.join(nodes)}",)
    required += (f"ReservationName={home.reservation}",) if nodes is not None and home.reservation else ()
    place = (f"Partition={home.partition}", *required, f"StartTime=now+{max(_BACK_S, delay_s)}")
    return (*_update(job), *place, f"Requeue={int(home.requeue)}", f"AdminComment={note_line(note)}")


def comment(job: str, text: str) -> Argv:
    """The whole comment, as `with_word` made it."""
    return (*_update(job), f"Comment={text}")


def requeueable(job: str, note: str) -> Argv:
    """Allowed at any time, also while the job runs."""
    return (*_update(job), "Requeue=1", *([f"AdminComment={note}"] if note else []))


def not_requeueable(job: str) -> Argv:
    """Allowed at any time, also while the job runs."""
    return (*_update(job), "Requeue=0")


def release(job: str) -> Argv:
    """Takes any hold away; the job keeps its place and start time."""
    return ("scontrol", "release", job)


def user_hold(job: str) -> Argv:
    """A hold that the job's user can release himself."""
    return ("scontrol", "uhold", job)


def drain(node: str, reason: str) -> Argv:
    """No new jobs; those on it go on."""
    return ("scontrol", "update", f"NodeName={checked_node(node)}", "State=DRAIN", f"Reason={our_reason(reason)}")


def down(node: str, reason: str) -> Argv:
    """Slurm sees to the node's jobs at once: requeued, or NODE_FAIL for those that may not be."""
    return ("scontrol", "update", f"NodeName={checked_node(node)}", "State=DOWN", f"Reason={our_reason(reason)}")


def undrain(node: str, is_idle: bool) -> Argv:
    """Jobs again; unlike RESUME it leaves a node that is down as it is.

    After UNDRAIN slurmctld asks the node before it uses it, for 0.7 s to 7 s. After IDLE it does not, but takes the
    word for true: so only for a node that has no job and answers. Drained as it is, it gets no job meanwhile.
    """
    return ("scontrol", "update", f"NodeName={checked_node(node)}", f"State={'IDLE' if is_idle else 'UNDRAIN'}")


def delete_node(node: str) -> Argv:
    """Slurm forgets the node; it refuses while a job is on it."""
    return ("scontrol", "delete", f"nodename={checked_node(node)}")


def our_reason(reason: str) -> str:
    """A node's reason as we write it: one line that begins with our word."""
    text = one_line(reason)
    return text if text.startswith(OUR_REASON) else f"{OUR_REASON} {text}"


def with_word(comment_now: str, text: str) -> str:
    """The job's comment with our word in it: the user's own text stays, our older word goes."""
    theirs = _OURS.sub("", comment_now)
    word = re.sub(r"[\[\]]", "|", one_line(text))
    if not word:
        return theirs
    joined = f"{theirs} [wnod: {word}]".lstrip(" ") if theirs else f"[wnod: {word}]"
    return joined if len(joined.encode()) < _COMMENT_LIMIT else theirs


def one_line(text: str, limit: int = _TEXT_LIMIT) -> str:
    """Text for people, fit for a field of Slurm's: one printable line, at most 300 characters."""
    line = "".join(char if char.isprintable() else " " for char in text).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def note_line(note: str) -> str:
    """A note, fit for AdminComment: half of one would tell another bait something wrong, so it may be long."""
    return one_line(note, _NOTE_LIMIT)


def checked_node(node: str) -> str:
    """The name, if it is one node's name; brackets and commas would name many."""
    if _NAME.match(node) is None:
        raise LrmsRefused(f"node name {one_line(node)!r}: letters, digits, dots and hyphens expected")
    return node


def no_such_job(complaint: str) -> bool:
    """True if squeue says positively that it does not know the one job it was asked for."""
    return _NO_SUCH_JOB in complaint.lower() and not _is_away(complaint)


def no_such_node(complaint: str) -> bool:
    """True if scontrol says positively that the node does not exist."""
    return _NO_SUCH_NODE in complaint.lower() and not _is_away(complaint)


def no_such_reservation(complaint: str) -> bool:
    """True if scontrol says positively that the reservation does not exist, or not for this user."""
    return _NO_SUCH_RESERVATION in complaint.lower() and not _is_away(complaint)


def failure(argv: Sequence[str], complaint: str) -> LrmsUnavailable | LrmsRefused:
    """What a command's non-zero exit means: no answer, or the answer no."""
    text = f"{' '.join(argv[:3])}: {one_line(complaint) or 'failed without a word'}"
    return LrmsUnavailable(text) if not complaint.strip() or _is_away(complaint) else LrmsRefused(text)


def _update(job: str) -> Argv:
    return ("scontrol", "update", f"JobId={job}")


def _is_away(complaint: str) -> bool:
    lowered = complaint.lower()
    return any(phrase in lowered for phrase in _AWAY)
