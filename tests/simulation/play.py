"""One seed, played: a cluster, its users' jobs, faults for a while, and then peace until all is done."""

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from bait.lrms.base import NO_REQUEUE
from tests.simulation.clock import Crash, Loop
from tests.simulation.cluster import Cluster
from tests.simulation.faults import FAULTS
from tests.simulation.judge import Judge
from tests.simulation.nemesis import Nemesis
from tests.simulation.net import without_tls
from tests.simulation.site import BAIT_CPUS, ENVIRONMENTS, USERS, account
from wnod.journal import JournalFull

SUBMIT_UNTIL_S = 90.0
READS_S = 900.0
"""So long after the last fault users look at their jobs."""
PEACE_S = 5000.0
"""So much time may pass from the last fault until everything is done and clean."""


@dataclass
class Result:
    """What became of one seed."""

    seed: int
    hash: str
    jobs: int
    virtual_s: float
    seconds: float
    calls: int
    starts: int
    given_back: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)
    history: str = ""
    jobs_lost: int = 0
    double_runs: int = 0
    beyond_reach: int = 0
    checks: int = 0
    not_converged: bool = False

    @property
    def bad(self) -> bool:
        return bool(self.breaches)


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """No TLS, no name service, and a beat that costs little."""
    with (
        without_tls(),
        mock.patch("wnod.loops.LoopingCall", Loop),
        # Looks for what no change tells of: by far the most frequent events of an idle site.
        mock.patch("hostmaster.core.TELL_EVERY_S", 5.0),
        mock.patch("hostmaster.core.AWAKE_EVERY_S", 15.0),
        mock.patch("hostmaster.keeper.AWAKE_EVERY_S", 15.0),  # the same: it tells by it how long the daemon slept
        mock.patch("hostmaster.core.BACKGROUND_EVERY_S", 15.0),
        mock.patch("tests.simulation.daemons.account_of", account),
    ):
        yield


def play(
    seed: int, hosts: int, jobs: int, kinds: tuple[str, ...] = (), bait_cpus: int = BAIT_CPUS, *, logs: bool = False,
    job: str = "",
) -> Result:  # fmt: skip
    """Play that seed. `kinds`: the faults there may be. `logs`: with the daemons' own words in the history."""
    began = time.process_time()
    judge = Judge()
    gc.disable()  # at a moment of its own choosing it would cost more than all the rest
    gc.freeze()  # what is there already is not looked at again at the end
    with stand_ins(), watched(judge, logs):
        result = _played(judge, (seed, hosts, jobs, kinds, bait_cpus), job)
        gc.collect()  # a Deferred complains when it is collected
    gc.unfreeze()
    gc.enable()
    result.breaches = [str(breach) for breach in judge.breaches]
    result.seconds = time.process_time() - began
    return result


def _played(judge: Judge, day: tuple[int, int, int, tuple[str, ...], int], job: str) -> Result:
    seed, hosts, jobs, kinds, bait_cpus = day
    cluster = Cluster(seed, hosts, judge, bait_cpus)
    _submit(cluster, jobs)
    nemesis = Nemesis(cluster, kinds, FAULTS)
    cluster.run(nemesis.until, stop=nemesis.spent)
    if not judge.breaches:
        nemesis.end()
        cluster.world.callLater(READS_S, _users_read, cluster)
        cluster.run(cluster.world.now + PEACE_S, stop=cluster.at_rest)
        _judge_the_end(cluster)
    result = _result(cluster, nemesis.done, jobs)
    if job:
        result.history = judge.history(job, 5000)
    cluster.dispose()
    return result


def play_one(seed: tuple[int, int, int, tuple[str, ...], int]) -> Result:
    """`play` with one argument, for a pool of processes."""
    return play(*seed)


def _submit(cluster: Cluster, jobs: int) -> None:
    rng, choosy = cluster.rng("users"), cluster.rng("nodelists")
    count = 0
    while count < jobs:
        name, uid = rng.choice(list(USERS.items()))
        tasks = tuple(range(min(rng.randint(2, 5), jobs - count))) if rng.random() < 0.1 else ()
        wishes = {"wishes": rng.choice(ENVIRONMENTS), "cpus": rng.choice((1, 1, 1, 2)), "requeue": rng.random() < 0.8}
        at = 6.0 + (SUBMIT_UNTIL_S * max(1.0, jobs / len(cluster.sites) / 10)) * rng.random()
        if choosy.random() < 0.06:
            wishes["required_nodes"] = (choosy.choice(cluster.sites).bait_name,)
        seconds = rng.choice((1.0, 5.0, 15.0, 40.0))
        cluster.to_come += 1
        cluster.world.callLater(at, _submit_one, cluster, tasks, name, uid, wishes, seconds)
        count += len(tasks) or 1


def _submit_one(
    cluster: Cluster, tasks: tuple[int, ...], user: str, uid: int, wishes: dict[str, object], seconds: float
) -> None:
    cluster.to_come -= 1
    wished = {} if wishes["requeue"] else {"requeue": True, "note": NO_REQUEUE}  # as the site's submission hook does
    number = cluster.lrms.submit(tasks=tasks, owner=uid, user=user, **wishes | wished)
    for task in tasks or (None,):
        job = number if task is None else f"{number}_{task}"
        cluster.run_s[job] = seconds
        if not wishes["requeue"]:
            cluster.no_requeue.add(job)


def _users_read(cluster: Cluster) -> None:
    """A user whose job is held with a word of explanation releases it, but only an LRMS that lost count may do that."""
    for job in tuple(cluster.lrms.all_jobs.values()):
        if job.held_by == "user":  # he has released it, but the controller has forgotten that
            cluster.lrms.release(job.id)
        elif job.note.startswith("wnod: refused:"):
            why = cluster.judge.excused.get(job.id)
            cluster.judge.require(why is not None, "lost", job.id, f"held for its user for no reason: {job.note}")
            cluster.judge.trace(job.id, "its user reads why it is held, and releases it")
            cluster.lrms.release(job.id)


def _judge_the_end(cluster: Cluster) -> None:
    judge = cluster.judge
    if judge.breaches:
        return
    for job, what in cluster.left_over():
        judge.breach("I12", job, f"not converged: {what}")
    for job, word in cluster.lrms.outcome.items():
        ran = any(run.end == "done" for run in judge.runs.get(job, []))
        if word == "COMPLETED" and not ran:
            judge.breach("lost", job, "COMPLETED, but its program never ran to its end")
        # Its user wants it to end with its node, once it has begun.
        wished = word == "NODE_FAIL" and job in cluster.no_requeue and judge.runs.get(job)
        if word not in {"COMPLETED", "CANCELLED", "FORGOTTEN"} and not wished:
            judge.breach("lost", job, f"ended as {word}")


def _result(cluster: Cluster, faults: Counter[str], jobs: int) -> Result:
    judge = cluster.judge
    lost = {breach.job for breach in judge.breaches if breach.job and breach.rule in {"lost", "I12"}}
    first = next((breach.job for breach in judge.breaches if breach.job), "")
    return Result(
        seed=cluster.seed,
        hash=judge.digest(),
        jobs=jobs,
        virtual_s=cluster.world.now - 1_000_000.0,
        seconds=0.0,
        calls=cluster.world.calls,
        starts=judge.started,
        given_back=cluster.given_back,
        faults=faults,
        breaches=[str(breach) for breach in judge.breaches],
        history=judge.history(first) if judge.breaches else "",
        jobs_lost=len(lost),
        double_runs=judge.double_runs,
        beyond_reach=judge.beyond_reach,
        checks=judge.checks,
        not_converged=any(breach.rule == "I12" for breach in judge.breaches),
    )


@contextlib.contextmanager
def watched(judge: Judge, logs: bool) -> Iterator[None]:
    """An exception that a daemon logs is a breach, unless it was made to die, or its disk to be full."""

    @implementer(ILogObserver)
    def watch(event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None and not failure.check(Crash, JournalFull):
            judge.breach("exception", "", failure.getTraceback()[-3000:])
        elif logs and failure is None:
            text = (event.get("log_format") or "").format(**{k: v for k, v in event.items() if k.isidentifier()})
            judge.lines.append((judge.now(), "", f"# {event['log_namespace']}: {text}"))

    observers = list(globalLogPublisher._observers)
    for observer in observers:
        globalLogPublisher.removeObserver(observer)
    globalLogPublisher.addObserver(watch)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(watch)
        for observer in observers:
            globalLogPublisher.addObserver(observer)
