"""What must hold: the invariants of the promise, checked whenever something happens that could break one.

A breach is written down, not raised: raising would only break the daemon that happens to be on the stack.
`tests.simulation.audit` checks what the daemons write and say; this module what becomes of jobs and machines.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hostmaster.rules.lifecycle import Vm
from protocol.messages import VmPhase
from tests.simulation.machines import Guest, Program

KEPT_LINES = 20_000
"""So much of the history can be told: all of it on a few hosts, the last part of it on many."""


@dataclass
class Run:
    """One start of user code. `end`: "" while it runs, "done", "cancelled", or the fault that ended it."""

    restart: int
    key: str
    at: float
    end: str = ""
    ended_at: float = 0.0
    start_forgotten: bool = False
    """The batch system has come back with a state that is older than this start."""
    end_forgotten: bool = False
    """... than this end."""


@dataclass
class Breach:
    """One violation."""

    rule: str
    job: str
    text: str
    at: float

    def __str__(self) -> str:
        return f"{self.rule} at {self.at:.3f}: {self.text}" + (f" (job {self.job})" if self.job else "")


@dataclass
class Judge:
    """The record of what happened, and of what should not have."""

    now: Callable[[], float] = lambda: 0.0
    lines: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    breaches: list[Breach] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    excused: dict[str, float] = field(default_factory=dict)
    """Jobs of which the LRMS itself has lost count, and when it last did."""
    generations: dict[str, int] = field(default_factory=dict)
    """The highest of each host so far."""
    records: dict[str, Vm] = field(default_factory=dict)
    """The last record that any life of a hostmaster has put on disk, by the VM's key."""
    started: int = 0
    double_runs: int = 0
    beyond_reach: int = 0
    """Double runs that nobody could prevent (docs/recovery.md, "Where the promise ends")."""
    out_of_reach: Callable[[Guest], bool] = lambda guest: not guest.reachable
    """Neither the controller nor that guest's own bait and host could have ended what runs there by now."""
    checks: int = 0
    _hash: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def trace(self, subject: str, text: str) -> None:
        """One line of history. `subject` is a job, or empty."""
        now = self.now()
        self.lines.append((now, subject, text))
        self._hash.update(f"{now:.6f}|{subject}|{text}\n".encode())

    def digest(self) -> str:
        """The same for the same history."""
        digest: str = self._hash.hexdigest()
        return digest

    def breach(self, rule: str, job: str, text: str) -> None:
        self.breaches.append(Breach(rule, job, text, self.now()))
        self.trace(job, f"BREACH {rule}: {text}")

    def require(self, holds: bool, rule: str, job: str, text: str) -> None:
        self.checks += 1
        if not holds:
            self.breach(rule, job, text)

    # --- user code ---

    def start(self, guest: Guest, program: Program, elsewhere: list[Guest]) -> None:
        """User code begins."""
        job = program.job
        self.started += 1
        self.trace(job, f"user code of run {program.restart} starts in {guest.key}")
        lost = [other for other in elsewhere if self._start_is_forgotten(job, other) and self.out_of_reach(other)]
        if lost:
            self.beyond_reach += 1
            self.trace(job, f"also runs in {', '.join(g.key for g in lost)}, forgotten and out of reach")
        elsewhere = [other for other in elsewhere if other not in lost]
        if elsewhere:
            self.double_runs += 1
            self.breach("I2", job, f"runs twice at once: also in {', '.join(g.key for g in elsewhere)}")
        for run in self.runs.get(job, []):
            if run.end == "done" and not run.end_forgotten:
                self.double_runs += 1
                self.breach("I3", job, f"starts again after run {run.restart} in {run.key} was done")
        self.require(guest.uid in (None, program.uid), "I6", job, f"{guest.key} has served uid {guest.uid} before")
        guest.uid = program.uid
        self._started_as_bound(guest, program)
        self.runs.setdefault(job, []).append(Run(program.restart, guest.key, self.now()))

    def _start_is_forgotten(self, job: str, guest: Guest) -> bool:
        """True if the controller has forgotten that it started the job there."""
        return any(run.key == guest.key and not run.end and run.start_forgotten for run in self.runs.get(job, []))

    def forgets(self, job: str, since: float) -> None:
        """The batch system has come back with what it knew of the job then: what it did since, it may do again."""
        self.excused[job] = self.now()
        for run in self.runs.get(job, []):
            run.start_forgotten |= run.at >= since
            run.end_forgotten |= bool(run.end) and run.ended_at >= since

    def excuses_loss(self, guest: Guest, program: Program) -> bool:
        """True if the batch system still counts on that run only because it has forgotten what became of it since."""
        at = self.excused.get(program.job)
        return at is not None and program.started_at is not None and program.started_at <= at

    def _started_as_bound(self, guest: Guest, program: Program) -> None:
        vm = self.records.get(guest.key)
        if vm is None:
            self.breach("I4", program.job, f"starts in {guest.key}, which no journal knows")
            return
        bound = vm.bound is not None and (vm.bound.key, vm.bound.restart) == (program.job, program.restart)
        self.require(bound, "I4", program.job, f"run {program.restart} starts in {guest.key}, bound to {vm.bound}")
        self.require(vm.phase is VmPhase.STARTED, "I4", program.job, f"starts in {guest.key}, which is {vm.phase}")
        self.require(vm.boot_id == guest.boot_id, "I4", program.job, f"starts in another boot of {guest.key}")
        self.require(vm.owner == program.uid, "I6", program.job, f"starts in {guest.key}, which is uid {vm.owner}'s")

    def finish(self, guest: Guest, program: Program, how: str) -> None:
        """User code has ended: "done", or by that fault."""
        for run in self.runs.get(program.job, []):
            if (run.restart, run.key, run.end) == (program.restart, guest.key, ""):
                run.end, run.ended_at = how, self.now()
                self.trace(program.job, f"user code of run {program.restart} in {guest.key} ends: {how}")

    # --- hosts ---

    def vm(self, host: str, before: Vm | None, vm: Vm, others: dict[Any, Vm], total: Any) -> None:
        """A hostmaster has put a VM's record on disk."""
        self.records[vm.key] = vm
        if before is None or before.phase is not vm.phase:
            text = f" ({vm.text})" if vm.text else ""
            self.trace(vm.asked.key, f"{host}: {vm.key} {vm.phase} lease {vm.lease[-4:]}{text}")
        if before is not None:
            return
        if vm.phase is VmPhase.RESERVED:
            highest = self.generations.get(host, 0)
            self.require(vm.generation > highest, "I10", vm.asked.key, f"{vm.key} comes after generation {highest}")
            self.generations[host] = max(highest, vm.generation)
        rest = [other for other in others.values() if other.generation != vm.generation]
        twice = [other.key for other in rest if other.lease == vm.lease or other.vm == vm.vm]
        self.require(not twice, "I5", vm.asked.key, f"{vm.key} has its lease or slot in common with {twice}")
        charged = [vm.shape, *(other.shape for other in rest if other.phase is not VmPhase.GONE)]
        memory, cpus = sum(s.memory_mib for s in charged), sum(s.cpus for s in charged)
        fits = memory <= total.memory_mib and cpus <= total.cpus
        self.require(fits, "I7", vm.asked.key, f"{host} has promised {cpus} cpus and {memory} MiB")

    def domains(self, host: str, specs: list[Any], total: Any) -> None:
        """A host's domains have changed."""
        memory = sum(spec.ours.shape.memory_mib for spec in specs)
        cpus = sum(spec.ours.shape.cpus for spec in specs)
        fits = memory <= total.memory_mib and cpus <= total.cpus
        self.require(fits, "I7", "", f"{host} runs {cpus} cpus, {memory} MiB")
        self.require(len({s.ours.slot for s in specs}) == len(specs), "I6", "", f"{host}: one slot has two domains")

    # --- for people ---

    def history(self, job: str, last: int = 60) -> str:
        """What happened to a job, and the faults at its hosts, in its last lines."""
        numbers = {n for _, subject, text in self.lines if subject == job for n in _HOSTS.findall(text)}
        chosen = [line for line in self.lines if line[1] == job or _concerns(line[2], numbers, job)]
        return "\n".join(f"  {at - 1_000_000:10.3f}  {text}" for at, _, text in chosen[-last:])


_HOSTS = re.compile(r"\b(?:h|bait|vm)(\d+)\b")


def _concerns(text: str, numbers: set[str], job: str) -> bool:
    """True for a fault that no host or one of these hosts has met, and for a daemon's log line about the job."""
    if text.startswith("#"):
        return f"/{job}." in text or not job
    named = set(_HOSTS.findall(text))
    return text.startswith("!") and (not named or bool(named & numbers))
