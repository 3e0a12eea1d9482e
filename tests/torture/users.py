"""Two users who submit short jobs of every sort without end, and now and then cancel, hold or requeue one."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from deploy.lab.layout import HEAD
from deploy.lab.namespaces import LabError
from tests.torture import judge, ledger
from tests.torture.ground import LEDGER, Ground
from tests.torture.judge import Deed, Hit, Row, Submission

BACKLOG = 7
"""As many jobs are in the queue or run at any time: three more than there are slots."""
LOOK_S = 1.5
MEDDLING = ("", "", "", "", "", "", "", "cancel", "hold", "requeue")
"""Each of three in ten jobs; arrays are left alone."""
LOOKS_AGAIN_S = 20.0
"""After a release a user looks whether it was for good: a slurmctld killed at once after it has forgotten it."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """One submission, before it is made."""

    name: str
    user: str
    environment: str
    tasks: tuple[str, ...]
    requeue: bool
    beats: int
    meddling: str
    after: float
    """Seconds from the submission, or for a requeue from the start, to what the user does then."""

    def argv(self) -> list[str]:
        """The user's command line."""
        words = ["sbatch", "--parsable", f"--job-name={self.name}", f"--constraint={self.environment}"]
        if self.tasks != ("-",):
            words.append(f"--array={','.join(self.tasks)}")
        return [*words, *(() if self.requeue else ("--no-requeue",)), f"{self.name}.sh"]


def wishes(seed: int) -> Iterator[Wish]:
    """The stream of that seed; it does not end. Pure."""
    dice = random.Random(seed)
    number = 0
    while True:
        number += 1
        array = dice.random() < 0.12
        yield Wish(
            name=f"t{number:04d}",
            user=("alice", "bob")[number % 2],
            environment=dice.choice(("debian12", "debian12", "debian12-sci")),
            tasks=tuple(map(str, range(1, dice.choice((3, 4))))) if array else ("-",),
            requeue=dice.random() > 0.2,
            beats=dice.randrange(4, 20),
            meddling="" if array else dice.choice(MEDDLING),
            after=round(dice.uniform(0.5, 14), 1),
        )


class Users:
    """Both users, on a thread of their own. `submissions` and `deeds` are what the judge is told of."""

    def __init__(self, ground: Ground, seed: int, hits: Sequence[Hit]) -> None:
        """`hits`: the faults so far, whoever adds to them."""
        self._ground = ground
        self._hits = hits
        self._wishes = wishes(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="users")
        self._open: dict[str, tuple[Wish, float]] = {}
        self._held: dict[str, tuple[str, float]] = {}
        self._let_go_of: dict[str, tuple[str, float]] = {}
        self._submitting = True
        self.submissions: list[Submission] = []
        self.deeds: list[Deed] = []
        self.rows: dict[judge.Key, Row] = {}
        self.looked = 0.0
        self.trouble: list[str] = []

    def begin(self) -> None:
        """From now on there are jobs."""
        self._thread.start()

    def submit_no_more(self) -> None:
        """The stream ends; what users hold, they let go."""
        self._submitting = False
        self._held = {name: (user, 0.0) for name, (user, _) in self._held.items()}

    def stop(self) -> None:
        """Returns when they do nothing any more. Idempotent."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(150)

    def waiting(self) -> list[Row]:
        """Jobs that are not over, as far as Slurm said last; those that it does not know, but should, included."""
        rows = dict(self.rows)
        known = [one for one in self.submissions if one.sure and not judge.forgotten(one, self._hits)]
        keys = [(one.name, task) for one in known for task in one.tasks]
        missing = [Row(name, task, "?", "UNKNOWN") for name, task in keys if (name, task) not in rows]
        return [*(row for row in rows.values() if row.state not in judge.OVER), *missing]

    # --- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._end.wait(0.3):
            try:
                if time.monotonic() - self.looked > LOOK_S:
                    self.look()
                if self._submitting and len(self.waiting()) < BACKLOG:
                    self._submit(next(self._wishes))
                self._meddle()
                self._let_go()
            except (LabError, OSError, subprocess.SubprocessError) as error:
                self.trouble.append(f"{time.time():.1f} {error}")

    def look(self) -> None:
        """Ask Slurm for every job."""
        argv = ["squeue", "-a", "-h", "-r", "-t", "all", "-o", "%i|%j|%T|%r|%N|%S"]
        done = self._ground.lab.run(HEAD, argv, env={"SLURM_TIME_FORMAT": "%s"}, timeout=60)
        self.looked = time.monotonic()
        if done.returncode == 0:
            found = [_row(line) for line in done.stdout.splitlines() if line.count("|") == 5]
            self.rows = {row.key: row for row in found}

    def _submit(self, wish: Wish) -> None:
        path = self._ground.lab.layout.home / wish.user / f"{wish.name}.sh"
        path.write_text(ledger.script(wish.name, LEDGER, wish.beats))
        at = time.time()
        done = self._ground.lab.run(HEAD, wish.argv(), user=wish.user, cwd=f"/home/{wish.user}", timeout=120)
        sure = done.returncode == 0
        # What counts is when Slurm took it: a submission may wait for a slurmctld that is away.
        at = time.time() if sure else at
        self.submissions.append(Submission(wish.name, wish.user, at, wish.tasks, wish.requeue, sure))
        if wish.meddling and sure:
            self._open[wish.name] = (wish, time.monotonic())

    def _meddle(self) -> None:
        for name, (wish, since) in list(self._open.items()):
            row = self.rows.get((name, "-"))
            if row is None or row.state in judge.OVER:
                if row is not None or time.monotonic() - since > 60:
                    del self._open[name]
                continue
            if wish.meddling == "requeue" and not self._runs_since(name, wish.after / 3):
                continue
            if time.monotonic() - since >= (0 if wish.meddling == "requeue" else wish.after):
                del self._open[name]
                self._do(wish, row)

    def _runs_since(self, name: str, seconds: float) -> bool:
        runs = [run for run in ledger.read(self._ground.ledger) if run.name == name]
        return bool(runs) and runs[-1].ended is None and time.time() - runs[-1].started > seconds

    def _do(self, wish: Wish, row: Row) -> None:
        verbs = {"cancel": ["scancel"], "hold": ["scontrol", "hold"], "requeue": ["scontrol", "requeue"]}
        at = time.time()
        done = self._ground.lab.run(HEAD, [*verbs[wish.meddling], row.job], user=wish.user, timeout=120)
        # An error may also be a lost answer: then Slurm may have done it all the same.
        maybe = done.returncode == 0 or "Invalid" not in done.stderr
        self.deeds.append(Deed(at, wish.name, wish.meddling, maybe))
        if wish.meddling == "hold" and maybe:
            self._held[wish.name] = (wish.user, time.monotonic() + wish.after)

    def _let_go(self) -> None:
        for name in forgotten_releases(self.rows, self._let_go_of, time.monotonic()):
            self._held[name] = self._let_go_of.pop(name)
        for name, (user, when) in list(self._held.items()):
            row = self.rows.get((name, "-"))
            if row is None or time.monotonic() < when:
                continue
            if row.state in judge.OVER or self._released(user, row):
                del self._held[name]
                self._let_go_of[name] = (user, time.monotonic())

    def _released(self, user: str, row: Row) -> bool:
        done = self._ground.lab.run(HEAD, ["scontrol", "release", row.job], user=user, timeout=120)
        self.deeds.append(Deed(time.time(), row.name, "release", done.returncode == 0))
        return done.returncode == 0


def forgotten_releases(
    rows: Mapping[judge.Key, Row], let_go_of: Mapping[str, tuple[str, float]], now: float
) -> list[str]:
    """Jobs that their users have released (`let_go_of`: who, and when), and that Slurm holds for them. Pure."""
    long_ago = [name for name, (_, when) in let_go_of.items() if now - when >= LOOKS_AGAIN_S]
    found = ((name, rows.get((name, "-"))) for name in long_ago)
    return [name for name, row in found if row and (row.state, row.reason) == ("PENDING", "JobHeldUser")]


def _row(line: str) -> Row:
    job, name, state, reason, node, started = line.split("|")
    array, _, task = job.partition("_")
    return Row(name, task or "-", f"{array}_{task}" if task else array, state, reason, node, _seconds(started))


def _seconds(word: str) -> float:
    """Seconds since 1970; 0 for what has not started."""
    return float(word) if word.isdecimal() else 0.0
