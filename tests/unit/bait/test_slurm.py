"""The adapter's own conduct: what it asks, when it acts, what it leaves alone. Slurm itself: tests/contract/lrms."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bait.lrms.base import Home, JobState, LrmsRefused, LrmsUnavailable
from bait.lrms.command import Output
from bait.lrms.slurm import Slurm, random_mark
from bait.lrms.slurm_parse import JOB_FIELDS
from protocol.ids import Run, Shape

MARK = "wmark"
T = TypeVar("T")
RUN = Run(cluster="c", job="12", restart=1)
HOME = Home("batch", True)
SHAPE = Shape(cpus=1, memory_mib=512, disk_mib=64)

_PARKED = {
    "JobArrayID": "12", "UserID": "1000", "UserName": "u", "State": "SPECIAL_EXIT", "PriorityLong": "0",
    "RestartCnt": "1", "NodeList": "", "Partition": "batch", "Account": "", "Feature": "", "NumCPUs": "1",
    "MinMemory": "100M", "tres": "cpu=1,mem=100M", "MinTmpDisk": "0", "TimeLimit": "1:00", "NumNodes": "1",
    "BatchFlag": "1", "Requeue": "1", "ReqNodes": "", "admin_comment": "(null)", "Comment": "mine", "exit_code": "0",
    "Reservation": "(null)",
}  # fmt: skip


def job(**changes: str) -> str:
    return "".join({**_PARKED, **changes}[field] + MARK for field in JOB_FIELDS) + "\n"


def node(name: str, state: str, reason: str = "none") -> str:
    return f"{name}{MARK}{state}{MARK}{reason}{MARK}\n"


class Commands:
    """Plays squeue, sinfo and scontrol: fixed answers, and a list of what was run."""

    def __init__(self) -> None:
        self.jobs = job()
        self.nodes = node("bait", "idle") + node("vm1", "idle+dynamic_norm")
        self.broken: dict[str, Output | Exception] = {}
        self.ran: list[tuple[str, ...]] = []

    async def run(self, argv: Sequence[str]) -> Output:
        self.ran.append(tuple(argv))
        broken = self.broken.get(argv[0]) or self.broken.get(" ".join(argv[:2]))
        if isinstance(broken, Exception):
            raise broken
        out = {"squeue": self.jobs, "sinfo": self.nodes}.get(argv[0], "")
        return broken or Output(0, out, "")

    def acts(self) -> list[tuple[str, ...]]:
        return [argv[1:] for argv in self.ran if argv[0] == "scontrol"]


class SlurmTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.commands = Commands()
        self.slurm = Slurm(self.clock, self.commands, "c", "vwn", mark=lambda: MARK)

    def start(self, call: Callable[[], Awaitable[T]]) -> "Deferred[T]":
        async def started() -> T:
            return await call()

        return Deferred.fromCoroutine(started())

    def done(self, call: Callable[[], Awaitable[T]]) -> T:
        waiting = self.start(call)
        self.clock.advance(0)
        return self.successResultOf(waiting)

    def refused(self, call: Callable[[], Awaitable[None]], kind: type[Exception] = LrmsRefused) -> str:
        waiting = self.start(call)
        self.clock.advance(0)
        return str(self.failureResultOf(waiting, kind).value)

    def send(self) -> Awaitable[None]:
        return self.slurm.send(RUN, "vm1", SHAPE, "wnod:l:1")

    def test_questions_of_one_turn_are_one_query(self) -> None:
        self.commands.jobs = job() + job(JobArrayID="13_2")
        first = self.start(lambda: self.slurm.jobs(["12", "99"]))
        second = self.start(lambda: self.slurm.jobs(["13_2"]))
        assert self.commands.ran == []
        self.clock.advance(0)
        assert set(self.successResultOf(first)) == {"12"}
        assert set(self.successResultOf(second)) == {"13_2"}
        assert [argv[0] for argv in self.commands.ran] == ["squeue"]
        assert "12,13_2,99" in self.commands.ran[0]

    def test_a_few_jobs_are_asked_for_one_by_one_where_many_wait(self) -> None:
        """Asked for two slurmctld sends the whole queue (0012)."""
        self.commands.jobs = f"7{MARK}PENDING{MARK}batch{MARK}{MARK}(null){MARK}\n" * 800
        assert self.done(self.slurm.waiting) == {}
        self.commands.ran.clear()
        self.commands.jobs = job()
        asked = [self.start(lambda n=n: self.slurm.jobs([str(n)])) for n in (12, 13, 14)]  # type: ignore[misc]
        self.clock.advance(0)
        assert [set(self.successResultOf(one)) for one in asked] == [{"12"}, set(), set()]
        assert [argv[argv.index("-j") + 1] for argv in self.commands.ran] == ["12", "13", "14"]
        self.done(lambda: self.slurm.jobs(["12", "13", "14", "15"]))
        assert len(self.commands.ran) == 4
        self.commands.broken["squeue"] = LrmsUnavailable("squeue: no answer in 10 s")
        assert "no answer" in self.refused(lambda: self.slurm.jobs(["12", "13"]), LrmsUnavailable)

    def test_a_later_question_is_a_new_query(self) -> None:
        self.done(lambda: self.slurm.jobs(["12"]))
        self.commands.jobs = job(RestartCnt="2")
        assert self.done(lambda: self.slurm.jobs(["12"]))["12"].run.restart == 2

    def test_a_failed_query_fails_everybody_who_asked_and_nobody_later(self) -> None:
        self.commands.broken["squeue"] = LrmsUnavailable("squeue: no answer in 10 s")
        waiting = [self.start(lambda: self.slurm.jobs(["12"])) for _ in range(2)]
        self.clock.advance(0)
        for one in waiting:
            self.failureResultOf(one, LrmsUnavailable)
        self.commands.broken.clear()
        assert "12" in self.done(lambda: self.slurm.jobs(["12"]))

    def test_a_job_that_is_not_understood_is_unknown_and_hides_no_other(self) -> None:
        """One job in a state of another release, and the bait knew nothing of any of its jobs."""
        self.commands.jobs = job(JobArrayID="13", State="DANCING") + job()
        strange = self.start(lambda: self.slurm.jobs(["13"]))
        mine = self.start(lambda: self.slurm.jobs(["12"]))
        self.clock.advance(0)
        assert set(self.successResultOf(mine)) == {"12"}
        assert "job 13: not understood" in str(self.failureResultOf(strange, LrmsUnavailable).value)
        assert "job 13" in self.refused(lambda: self.slurm.jobs(["12", "13"]), LrmsUnavailable)
        assert "job 13" in self.refused(lambda: self.slurm.forbid_requeue(replace(RUN, job="13")), LrmsUnavailable)

    def test_a_job_that_is_not_understood_keeps_none_from_its_rescue(self) -> None:
        waiting = [f"{number}{MARK}SPECIAL_EXIT{MARK}batch{MARK}{MARK}wnod:lease=x{MARK}\n" for number in (13, 12)]
        answers = ["".join(waiting), job(JobArrayID="13", RestartCnt="?") + job()]
        run = self.commands.run

        async def next_answer(argv: Sequence[str]) -> Output:
            self.commands.jobs = answers.pop(0)
            return await run(argv)

        self.commands.run = next_answer  # type: ignore[method-assign]
        found = self.start(self.slurm.waiting)
        self.clock.advance(0)
        self.clock.advance(0)
        assert set(self.successResultOf(found)) == {"12"}

    def test_nothing_is_asked_about_ids_slurm_cannot_have(self) -> None:
        assert self.done(lambda: self.slurm.jobs(["", "a;b", "12.0"])) == {}
        assert self.commands.ran == []

    def test_thousands_of_ids_are_several_queries(self) -> None:
        self.done(lambda: self.slurm.jobs([str(number) for number in range(1, 2502)]))
        assert len(self.commands.ran) == 3

    def test_one_unknown_job_is_absent_by_slurms_own_word_only(self) -> None:
        self.commands.broken["squeue"] = Output(1, "", "slurm_load_jobs error: Invalid job id specified\n")
        assert self.done(lambda: self.slurm.jobs(["5"])) == {}
        self.refused(lambda: self.slurm.jobs(["5", "6"]), LrmsUnavailable)  # squeue never says that of several
        self.commands.broken["squeue"] = Output(1, "", "squeue: error: something new\n")
        self.refused(lambda: self.slurm.jobs(["5"]), LrmsUnavailable)

    def test_send_looks_then_targets_then_releases(self) -> None:
        self.done(self.send)
        assert [argv[0] for argv in self.commands.ran] == ["squeue", "scontrol", "scontrol"]
        update, release = self.commands.acts()
        assert "ReqNodeList=vm1" in update
        assert release == ("release", "12")

    def test_send_again_after_a_lost_reply_finishes_only_what_is_missing(self) -> None:
        targeted = {"Partition": "vwn", "ReqNodes": "vm1", "admin_comment": "wnod:l:1"}
        self.commands.jobs = job(**targeted)
        self.done(self.send)
        assert self.commands.acts() == [("release", "12")]
        self.commands.ran.clear()
        self.commands.jobs = job(**targeted, State="PENDING", PriorityLong="9")
        self.done(self.send)
        self.commands.jobs = job(**targeted, State="RUNNING", NodeList="vm1")
        self.done(self.send)
        assert self.commands.acts() == []

    def test_another_run_is_left_alone_by_every_verb(self) -> None:
        self.commands.jobs = job(RestartCnt="2")
        for call in (
            self.send,
            lambda: self.slurm.give_back(RUN, HOME, ""),
            lambda: self.slurm.refuse(RUN, HOME, "x"),
            lambda: self.slurm.make_requeueable(RUN, ""),
        ):
            assert "c/12.2" in self.refused(call)
        self.done(lambda: self.slurm.tell(RUN, "x"))
        assert self.commands.acts() == []

    def test_the_same_number_in_another_cluster_is_another_job(self) -> None:
        other = Run(cluster="d", job="12", restart=1)
        self.refused(lambda: self.slurm.give_back(other, HOME, ""))
        assert self.commands.acts() == []

    def test_a_job_that_runs_leaves_or_ended_is_left_alone(self) -> None:
        for state in ("RUNNING", "COMPLETING", "CANCELLED"):
            self.commands.jobs = job(State=state, NodeList="bait")
            for call in (self.send, lambda: self.slurm.give_back(RUN, HOME, "")):
                assert state in self.refused(call)
        assert self.commands.acts() == []

    def test_a_users_hold_is_left_alone(self) -> None:
        self.commands.jobs = job(State="PENDING", PriorityLong="0")
        assert "held" in self.refused(self.send)
        self.done(lambda: self.slurm.give_back(RUN, HOME, ""))
        assert [argv[0] for argv in self.commands.acts()] == ["update"]

    def test_a_users_hold_on_a_parked_job_is_left_alone(self) -> None:
        """Slurm shows a parked job no differently when its user holds it: job_submit.lua marks it in the comment."""
        self.commands.jobs = job(State="SPECIAL_EXIT", PriorityLong="0", Comment="[wnod-hold] mine [wnod: the VM]")
        assert "held" in self.refused(self.send)
        self.done(lambda: self.slurm.give_back(RUN, HOME, ""))
        assert [argv[0] for argv in self.commands.acts()] == ["update"]
        self.done(lambda: self.slurm.tell(RUN, "back in the queue"))
        assert "Comment=[wnod-hold] mine [wnod: back in the queue]" in self.commands.acts()[-1]

    def test_a_job_that_may_run_in_several_partitions_is_at_home_in_each_of_them(self) -> None:
        """Slurm shows of a running job its own, of a waiting one all: it was taken for one that somebody had moved."""
        self.commands.jobs = job(Partition="batch,long", State="PENDING", PriorityLong="77")
        self.done(lambda: self.slurm.give_back(RUN, Home("batch", requeue=False), "wnod:no-requeue: full"))
        assert {"Partition=batch,long", "Requeue=1"} <= set(self.commands.acts()[0])
        self.commands.jobs = job(Partition="batch2,long", State="PENDING", PriorityLong="77")
        self.done(lambda: self.slurm.give_back(RUN, Home("batch", requeue=False), "wnod:no-requeue: full"))
        assert {"Partition=batch2,long", "Requeue=0"} <= set(self.commands.acts()[1])

    def test_a_refused_job_is_held_before_anything_else(self) -> None:
        self.commands.jobs = job(State="PENDING", PriorityLong="77")
        self.done(lambda: self.slurm.refuse(RUN, HOME, "no such environment"))
        hold, update = self.commands.acts()
        assert hold == ("uhold", "12")
        assert "Comment=mine [wnod: no such environment]" in update

    def test_a_reservation_is_taken_off_for_the_vm_and_put_back(self) -> None:
        """No VM's node is in one: job 107 waited for its VM until that was taken away, and so again and again."""
        self.commands.jobs = job(Reservation="course")
        self.done(self.send)
        assert "ReservationName=" in self.commands.acts()[0]
        home = Home("batch", True, vm="vm1", reservation="course")
        self.done(lambda: self.slurm.give_back(RUN, home, ""))
        assert "ReservationName=course" not in self.commands.acts()[-2]  # never sent: its user's
        self.commands.jobs = job(Partition="vwn", ReqNodes="vm1")
        self.done(lambda: self.slurm.give_back(RUN, home, ""))
        assert "ReservationName=course" in self.commands.acts()[-2]

    def test_a_job_without_a_reservation_is_given_none(self) -> None:
        self.done(self.send)
        self.commands.jobs = job(Partition="vwn", ReqNodes="vm1")
        self.done(lambda: self.slurm.give_back(RUN, Home("batch", True, vm="vm1"), ""))
        assert not [word for argv in self.commands.acts() for word in argv if word.startswith("Reservation")]

    def test_a_job_whose_reservation_is_over_goes_back_without_it_and_says_so(self) -> None:
        self.commands.jobs = job(Partition="vwn", ReqNodes="vm1", State="PENDING", PriorityLong="77")
        home = Home("batch", True, vm="vm1", reservation="course")
        over = Output(1, "", "Requested reservation is invalid for job 12")
        self.commands.broken["scontrol update"] = over
        assert "reservation is invalid" in self.refused(lambda: self.slurm.give_back(RUN, home, "given back: full"))
        first, second = self.commands.acts()
        assert "ReservationName=course" in first
        assert not [word for word in second if word.startswith("Reservation")]
        assert "AdminComment=given back: full; its reservation is gone: course" in second

    def test_only_nodes_that_slurm_does_not_know_are_not_put_back(self) -> None:
        self.commands.jobs = job(Partition="vwn", ReqNodes="vm1", State="PENDING", PriorityLong="77")
        own = Home("batch", True, required_nodes=("n[1-2]",), vm="vm1")
        self.commands.broken["scontrol update"] = Output(1, "", "Job is no longer pending execution for job 12")
        assert "no longer pending" in self.refused(lambda: self.slurm.give_back(RUN, own, "full"))
        assert len(self.commands.acts()) == 1
        self.commands.broken["scontrol update"] = Output(1, "", "Invalid node name specified for job 12")
        self.refused(lambda: self.slurm.give_back(RUN, own, "full"))
        *_, first, second = self.commands.acts()
        assert "ReqNodeList=n[1-2]" in first
        assert {"ReqNodeList=", "AdminComment=full; its required nodes are gone: n[1-2]"} <= set(second)

    def test_a_target_that_an_older_note_does_not_name_is_told_by_the_partition(self) -> None:
        for partition, cleared in (("vwn", True), ("batch", False)):
            self.commands.ran.clear()
            self.commands.jobs = job(Partition=partition, ReqNodes="vm1", State="PENDING", PriorityLong="77")
            self.done(lambda: self.slurm.give_back(RUN, HOME, ""))
            assert ("ReqNodeList=" in self.commands.acts()[0]) is cleared

    def test_what_slurm_refuses_is_refused_and_what_it_does_not_answer_is_unknown(self) -> None:
        self.commands.broken["scontrol update"] = Output(1, "", "Invalid node name specified for job 12")
        assert "Invalid node name" in self.refused(self.send)
        self.commands.broken["scontrol update"] = Output(1, "", "Unexpected message received for job 12")
        self.refused(self.send, LrmsUnavailable)
        assert ("release", "12") not in self.commands.acts()

    def test_tell_writes_only_what_is_new(self) -> None:
        self.done(lambda: self.slurm.tell(RUN, "waits"))
        self.commands.jobs = job(Comment="mine [wnod: waits]")
        self.done(lambda: self.slurm.tell(RUN, "waits"))
        assert self.commands.acts() == [("update", "JobId=12", "Comment=mine [wnod: waits]")]

    def test_a_job_already_requeueable_with_our_note_is_not_touched(self) -> None:
        self.done(lambda: self.slurm.make_requeueable(RUN, ""))
        self.commands.jobs = job(admin_comment="wnod:lease=1")
        self.done(lambda: self.slurm.make_requeueable(RUN, "wnod:lease=1"))
        assert self.commands.acts() == []
        self.commands.jobs = job(Requeue="0", State="RUNNING", NodeList="bait")
        self.done(lambda: self.slurm.make_requeueable(RUN, "wnod:lease=1"))
        assert self.commands.acts() == [("update", "JobId=12", "Requeue=1", "AdminComment=wnod:lease=1")]

    def test_closing_is_said_once_and_a_new_reason_again(self) -> None:
        self.done(lambda: self.slurm.close_node("bait", "no room"))
        self.commands.nodes = node("bait", "idle+drain", "wnod: no room")
        self.done(lambda: self.slurm.close_node("bait", "no room"))
        assert self.commands.acts() == [("update", "NodeName=bait", "State=DRAIN", "Reason=wnod: no room")]
        self.done(lambda: self.slurm.close_node("bait", "host is away"))
        self.commands.nodes = node("bait", "idle+not_responding")  # as for a second after each open
        self.done(lambda: self.slurm.close_node("bait", "host is away"))
        assert len(self.commands.acts()) == 3

    def test_an_idle_node_is_opened_without_asking_it_and_any_other_is_asked_first(self) -> None:
        words = {"idle+drain": "IDLE", "mixed+drain": "UNDRAIN", "idle+completing+drain": "UNDRAIN"}
        words |= {"allocated+drain": "UNDRAIN", "idle+drain+maint": "UNDRAIN"}
        for word in words:
            self.commands.nodes = node("bait", word, "wnod: no room")
            self.done(lambda: self.slurm.open_node("bait"))
        assert self.commands.acts() == [("update", "NodeName=bait", f"State={how}") for how in words.values()]

    def test_a_node_that_does_not_answer_stays_closed_to_jobs(self) -> None:
        self.commands.nodes = node("bait", "idle+drain+not_responding", "wnod: no room")
        self.done(lambda: self.slurm.open_node("bait"))
        assert self.commands.acts() == [("update", "NodeName=bait", "State=UNDRAIN")]

    def test_a_humans_close_is_left_alone_both_ways(self) -> None:
        for state, reason in (("idle+drain", "disk broken"), ("down", "Not responding")):
            self.commands.nodes = node("bait", state, reason)
            self.done(lambda: self.slurm.close_node("bait", "no room"))
            self.done(lambda: self.slurm.open_node("bait"))
        self.commands.nodes = node("bait", "idle")
        self.done(lambda: self.slurm.open_node("bait"))
        assert self.commands.acts() == []

    def test_a_node_that_a_job_waits_for_is_not_deleted(self) -> None:
        """Torture, seed 2: slurmctld was killed just then, and ended the job when it started (NODE_FAIL)."""
        self.commands.jobs = f"12{MARK}PENDING{MARK}vwn{MARK}vm1{MARK}wnod:lease=x{MARK}\n"
        assert "job waits" in self.refused(lambda: self.slurm.remove_node("vm1"))
        self.commands.jobs = f"12{MARK}PENDING{MARK}batch{MARK}vm1,vm2{MARK}(null){MARK}\n"  # not ours: binds no node
        self.done(lambda: self.slurm.remove_node("vm1"))
        self.commands.broken["squeue"] = LrmsUnavailable("squeue: no answer in 10 s")
        self.refused(lambda: self.slurm.remove_node("vm1"), LrmsUnavailable)
        self.done(lambda: self.slurm.remove_node("vm9"))  # gone
        assert self.commands.acts() == [("delete", "nodename=vm1"), ("delete", "nodename=vm9")]

    def test_a_node_the_site_configured_is_never_deleted(self) -> None:
        self.commands.jobs = ""
        assert "slurm.conf" in self.refused(lambda: self.slurm.remove_node("bait"))
        self.done(lambda: self.slurm.remove_node("vm1"))
        assert self.commands.acts() == [("delete", "nodename=vm1")]

    def test_a_node_already_gone_is_removed(self) -> None:
        self.commands.jobs = ""
        self.commands.broken["scontrol delete"] = Output(1, "", "delete_node nodename=vm9: Invalid node name specified")
        self.done(lambda: self.slurm.remove_node("vm9"))
        self.commands.broken["scontrol delete"] = Output(1, "", "delete_node nodename=vm1: Requested nodes are busy")
        assert "busy" in self.refused(lambda: self.slurm.remove_node("vm1"))

    def test_an_unknown_node_cannot_be_closed(self) -> None:
        assert "nope" in self.refused(lambda: self.slurm.close_node("nope", "x"))

    def test_a_parked_view_is_pending(self) -> None:
        assert self.done(lambda: self.slurm.jobs(["12"]))["12"].state is JobState.PENDING

    def test_marks_differ_and_cannot_read_as_a_width(self) -> None:
        marks = {random_mark() for _ in range(50)}
        assert len(marks) == 50
        assert all(mark[0].isalpha() and mark.isalnum() and len(mark) >= 17 for mark in marks)
