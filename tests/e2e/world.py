"""The lab as the end-to-end tests use it: what users do, what a crash or an attacker does, and what can be seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from deploy.demo import ledger
from deploy.demo.judge import Job
from deploy.demo.ledger import Page
from deploy.demo.plan import Case
from deploy.demo.stage import Stage
from deploy.lab.layout import HEAD, PROJECT, USERS
from deploy.lab.services import services
from deploy.lab.site import DAEMONS, Site
from wnod.ask import DaemonUnreachable, ask

T = TypeVar("T")
LOGS = PROJECT / "build" / "e2e" / "logs"
CLEAN_S = 40.0
RUN_S = 90.0


class World(Stage):
    """One lab in use by tests. Whatever waits has a limit, and says what it waited for."""

    def until(self, look: Callable[[], T], seconds: float, what: str) -> T:
        """The first true value of `look`; AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > end:
                raise AssertionError(f"after {seconds:g} s still not: {what}\n{self.picture()}")
            time.sleep(0.1)
        return found

    def picture(self) -> str:
        """What stands where, for the text of a failure."""
        queue = self.lab.run(HEAD, ["squeue", "-a", "-t", "all", "-o", "%i %j %T %M %N %r %k"]).stdout
        nodes = self.lab.run(HEAD, ["sinfo", "-a", "-N", "-o", "%N %T %E"]).stdout
        leases = [f"{host}: {row['run']} {row['phase']} {row['text']}" for host, row in self.leases()]
        vms = [f"{host}: {vm['vm']} {vm['phase']} {vm['text']}" for host, vm in self.vms()]
        return "\n".join([queue[:3000], nodes, str(self.left()), str(self.baits()), *leases, *vms])

    # --- users -----------------------------------------------------------------------------------------

    def sbatch(self, name: str, body: str, *options: str, user: str = "alice", **case: Any) -> Job:
        """One job; its script signs the ledger."""
        (job,) = self.submit(Case(name, user, body, options, **case))
        return job

    def try_as(self, user: str, *argv: str) -> tuple[int, str]:
        """Exit code and words of a command that may be refused."""
        done = self.lab.run(HEAD, list(argv), user=user)
        return done.returncode, done.stdout + done.stderr

    def output(self, job: Job) -> str:
        """The job's output file, in the home directory of its user."""
        path = self.lab.layout.home / job.case.user / f"{job.case.name}-{job.id}_4294967294.out"
        return path.read_text()

    # --- Slurm -----------------------------------------------------------------------------------------

    def rows(self) -> dict[str, dict[str, Any]]:
        """Every job Slurm knows, by its id."""
        return {str(row["job_id"]): row for row in self.squeue()}

    def row(self, job: Job) -> dict[str, Any]:
        """What Slurm says of one job."""
        self.look_at([job])
        return self.rows()[job.id]

    def shown(self, job: str) -> dict[str, str]:
        """`scontrol show job` by field; the words of a comment are not kept together."""
        done = self.lab.run(HEAD, ["scontrol", "-o", "show", "job", job], check=True)
        return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)

    def node(self, name: str) -> tuple[str, str]:
        """A node's state and reason, empty if there is none of that name."""
        done = self.lab.run(HEAD, ["sinfo", "-a", "-h", "-n", name, "-o", "%T|%E"], check=True)
        state, _, reason = (done.stdout.strip().splitlines() or [""])[0].partition("|")
        return state, reason

    def look_at(self, jobs: Iterable[Job]) -> bool:
        """Bring the jobs up to what Slurm says; True if all are over."""
        jobs = list(jobs)
        self.look_in_slurm(jobs)
        return all(job.over for job in jobs)

    def is_in(self, job: Job, state: str) -> bool:
        """True if Slurm calls the job's state that."""
        self.look_at([job])
        return job.state == state

    def over(self, jobs: Iterable[Job], seconds: float = RUN_S) -> None:
        """Return when Slurm is done with all of them."""
        jobs = list(jobs)
        self.until(lambda: self.look_at(jobs), seconds, f"jobs {[job.id for job in jobs]} are over")

    def starts(self, job: Job) -> list[Page]:
        """Every start of the job's user code, from the ledger that the job itself wrote."""
        wanted = job.id if "_" in job.id else f"{job.id}_-"
        mine = [path for path in sorted(self.ledger.iterdir()) if path.name.split(".")[1] == wanted]
        return [ledger.page(path) for path in mine if path.stat().st_size]

    def started(self, job: Job, seconds: float = RUN_S, times: int = 1) -> Page:
        """The newest start, once there are that many."""
        self.until(lambda: len(self.starts(job)) >= times, seconds, f"job {job.id} has started {times} times")
        return max(self.starts(job), key=lambda page: page.started)

    # --- wnod ------------------------------------------------------------------------------------------

    def asked(self, host: str, daemon: str, question: str) -> Any:
        """A daemon's answer, None while it does not answer."""
        socket = f"/proc/{self.lab.pid_on_machine(host)}/root/run/wnod/{daemon}/status.sock"
        try:
            return ask(socket, question)
        except DaemonUnreachable:
            return None

    def leases(self) -> list[tuple[str, dict[str, Any]]]:
        """Every lease that is not over, with its host."""
        return [(h, row) for h in self.lab.hosts for row in self.asked(h, "bait", "/jobs") or ()]

    def lease(self, job: Job) -> tuple[str, dict[str, Any]] | None:
        """The job's lease and its host, if a bait follows it."""
        return next((found for found in self.leases() if found[1]["job"] == job.id), None)

    def vms(self) -> list[tuple[str, dict[str, Any]]]:
        """Every VM on record, with its host."""
        return [(h, row) for h in self.lab.hosts for row in self.asked(h, "hostmaster", "/vms") or ()]

    def vm(self, job: Job) -> tuple[str, dict[str, Any]] | None:
        """The job's VM and its host, if there is one."""
        return next((found for found in self.vms() if found[1]["run"].split("/")[1].split(".")[0] == job.id), None)

    def vm_in(self, job: Job, phase: str, seconds: float = RUN_S) -> tuple[str, dict[str, Any]]:
        """The job's VM once it is in that phase."""

        def there() -> tuple[str, dict[str, Any]] | None:
            found = self.vm(job)
            return found if found is not None and found[1]["phase"] == phase else None

        found = self.until(there, seconds, f"the VM of job {job.id} is {phase}")
        assert found is not None
        return found

    def qemu(self, host: str, vm: str) -> int:
        """The process that libvirt runs the domain in, as the host numbers it."""
        return int(self.lab.run(host, ["cat", f"/run/libvirt/qemu/{vm}.pid"], check=True).stdout)

    def inside(self, host: str, *argv: str) -> str:
        """Output of a command that root runs on a host."""
        return self.lab.run(host, list(argv), check=True).stdout

    def crash(self, host: str, daemon: str) -> None:
        """kill -9, and a start at once as systemd does it."""
        self.lab.kill(host, daemon, 9)
        self.site.start_daemon(host, daemon)

    def restart(self, host: str, daemon: str) -> None:
        """An orderly restart; returns when the daemon answers."""
        if self.lab.exit_code(host, daemon) is None:
            self.lab.kill(host, daemon)
        self.site.start_daemon(host, daemon)
        self.until(lambda: self.site.daemon_status(host, daemon), 15, f"the {daemon} of {host} answers")

    # --- afterwards --------------------------------------------------------------------------------------

    def is_clean(self) -> bool:
        """No VM, overlay, node or lease is left, and all baits attract jobs."""
        return not self.leases() and not self.vms() and not any(self.left().values()) and self.all_open()

    def all_open(self) -> bool:
        """True if all baits attract jobs, by their own and by Slurm's word."""
        nodes = [self.node(self.lab.layout.node(host).bait)[0] for host in self.lab.hosts]
        return set(self.baits().values()) == {"open"} and set(nodes) <= {"idle", "mixed", "allocated", "completing"}

    def is_held(self, job: Job) -> bool:
        """True if the job waits for a human."""
        row = self.row(job)
        return row["job_state"] in ("PENDING", "SPECIAL_EXIT") and row["state_reason"] in (
            "JobHeldUser",
            "JobHeldAdmin",
        )

    def clean(self, seconds: float = CLEAN_S) -> None:
        """Return when the hosts are as before any job."""
        self.until(self.is_clean, seconds, "hosts are clean and baits open")

    def restore(self) -> None:
        """After a failed test: no jobs, every daemon runs, no node is closed; the next test shall not fail for it."""
        for user in USERS:
            self.lab.run(HEAD, ["scancel", "-u", user.name])
        for host in self.lab.hosts:
            if self.lab.exit_code(host, "libvirtd") is not None:
                self.start_libvirtd(host)
            for daemon in DAEMONS:
                if self.lab.exit_code(host, daemon) is not None:
                    self.site.start_daemon(host, daemon)
            bait = self.lab.layout.node(host).bait
            if not self.node(bait)[1].startswith(("none", "wnod:")):
                self.lab.run(HEAD, ["scontrol", "update", f"nodename={bait}", "state=resume"])
        self.clean()

    def wnod_exit(self, host: str, *words: str) -> tuple[int, Any]:
        """Exit code and JSON of a `wnod ... --json` command on a host; ValueError if it printed no JSON."""
        argv = [self.site.python, "-m", "wnod", *words, "--json"]
        done = self.lab.run(host, argv, env={"PYTHONPATH": str(PROJECT)})
        return done.returncode, json.loads(done.stdout)

    def take_over(self) -> None:
        """Use a lab that is up, with the daemons as they are in the tree now."""
        placed = {path.parent.name: path for path in self.lab.layout.images.glob("*/*") if path.is_dir()}
        self.site = Site(self.lab, placed)
        self.site.prepare()
        for host in self.lab.hosts:
            if self.lab.exit_code(host, "libvirtd") is not None:
                self.start_libvirtd(host)
            for daemon in DAEMONS:
                self.restart(host, daemon)
        self.site.wait_open()

    def start_libvirtd(self, host: str) -> None:
        """Start the host's libvirtd, which is down."""
        service = next(s for s in services(self.lab.layout, self.lab.layout.node(host)) if s.name == "libvirtd")
        (Path(f"/proc/{self.lab.pid_on_machine(host)}/root{service.ready}")).unlink(missing_ok=True)
        self.lab.start_service(host, service)

    def asked_exit(self, host: str, *words: str) -> int:
        """Exit code of a `wnod` command that has nothing to print."""
        argv = [self.site.python, "-m", "wnod", *words]
        return self.lab.run(host, argv, env={"PYTHONPATH": str(PROJECT)}).returncode
