"""The cluster with wnod on three hosts, each readying VMs in its own way, and the bare and the KIT node on a fourth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.lab import images, slurmconf
from deploy.lab.lab import Lab
from deploy.lab.layout import HEAD, PROJECT, USERS
from hostmaster.rules.vm import Way
from hostmaster.world import Accelerator
from tests.bench import guest, sshd
from tests.bench.cloud.configuration import without
from tests.bench.guest import File, Guest
from tests.bench.site import BenchSite, HostPlan

COLD, RESTORE, UNPAUSE, PLAIN = "h1", "h2", "h3", "h4"
PROGRAMS = Path(__file__).parent / "kit"
PORTS = {"bare": 6828, "kit": 6829}
ALICE = USERS[0]


def plans() -> dict[str, HostPlan]:
    """The hosts with wnod. One slot where there is one spare: so that it is made anew after the job, not during it."""
    return {COLD: HostPlan(2, Way.BOOT), RESTORE: HostPlan(2, Way.RESTORE), UNPAUSE: HostPlan(1, Way.UNPAUSE)}


class MainStand:
    """`up` and `down` frame everything."""

    def __init__(self, lab: Lab, built: Path, say: Callable[[str], None], with_kit: bool = True) -> None:
        self.lab, self._built, self._say, self._with_kit = lab, built, say, with_kit
        self.site: BenchSite
        self.accelerator = Accelerator.TCG

    def up(self) -> None:
        """Start everything; returns when every bait of a wnod host is open."""
        self.lab.purge()
        # A job whose prologue boots a VM must not be taken for lost meanwhile.
        self.lab.slurm_extra = ("BatchStartTimeout=60", *self._lines("bare", 2), *self._lines("kit", 1))
        self.lab.up()
        placed = images.install(self.lab.layout, {"debian12": self._built})
        self.site = BenchSite(self.lab, placed, plans=plans())
        self.site.prepare()
        self._say("starting the daemons; each host probes its accelerator with a guest")
        self.site.start()
        self.site.wait_open()
        self.accelerator = Accelerator(self.site.daemon_status(COLD, "hostmaster")["accelerator"])
        self._start_bare()
        if self._with_kit:
            self._start_kit()

    def down(self) -> None:
        """End everything; nothing is left."""
        self.lab.purge()

    def floors(self) -> dict[str, float]:
        """Seconds of the raw commands on an idle host: tests.bench.floors, run inside it."""
        argv = [self.site.python, "-m", "tests.bench.floors", str(self._image_inside()), self.accelerator.value]
        done = self.lab.run(PLAIN, argv, env={"PYTHONPATH": str(PROJECT)}, timeout=300)
        if done.returncode:
            raise RuntimeError(f"floors: {done.stderr.strip()[-800:]}")
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def _image_inside(self) -> Path:
        return Path("/var/lib/wnod/images/debian12") / self.site.images["debian12"].name

    # --- two more slurmds of the same slurmctld, on the host without wnod ------------------------------------------

    def _lines(self, name: str, cpus: int) -> list[str]:
        address = self.lab.layout.node(PLAIN).address
        return [
            f"NodeName={name} NodeHostname={PLAIN} NodeAddr={address} Port={PORTS[name]} CPUs={cpus} "
            "RealMemory=2048 State=UNKNOWN",
            f"PartitionName={name} Nodes={name} MaxTime=UNLIMITED State=UP",
        ]

    def _start_slurmd(self, name: str, plugstack: str, *lines: str) -> None:
        """A slurmd whose configuration has no wnod in it; `lines` are its own."""
        etc = self.lab.layout.private(PLAIN, "etc")
        directory = etc / f"slurm-{name}"
        shutil.copytree(etc / "slurm", directory)
        own = ("Prolog", "Epilog", "SlurmdSpoolDir", "SlurmdPidFile")
        text = without(slurmconf.slurm_conf(self.lab.layout, self.lab.shape, self.lab.slurm_extra), own)
        text += [f"SlurmdSpoolDir=/var/spool/slurmd-{name}", f"SlurmdPidFile=/run/slurmd-{name}.pid", *lines]
        (directory / "slurm.conf").write_text("\n".join(text) + "\n")
        (directory / "plugstack.conf").write_text(plugstack)
        argv = ["slurmd", "-D", "-N", name, "-f", f"/etc/slurm-{name}/slurm.conf"]
        self.lab.spawn(PLAIN, f"slurmd-{name}", argv)

    def _start_bare(self) -> None:
        self._start_slurmd("bare", "")

    def _start_kit(self) -> None:
        host, head = self.lab.layout.node(PLAIN), self.lab.layout.nodes[0]
        work = self.lab.layout.root / "kit"
        address = host.address.rsplit(".", 1)[0] + ".30"
        one = Guest("kit", "52:54:00:79:04:01", f"{address}/16", self._image_inside(), work, self.accelerator)
        hosts = File(f"127.0.0.1 localhost kit\n{head.address} {HEAD}\n".encode())
        files = {**guest.accounts(self.site.images["debian12"]), **sshd.files(), "etc/hosts": hosts}
        guest.write(one, files, "bench.role=ssh", f"bench.server={head.address}")
        sshd.user_key(self.lab.layout.home / ALICE.name, ALICE.uid)
        target = self.lab.layout.root / "libexec" / "kit"
        shutil.copytree(PROGRAMS, target)
        (target / "settings").write_text(f"NAME=kit\nADDRESS={address}\nWORK={work}\n")
        inside = "/usr/libexec/wnod"
        self._start_slurmd(
            "kit", f"required {inside}/spank_wnod.so starter={inside}/kit/starter env=user steps=refuse\n",
            f"Prolog={inside}/kit/prologue", f"Epilog={inside}/kit/epilogue",
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """What the hostmasters say, for a look after a failure."""
        return {host: self.site.daemon_status(host, "hostmaster") for host in self.site.plans}
