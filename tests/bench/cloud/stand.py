"""A cluster of Slurm's own cloud nodes: a lab with one host, whose VMs the controller itself starts and ends."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy.lab import images, slurmconf
from deploy.lab.lab import Lab
from deploy.lab.layout import HEAD
from deploy.lab.namespaces import wait_for
from hostmaster.world import Accelerator
from tests.bench import guest
from tests.bench.cloud.configuration import Variant, configuration
from tests.bench.guest import File, Guest

HOST = "h1"
NODES = 2
"""As many at a time as a host of the contestants has slots."""
PROGRAMS = Path(__file__).parent


class CloudStand:
    """The cluster of one variant. `up` and `down` frame everything."""

    def __init__(self, lab: Lab, variant: Variant, built: Path, accelerator: Accelerator) -> None:
        self.lab, self.variant, self._built, self._accelerator = lab, variant, built, accelerator
        host = lab.layout.node(HOST)
        subnet = host.address.rsplit(".", 1)[0]
        self.addresses = {f"cloud{n}": f"{subnet}.{20 + n}" for n in range(1, NODES + 1)}
        self.work = lab.layout.root / "cloud"

    def up(self) -> None:
        """Start the lab, its host's libvirt with an ear for the head, and a controller that knows cloud nodes only."""
        self.lab.purge()
        self.lab.up(wait=False)
        self.lab.kill(HOST, "slurmd")
        self._open_libvirt()
        self._make_guests()
        self._install_programs()
        self._configure()
        wait_for(lambda: set(self.states().values()) == {"POWERED_DOWN"}, 30, "cloud nodes are not powered down")

    def down(self) -> None:
        """End everything; nothing is left."""
        self.lab.purge()

    def states(self) -> dict[str, str]:
        """Each cloud node's power state, or IDLE, ALLOCATED and the like."""
        said = self.lab.run(HEAD, ["scontrol", "-o", "show", "node"]).stdout
        found = {}
        for line in said.splitlines():
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            flags = words.get("State", "").split("+")
            found[words.get("NodeName", "")] = next((f for f in flags if f.startswith("POWER")), flags[0])
        return found

    def is_empty(self) -> bool:
        """True if none of its machines is left."""
        return not self.lab.run(HOST, ["virsh", "-q", "list", "--name"], check=True).stdout.strip()

    def _open_libvirt(self) -> None:
        path = self.lab.layout.private(HOST, "etc") / "libvirt" / "libvirtd.conf"
        address = self.lab.layout.node(HOST).address
        path.write_text(
            path.read_text() + f'listen_tls = 0\nlisten_tcp = 1\nauth_tcp = "none"\nlisten_addr = "{address}"\n'
        )
        self.lab.kill(HOST, "libvirtd")
        self.lab.spawn(HOST, "libvirtd", ["libvirtd", "--listen"])
        uri = self.uri
        wait_for(
            lambda: not self.lab.run(HEAD, ["virsh", "-q", "-c", uri, "list"]).returncode,
            60,
            f"no libvirt at {uri}",
            0.2,
        )

    @property
    def uri(self) -> str:
        """The host's libvirt as the head reaches it."""
        return f"qemu+tcp://{self.lab.layout.node(HOST).address}/system"

    def _make_guests(self) -> None:
        placed = images.install(self.lab.layout, {"debian12": self._built})["debian12"]
        inside = Path("/var/lib/wnod/images/debian12") / placed.name
        head = self.lab.layout.nodes[0]
        hosts = [f"{head.address} {HEAD}", *(f"{a} {n}" for n, a in self.addresses.items())]
        files = {
            **guest.accounts(placed),
            "etc/hosts": File(("127.0.0.1 localhost\n" + "\n".join(hosts) + "\n").encode()),
            "etc/munge/munge.key": File((self.lab.layout.root / "munge.key").read_bytes(), 0o400),
        }
        words = ["bench.role=slurm", f"bench.server={head.address}"]
        words += ["bench.slurmd=-b"] if self.variant is Variant.TUNED else []
        for number, (name, address) in enumerate(self.addresses.items(), 1):
            mac = f"52:54:00:78:01:{number:02x}"
            one = Guest(name, mac, f"{address}/16", inside, self.work, self._accelerator)
            guest.write(one, files, *words)
            (self.work / f"{name}.address").write_text(f"{address}\n")
        with (self.lab.layout.private(HEAD, "etc") / "hosts").open("a") as known:
            known.writelines(f"{a} {n}\n" for n, a in self.addresses.items())

    def _install_programs(self) -> None:
        target = self.lab.layout.root / "libexec" / "cloud"
        target.mkdir(exist_ok=True)
        for name in ("resume", "suspend", "prolog", "epilog"):
            shutil.copy(PROGRAMS / name, target / name)
            (target / name).chmod(0o755)
        tell = "yes" if self.variant is Variant.DOCUMENTED else "no"
        (target / "settings").write_text(f"LIBVIRT={self.uri}\nWORK={self.work}\nTELL={tell}\n")

    def _configure(self) -> None:
        etc = self.lab.layout.private(HEAD, "etc") / "slurm"
        base = slurmconf.slurm_conf(self.lab.layout, self.lab.shape)
        (etc / "slurm.conf").write_text(configuration(base, self.variant, list(self.addresses.items())))
        (etc / "plugstack.conf").unlink()
        self.lab.kill(HEAD, "slurmctld")
        spool = self.lab.layout.private(HEAD, "spool") / "slurmctld"
        for remembered in spool.iterdir():
            remembered.unlink()
        self.lab.spawn(HEAD, "slurmctld", ["slurmctld", "-D"], "slurm")
