"""The bait that is asked, in a process of its own: all its real parts, over a batch system and a host in memory.

    python -m tests.bench.daemons.hook_bait SOCKET STATE JOBS

Says `ready` on standard output when starters may ask; leaves STATE/answers.json with the moment of each answer and the
seconds from its question. Jobs 1 to JOBS run on the bait and belong to this process's
user. The host grants and binds at once, from memory: what is measured is the bait's own work for an answer.
"""

import cProfile
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred

from bait.core import BaitCore
from bait.lrms.base import JobState
from bait.numbers import Numbers
from bait.rules.lease import Lease, Phase, Times
from protocol.ids import EnvironmentName, Generation, Room, Shape, VmName
from protocol.messages import (
    Bind,
    Bound,
    Capacity,
    FromBait,
    FromHost,
    Granted,
    HostInventory,
    Offer,
    Release,
    Released,
    RequestVm,
)
from tests.fakes.lrms import FakeLrms
from wnod.config import Gate, Hook
from wnod.journal import Journal
from wnod.metrics import Metrics
from wnod.service import spare_the_collector

reactor: Any = installed
BAIT = "bait1"
ENVIRONMENT = EnvironmentName("debian12")
SHAPE = Shape(cpus=1, memory_mib=512, disk_mib=64)
REST_S = 1.0
ROOM = Room(cpus=4096, memory_mib=2**22, disk_mib=2**22)


class Host:
    """A hostmaster that has room for everybody and answers in the next turn of the reactor."""

    def __init__(self, bait: "Bait") -> None:
        self._bait = bait
        self._answers: list[FromHost] = []
        self._generation = 0

    def send(self, message: FromBait) -> None:
        """Take what the bait says."""
        answer = self._answer(message)
        if answer is not None:
            if not self._answers:
                reactor.callLater(0, self._deliver)
            self._answers.append(answer)

    def _answer(self, message: FromBait) -> FromHost | None:
        match message:
            case RequestVm():
                self._generation += 1
                number = Generation(self._generation)
                name = VmName(f"vm{number}")
                return Granted(id=message.id, lease=message.lease, generation=number, vm=name, ttl_s=90.0)
            case Bind():
                return Bound(id=message.id, lease=message.lease, generation=message.generation, run=message.run)
            case Release():
                return Released(id=message.id, lease=message.lease)
        return None

    def _deliver(self) -> None:
        answers, self._answers = self._answers, []
        for message in answers:
            self._bait.hears(message)


class Bait:
    """`bait.core`, whole, with the metrics of `bait.daemon`."""

    def __init__(self, socket: str, state: str, jobs: int) -> None:
        self.answers: list[tuple[float, float]] = []
        self.metrics = Metrics("bait", BAIT)
        self.numbers = Numbers(self.metrics, time.time)
        self.lrms = FakeLrms(reactor)
        self.lrms.add_node(BAIT, cpus=jobs, features=(ENVIRONMENT,))
        for _ in range(jobs):
            self._runs(self.lrms.submit(owner=os.getuid(), user="bench"))
        self._ids = 0
        self.core = BaitCore(
            clock=reactor, bait=BAIT, cluster=self.lrms.cluster,
            journal=Journal(f"{state}/journal.sqlite", "bait", BAIT, committed=self.metrics.committed),
            lrms=self.lrms, times=Times(), gate=Gate(), rules=(), hook=Hook(socket=socket), new_id=self._id,
            observer=self, broken=lambda failure: print(failure, file=sys.stderr), opened=self.numbers.opened,
            answered=self._answered,
        )  # fmt: skip
        self.core.join(Host(self))
        self.numbers.count(self.core.follower.leases.values())

    def start(self) -> None:
        """Connect to the host and listen."""
        self.core.load()
        self.core.connected("h1", 1, False)
        offer = Offer(environment=ENVIRONMENT, available=True, largest=SHAPE, usual=SHAPE)
        slots = len(self.lrms.all_jobs)
        self.hears(Capacity(free=ROOM, total=ROOM, free_slots=slots, slots=slots, serving=True, offers=(offer,)))
        self.hears(HostInventory(vms=(), complete=True))
        self.core.start()
        Deferred.fromCoroutine(self.core.hooks.start()).addCallback(lambda _: self._settled())

    def _settled(self) -> None:
        spare_the_collector()  # as the daemon does; the batch system's thousands of jobs would be another process's
        print("ready", flush=True)

    def hears(self, message: FromHost) -> None:
        """One message of the host."""
        self.core.received("h1", message)

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """See bait.follower.Observer; as in the daemon. Some time after its answer the job is cancelled."""
        self.numbers.changed(before, lease)
        if lease.phase is Phase.PARKING:
            reactor.callLater(REST_S, self.lrms.cancel, lease.run.key)

    def forgotten(self, lease: Lease) -> None:
        """See bait.follower.Observer."""

    def _answered(self, seconds: float) -> None:
        self.answers.append((time.monotonic(), seconds))
        self.metrics.observe("wnod_bait_hook_seconds", seconds)

    def _id(self) -> str:
        self._ids += 1
        return f"{self._ids:032x}"

    def _runs(self, job_id: str) -> None:
        job = self.lrms.all_jobs[job_id]
        job.state, job.word, job.node = JobState.RUNNING, "RUNNING", BAIT


def main() -> None:
    """Run until the process is ended."""
    socket, state, jobs = sys.argv[1:4]
    bait = Bait(socket, state, int(jobs))
    reactor.callWhenRunning(bait.start)
    answers = Path(state, "answers.json")
    reactor.addSystemEventTrigger("after", "shutdown", lambda: answers.write_text(json.dumps(bait.answers)))
    profile = os.environ.get("BENCH_PROFILE")
    if profile:
        taken = cProfile.Profile()
        reactor.addSystemEventTrigger("after", "shutdown", lambda: taken.dump_stats(profile))
        taken.runcall(reactor.run)
    else:
        reactor.run()


if __name__ == "__main__":
    main()
