"""The lab under torture: a site with small file systems, a supervisor as systemd would be, and eyes on its VMs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deploy.lab import images
from deploy.lab.lab import Lab
from deploy.lab.layout import HEAD, Node
from deploy.lab.namespaces import LabError, start_time
from deploy.lab.services import services
from deploy.lab.site import DAEMONS, Site
from tests.torture.disks import Disks

LEDGER = "/home/ledger"
SLURM = ("SlurmdTimeout=100", "MinJobAge=7200")
"""A third of the fence's usual times, so that minutes are enough for it; and Slurm remembers every job to the end."""
TIMES = {"fence_pause_s": 30, "fence_resume_s": 50, "lrms_gives_up_s": 100}
RETRY = {"delay_s": 5, "longest_s": 30}
RESTART_S = 2.0
"""As RestartSec in the unit files."""
NEVER_AGAIN = (2, 78)
"""As RestartPreventExitStatus there."""


class TortureSite(Site):
    """wnod with times that fit into minutes."""

    def _hostmaster(self, node: Node) -> dict[str, Any]:
        return {**super()._hostmaster(node), "times": dict(TIMES)}

    def _bait(self, node: Node) -> dict[str, Any]:
        content = super()._bait(node)
        lrms = {key: value for key, value in content["lrms"].items() if key != "restart_grace_s"}  # here it forgets
        return {**content, "lrms": lrms, "retry": dict(RETRY)}

    def prepare_again(self, host: str) -> None:
        """A host that has rebooted gets its configuration back."""
        self._prepare_host(self.lab.layout.node(host))


class Ground:
    """One lab in use. `say` prints a line for whoever watches."""

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.say = say
        self.disks = Disks(lab)
        self.site: TortureSite
        self.supervisor: Supervisor
        self.anomalies: list[str] = []
        """What was seen that must not be, beside what happened to jobs."""

    def up(self) -> None:
        """Everything, from nothing; returns when every bait is open."""
        built = images.ensure(self.say)
        self.lab.purge()
        self.lab.slurm_extra = SLURM
        self.say("starting the lab: a Slurm controller and two hosts, each with its own libvirt and small disks")
        self.lab.up()
        self.site = TortureSite(self.lab, images.install(self.lab.layout, built))
        self.supervisor = Supervisor(self.lab, self.site, self.say)
        for host in self.lab.hosts:
            self.disks.make(host)
            self.disks.mount(host)
        self.site.prepare()
        for host in self.lab.hosts:
            self.disks.bind_overlays(host)
        self.site.start()
        self.site.wait_open(180)
        self.ledger.mkdir(mode=0o1777, exist_ok=True)
        self.ledger.chmod(0o1777)

    @property
    def ledger(self) -> Path:
        """The ledger's directory as this machine sees it."""
        return self.lab.layout.home / "ledger"

    def boot(self, host: str) -> None:
        """A host that is off comes up again, as it would at a site, and its daemons with it."""
        self.lab._boot(self.lab.layout.node(host))
        self.disks.mount(host)
        self.site.prepare_again(host)
        self.disks.bind_overlays(host)
        for daemon in DAEMONS:
            self.site.start_daemon(host, daemon)

    def qemus(self) -> list[Qemu]:
        """Every QEMU of this lab that lives now, in no special order."""
        found: list[Qemu] = []
        for host in self.lab.hosts:
            with contextlib.suppress(OSError, LabError):
                found += _qemus(host, self.lab.pid_on_machine(host))
        return found


@dataclasses.dataclass(frozen=True)
class Qemu:
    """One QEMU process, as the machine numbers it."""

    host: str
    vm: str
    pid: int
    started: int

    def signal(self, number: int) -> bool:
        """False if it is gone."""
        if start_time(self.pid) != self.started:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def _qemus(host: str, first: int) -> Iterator[Qemu]:
    """Those in the mount namespace of the host whose process 1 is `first`: other labs name their VMs alike."""
    ours = os.readlink(f"/proc/{first}/ns/mnt")
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            guest = guest_of(words)
            if guest is None or os.readlink(process / "ns" / "mnt") != ours:
                continue
            started = start_time(int(process.name))
            if started is not None:
                yield Qemu(host, guest, int(process.name), started)


def guest_of(words: Sequence[bytes]) -> str | None:
    """The guest of a process with this command line, "?" if its name is not told; None if it runs none.

    So for a QEMU without a machine: libvirt asks it what it can, and leaves it when it is killed in that moment.
    """
    has_no_machine = any(word.startswith(b"none,") for word in words)
    if b"qemu-system" not in words[0] or has_no_machine:
        return None
    return next((w.decode().split(",")[0].removeprefix("guest=") for w in words if w.startswith(b"guest=")), "?")


class Supervisor:
    """Starts again what has died, after RESTART_S, as systemd does; not what is held down on purpose."""

    def __init__(self, lab: Lab, site: Site, say: Callable[[str], None]) -> None:
        self._lab, self._site, self._say = lab, site, say
        self._held: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._dead_since: dict[tuple[str, str], float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self.given_up: dict[tuple[str, str], int] = {}
        """What ended with a code after which systemd does not start it again."""
        self.restarts: Counter[str] = Counter()
        """How often each daemon had to be started again though nobody had killed it."""

    def begin(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when it starts nothing any more. Idempotent."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(60)

    @contextlib.contextmanager
    def holding(self, where: str, *names: str) -> Iterator[None]:
        """Meanwhile it is somebody else's business whether these run."""
        keys = [(where, name) for name in names]
        with self._lock:
            self._held.update(keys)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(keys)
                for key in keys:
                    self._dead_since.pop(key, None)

    def names(self, where: str) -> tuple[str, ...]:
        """What runs on a node."""
        own = tuple(service.name for service in services(self._lab.layout, self._lab.layout.node(where)))
        return own if where == HEAD else (*own, *DAEMONS)

    def start(self, where: str, name: str) -> None:
        """Start what is dead; LabError if it cannot, or runs."""
        if name in DAEMONS:
            self._site.start_daemon(where, name)
            return
        service = next(s for s in services(self._lab.layout, self._lab.layout.node(where)) if s.name == name)
        if service.ready:
            Path(f"/proc/{self._lab.pid_on_machine(where)}/root{service.ready}").unlink(missing_ok=True)
        self._lab.start_service(where, service)

    def _run(self) -> None:
        while not self._end.wait(0.3):
            for where in (HEAD, *self._lab.hosts):
                with contextlib.suppress(LabError, OSError, KeyError, FileNotFoundError):
                    self._look(where)

    def _look(self, where: str) -> None:
        children = self._lab.children(where)
        for name in self.names(where):
            key, status = (where, name), children.get(name, {}).get("status")
            if status is None or key in self.given_up:
                continue
            with self._lock:
                if self._held[key] > 0:
                    continue
                since = self._dead_since.setdefault(key, time.monotonic())
                if time.monotonic() - since < RESTART_S:
                    continue
                self._dead_since.pop(key)
                self._restart(where, name, int(status))

    def _restart(self, where: str, name: str, status: int) -> None:
        if name in DAEMONS and status in NEVER_AGAIN:
            self.given_up[(where, name)] = status
            self._say(f"{name} of {where} ended with {status}: systemd would not start it again")
            return
        self.restarts[f"{name}@{where}"] += 1
        with contextlib.suppress(LabError):
            self.start(where, name)
