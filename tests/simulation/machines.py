"""What runs on the machines: starters on baits, and in each VM a guest with its gate and its users' programs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from twisted.internet.protocol import connectionDone

from bait.hookserver import HookServer
from hostmaster.world import GuestListener
from protocol.guest import parse
from tests.fakes.lrms import HAND_BACK, PARK
from tests.simulation.clock import Call, Crash, Life, World
from wnod.journal import JournalFull

STARTER_LIMIT_S = 20.0
AGAIN_S = 0.25
GATE_S = 20.0
GUEST_LINE_S = 0.002


class Starter:
    """The job starter on a bait: asks the real hook server, again while nobody answers, and exits with a code."""

    disconnecting = False

    def __init__(
        self, world: World, server: Callable[[], tuple[HookServer, Life] | None], run: Any, uid: int,
        exits: Callable[["Starter", int], None],
    ) -> None:  # fmt: skip
        self.run = run
        self.uid = uid
        self.ended = False
        self._world = world
        self._server = server
        self._exits = exits
        self._connection: Any = None
        self._life: Life | None = None
        self._said = b""
        question = {"version": 1, "job": run.job, "task": run.task, "restart": run.restart, "step": "batch"}
        self._question = msgspec.json.encode(question) + b"\n"
        self._deadline = world.now + STARTER_LIMIT_S
        self._limit = world.callLater(STARTER_LIMIT_S, self._exit, HAND_BACK)
        self._ask()

    def _ask(self) -> None:
        if self.ended:
            return
        found = self._server()
        if found is None:
            self._again()
            return
        server, self._life = found
        self._said = b""
        self._connection = server.factory().buildProtocol(None)
        self._into(self._connection.makeConnection, self)
        self._into(self._connection.dataReceived, self._question)

    def _into(self, call: Callable[..., Any], *args: Any) -> None:
        if self._life is None or self._life.dead:
            return
        try:
            call(*args)
        except Crash:
            return

    def _again(self) -> None:
        self._connection = None
        if self._world.now + AGAIN_S >= self._deadline:
            self._exit(HAND_BACK)
        else:
            self._world.callLater(AGAIN_S, self._ask)

    def bait_is_gone(self) -> None:
        """The daemon's end of the socket is closed."""
        if self._connection is not None and not self.ended:
            self._connection = None
            self._world.callLater(0.001, self._again)

    # --- as the hook server's transport ---

    def writeSomeData(self, data: bytes) -> None:
        assert self._life is not None
        self._life.point("before-answer")
        self._said += data
        self._world.callLater(0.001, self._read)
        self._life.point("after-answer")

    def loseConnection(self) -> None:
        """The answer says all there is to say."""

    def _read(self) -> None:
        if not self.ended and self._said.endswith(b"\n"):
            word = msgspec.json.decode(self._said)["answer"]
            self._exit(PARK if word == "park" else HAND_BACK)

    def kill(self) -> None:
        """The LRMS, or the machine, ends the job."""
        self._end()

    def _exit(self, code: int) -> None:
        if not self.ended:
            self._end()
            self._exits(self, code)

    def _end(self) -> None:
        self.ended = True
        if self._limit.active():
            self._limit.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._into(connection.connectionLost, connectionDone)


class Channels:
    """hostmaster.world.Guests for one life of a hostmaster: lines to and from the guests of one host."""

    def __init__(self, life: Life, guest: Callable[[str], "Guest | None"]) -> None:
        self._life = life
        self._guest = guest
        self.open_ones: dict[str, bool] = {}
        self.listener: GuestListener | None = None

    def open(self, name: str) -> str:
        self.open_ones.setdefault(name, False)
        return f"/channels/{name}.sock"

    def close(self, name: str) -> None:
        self.open_ones.pop(name, None)

    def send(self, name: str, lines: bytes) -> bool:
        self._life.point("before-guest")
        guest = self._guest(name)
        if not self.open_ones.get(name) or guest is None:
            return False
        self._life.world.callLater(GUEST_LINE_S, guest.hears, lines.decode("ascii"))
        self._life.point("after-guest")
        return True

    def says(self, name: str, line: bytes) -> None:
        """A guest's line arrives."""
        if self._life.dead or name not in self.open_ones or self.listener is None:
            return
        self.open_ones[name] = True
        try:
            self.listener(name, parse(line))
        except Crash:
            return
        except JournalFull:
            return  # logged by the real ones


@dataclass(eq=False)
class Program:
    """One run's user code, or its gate that still asks. `started_at` None: no user code runs."""

    job: str
    uid: int
    restart: int
    asked_at: float
    number: int
    words: str
    started_at: float | None = None
    end: Call | None = None
    left_s: float = 0.0


@dataclass(eq=False)
class Guest:
    """One VM from inside. `cluster` is told of all that matters outside of it."""

    world: World
    key: str
    uuid: str
    name: str
    generation: int
    cpus: int
    boot_id: str
    boot_s: float
    register_s: float
    cluster: Any
    alive: bool = True
    paused: bool = False
    uid: int | None = None
    """Whose user code has run in here."""
    standby: bool = False
    """It waits for its owner, without secrets; what was saved of it goes on here."""
    seeded: bool = False
    go: bool = False
    ready: bool = False
    registered: bool = False
    cut_off: bool = False
    """The controller does not reach this VM, nor this VM the controller."""
    silent_since: float | None = None
    """Since when the controller does not hear of it."""
    programs: dict[int, Program] = field(default_factory=dict)
    markers: set[tuple[str, int]] = field(default_factory=set)
    _number: int = 0
    _kept: list[Callable[[], None]] = field(default_factory=list)

    @property
    def reachable(self) -> bool:
        """The controller and this guest can talk."""
        return self.alive and not self.paused and not self.cut_off

    def boot(self) -> None:
        """The kernel begins; the agent speaks later."""
        self._later(0.05 if self.standby else self.boot_s, self._hello)

    def _later(self, seconds: float, call: Callable[..., Any], *args: Any) -> Call:
        return self.world.callLater(seconds, self._live, call, *args)

    def _live(self, call: Callable[..., Any], *args: Any) -> None:
        """What a guest does, it does while it lives and runs."""
        if self.alive and self.paused:
            self._kept.append(lambda: call(*args))
        elif self.alive:
            call(*args)

    def pause(self) -> None:
        """The vCPUs stand still: programs make no progress."""
        self.paused = True
        for program in self.programs.values():
            if program.end is not None and program.end.active():
                program.left_s = program.end.getTime() - self.world.now
                program.end.cancel()

    def unpause(self) -> None:
        self.paused = False
        kept, self._kept = self._kept, []
        for call in kept:
            self._later(0.0, call)
        for program in self.programs.values():
            if program.started_at is not None:
                program.end = self._later(program.left_s, self._ends, program)

    def _say(self, line: str) -> None:
        self.world.callLater(GUEST_LINE_S, self.cluster.guest_says, self, line.encode("ascii"))

    def _hello(self) -> None:
        self._say(f"hello 1 {self.boot_id} {self.name}")
        self._later(10.0 if self.go else 1.0, self._hello)

    def hears(self, lines: str) -> None:
        """Lines from the host."""
        for line in lines.splitlines():
            self._live(self._hears, line)

    def _hears(self, line: str) -> None:
        verb, *words = line.split(" ")
        if verb == "welcome" and self.ready:
            self._say(f"ready {self.boot_id}")
        elif verb == "welcome" and self.standby:
            self._say(f"standby {self.boot_id}")
        elif verb == "standby" and not (self.go or self.standby):
            self._later(self.register_s, self._stands)
        elif verb == "seed":
            self.seeded = True
        elif verb == "go" and not self.go and (self.seeded or not self.standby):
            self.go, self.standby = True, False
            self._later(self.register_s, self._register)
        elif verb in ("allow", "deny") and int(words[0]) in self.programs:
            self._judged(self.programs[int(words[0])], verb == "allow")

    def _stands(self) -> None:
        if not self.go:
            self.standby, self.seeded = True, False
            self._say(f"standby {self.boot_id}")

    def _register(self) -> None:
        if self.cut_off:
            self._later(5.0, self._register)
        else:
            self.registered = self.ready = True
            self.cluster.guest_registers(self)
            self._say(f"ready {self.boot_id}")

    def gate(self, run: Any, uid: int) -> None:
        """The LRMS starts a job here: its starter asks before anything of the user's runs."""
        self._number += 1
        words = f"{run.job} {'-' if run.task is None else run.task} {run.restart}"
        program = Program(run.key, uid, run.restart, self.world.now, self._number, words)
        self.programs[self._number] = program
        if (run.key, run.restart) in self.markers:
            self._judged(program, False)
        else:
            self._live(self._ask, program)

    def _ask(self, program: Program) -> None:
        if program.number not in self.programs or program.started_at is not None:
            return
        if self.world.now > program.asked_at + GATE_S:
            self._judged(program, False)
            return
        self._say(f"may-start {self.boot_id} {program.number} {program.words} {program.uid}")
        self._later(1.0, self._ask, program)

    def _judged(self, program: Program, allowed: bool) -> None:
        if program.started_at is not None:
            return
        if not allowed:
            del self.programs[program.number]
            self.cluster.program_exits(self, program, PARK)
            return
        self.markers.add((program.job, program.restart))
        program.started_at = self.world.now
        seconds: float = self.cluster.program_starts(self, program)
        program.end = self._later(seconds, self._ends, program)

    def _ends(self, program: Program) -> None:
        if program.number not in self.programs:
            return
        if self.cut_off:  # its slurmd cannot report it: tried until it can
            program.end = self._later(1.0, self._ends, program)
            return
        del self.programs[program.number]
        self._say(f"finished {self.boot_id} {program.words} 0")
        self.cluster.program_exits(self, program, 0)

    def runs(self, job: str) -> Program | None:
        """That job's program or gate in here."""
        return next((program for program in self.programs.values() if program.job == job), None)

    def kill(self, program: Program) -> None:
        """The LRMS ends these processes, and the node's epilog tells of it."""
        self.programs.pop(program.number, None)
        if program.started_at is not None:
            self._live(self._say, f"finished {self.boot_id} {program.words} 143")
        if program.end is not None and program.end.active():
            program.end.cancel()

    def die(self) -> None:
        """The VM is gone."""
        self.alive = False
        for program in self.programs.values():
            if program.end is not None and program.end.active():
                program.end.cancel()
        self.programs.clear()
