"""What runs on the machines of a site in memory: starters on the bait, guests in VMs, gates and users' programs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from bait.hookserver import HookServer
from protocol.guest import FromGuest, GuestFinished, GuestHello, GuestReady, GuestStandby, MayStart
from tests.fakes.lrms import HAND_BACK, PARK, FakeJob

BOOT_S = 2.0
REGISTER_S = 0.5
GATE_S = 20.0


class _Transport(StringTransport):
    writeSomeData = StringTransport.write  # noqa: N815 (Twisted's name)


class Starter:
    """The job starter on a bait: the real hook server answers it over a connection in memory."""

    def __init__(self, clock: Clock, server: HookServer | None, job: FakeJob, exits: Callable[[int], None]) -> None:
        self._exits = exits
        self._clock = clock
        self._ended = False
        self._server = server
        if server is None:
            clock.callLater(0.01, self._exit, HAND_BACK)
            return
        run = job.run
        self._transport = _Transport()  # type: ignore[no-untyped-call]
        self._connection = server.factory().buildProtocol(None)
        assert self._connection is not None
        self._connection.makeConnection(self._transport)
        question = {"version": 1, "job": run.job, "task": run.task, "restart": run.restart, "step": "batch"}
        self._connection.dataReceived(msgspec.json.encode(question) + b"\n")
        self._look()

    def _look(self) -> None:
        if self._ended:
            return
        said: bytes = self._transport.value()  # type: ignore[no-untyped-call]
        if said:
            word = msgspec.json.decode(said)["answer"]
            self.hang_up()
            self._exit(PARK if word == "park" else HAND_BACK)
        else:
            self._clock.callLater(0.02, self._look)

    def hang_up(self) -> None:
        """The connection ends at this end."""
        assert self._connection is not None
        self._connection.connectionLost(connectionDone)

    def bait_is_gone(self) -> None:
        """The connection ends at the other end."""
        self._exit(HAND_BACK)

    def kill(self) -> None:
        """The LRMS ends the job."""
        if not self._ended and self._server is not None:
            self._ended = True
            self.hang_up()
        self._ended = True

    def _exit(self, code: int) -> None:
        if not self._ended:
            self._ended = True
            self._exits(code)


@dataclass
class Program:
    """One run's user code, or its gate that still asks. `started_at` None: no user code runs."""

    job: FakeJob
    restart: int
    asked_at: float
    number: int
    started_at: float | None = None
    calls: list[IDelayedCall] = field(default_factory=list)


@dataclass
class Guest:
    """One VM from inside. `say` is False while nobody listens; `registers` makes it a node of the LRMS.

    One that is at standby hears and says nothing while `runs` is false; of others the tests take care themselves.
    """

    clock: Clock
    key: str
    name: str
    boot_id: str
    say: Callable[[str, FromGuest], bool]
    registers: Callable[["Guest"], None]
    starts: Callable[["Guest", Program], None]
    exits: Callable[["Guest", Program, int], None]
    runs: Callable[[], bool] = lambda: True
    alive: bool = True
    standby: bool = False
    seeded: bool = False
    go: bool = False
    ready: bool = False
    programs: dict[int, Program] = field(default_factory=dict)
    markers: set[tuple[str, int]] = field(default_factory=set)
    _number: int = 0

    def boot(self) -> None:
        """The kernel begins, or goes on where it was saved; the agent speaks later."""
        self.clock.callLater(0.05 if self.standby else BOOT_S, self._hello)

    @property
    def _stands_still(self) -> bool:
        return self.standby and not self.runs()

    def _hello(self) -> None:
        if self._stands_still:
            self.clock.callLater(0.1, self._hello)
        elif self.alive:
            self.say(self.key, GuestHello(self.boot_id, self.name))  # type: ignore[arg-type]
            self.clock.callLater(10.0 if self.go else 1.0, self._hello)

    def hears(self, line: str) -> None:
        """One line from the host; it may come too late."""
        if not self.alive:
            return
        verb, *words = line.split(" ")
        if self._stands_still:
            self.clock.callLater(0.1, self.hears, line)
        elif verb == "welcome" and self.ready:
            self._ready()
        elif verb == "welcome" and self.standby:
            self.say(self.key, GuestStandby(self.boot_id))  # type: ignore[arg-type]
        elif verb == "standby" and not (self.standby or self.go):
            self.clock.callLater(REGISTER_S, self._stood)
        elif verb == "seed":
            self.seeded = True
        elif verb == "go" and not self.go:
            assert self.seeded or not self.standby, f"{self.key} is told to go with the randomness of its copies"
            self.go, self.standby = True, False
            self.clock.callLater(REGISTER_S, self._register)
        elif verb in ("allow", "deny") and int(words[0]) in self.programs:
            self._judged(self.programs[int(words[0])], verb == "allow")

    def _register(self) -> None:
        if self.alive:
            self.registers(self)
            self.ready = True
            self._ready()

    def _stood(self) -> None:
        if self.alive and not self.go:
            self.standby, self.seeded = True, False
            self.say(self.key, GuestStandby(self.boot_id))  # type: ignore[arg-type]

    def _ready(self) -> None:
        self.say(self.key, GuestReady(self.boot_id))  # type: ignore[arg-type]

    def gate(self, job: FakeJob) -> None:
        """The LRMS starts a job here."""
        self._number += 1
        program = Program(job, job.run.restart, self.clock.seconds(), self._number)
        self.programs[self._number] = program
        if (job.id, job.run.restart) in self.markers:
            self.exits(self, program, PARK)
        else:
            self._ask(program)

    def _ask(self, program: Program) -> None:
        if not self.alive or program.number not in self.programs or program.started_at is not None:
            return
        if self.clock.seconds() > program.asked_at + GATE_S:
            self._judged(program, False)
            return
        program.calls = [self.clock.callLater(1.0, self._ask, program)]
        run = program.job.run
        ask = MayStart(self.boot_id, program.number, run.job, run.task, program.restart, program.job.owner)  # type: ignore[arg-type]
        self.say(self.key, ask)

    def _judged(self, program: Program, allowed: bool) -> None:
        if program.started_at is not None:
            return
        for call in program.calls:
            if call.active():
                call.cancel()
        if not allowed:
            del self.programs[program.number]
            self.exits(self, program, PARK)
            return
        self.markers.add((program.job.id, program.restart))
        program.started_at = self.clock.seconds()
        self.starts(self, program)

    def ends(self, program: Program, code: int) -> None:
        """The user's program ends by itself."""
        if self.alive and self.programs.pop(program.number, None) is not None:
            run = program.job.run
            self.say(self.key, GuestFinished(self.boot_id, run.job, run.task, program.restart, code))  # type: ignore[arg-type]
            self.exits(self, program, code)

    def kill(self, job_id: str) -> None:
        """The LRMS ends that job's processes."""
        self.programs = {n: p for n, p in self.programs.items() if p.job.id != job_id}

    def die(self) -> None:
        """The VM is gone."""
        self.alive = False
        self.programs.clear()
