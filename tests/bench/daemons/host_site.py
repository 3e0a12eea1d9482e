"""A host with a thousand VMs, as files: configuration, certificates, image, journal, and what its libvirt has.

The hypervisor is libvirt's own test driver over a file: every daemon that opens it finds the domains that the file
describes, also one that comes after a kill -9, and nothing of it takes a guest's memory or processor.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

import yaml

from hostmaster.edges.domain import domain_xml
from hostmaster.rules.specify import Site, specify
from hostmaster.rules.vm import Vm
from hostmaster.world import Accelerator, Artifacts
from protocol.ids import BaitName, BootId, EnvironmentName, Generation, LeaseId, Run, Shape, VmName
from protocol.messages import VmPhase
from tests.bench.daemons.srvmsg import BAIT, HOST, certificates
from tests.unit.hostmaster.test_images import write_image
from wnod.config import load_hostmaster
from wnod.journal import Journal

ENVIRONMENT = EnvironmentName("debian12")
SHAPE = Shape(cpus=1, memory_mib=512, disk_mib=64)
FIRST = 1000
"""The first generation; the others follow, with as many digits."""
VM = "vm"


def lay_out(directory: Path, vms: int, port: int) -> Path:
    """Make all of it; the configuration's path. The last VM on record has no domain: it died meanwhile."""
    assert FIRST + vms < 10 * FIRST, "the records' order in the journal is that of their digits"
    directory.chmod(0o755)
    certificates(directory / "tls")
    image = write_image(directory / "image")
    _write_yaml(directory / "catalogue.yaml", _catalogue(directory, image))
    _write_yaml(directory / "hostmaster.yaml", _config(directory, vms, port))
    (directory / "munge.key").write_bytes(b"k" * 64)
    records = [record(FIRST + n, image) for n in range(vms)]
    _journal(directory, records)
    _domains(directory, records[:-1])
    return directory / "hostmaster.yaml"


def _write_yaml(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def _catalogue(directory: Path, image: str) -> dict[str, object]:
    largest = {"cpus": 4, "memory_mib": 4096, "disk_mib": 1024}
    usual = {"cpus": SHAPE.cpus, "memory_mib": SHAPE.memory_mib, "disk_mib": SHAPE.disk_mib}
    entry = {"image": str(directory / "image"), "sha256": image, "largest": largest, "default": usual}
    return {"environments": {str(ENVIRONMENT): entry}}


def _config(directory: Path, vms: int, port: int) -> dict[str, object]:
    tls = directory / "tls"
    slots = [
        {"name": f"{VM}{n}", "mac": f"52:54:00:00:{n >> 8:02x}:{n & 255:02x}", "address": f"10.1.{n >> 8}.{n & 255}/16"}
        for n in range(FIRST, FIRST + vms)
    ]
    return {
        "host": str(HOST),
        "baits": [str(BAIT)],
        "listen": f"127.0.0.1:{port}",
        "tls": {"ca": f"{tls}/ca.pem", "certificate": f"{tls}/host-{HOST}.pem", "key": f"{tls}/host-{HOST}.key"},
        "catalogue": f"{directory}/catalogue.yaml",
        "state": f"{directory}/state",
        "runtime": f"{directory}/run",
        "capacity": {"cpus": 2 * vms, "memory_mib": 1024 * vms, "disk_mib": 1024 * vms},
        "slots": slots,
        "hypervisor": {"uri": f"test://{directory}/domains.xml", "accelerator": "tcg", "allow_tcg": True},
        "lrms": {"controller": "127.0.0.1:1", "munge_key": f"{directory}/munge.key"},
        "metrics": None,
    }


def record(number: int, image: str) -> Vm:
    """One VM in which a run has started."""
    run = Run(cluster="bench", job=str(number), restart=0)
    return Vm(
        generation=Generation(number),
        vm=VmName(f"{VM}{number}"),
        uuid=f"00000000-0000-4000-8000-{number:012d}",
        lease=LeaseId(f"{number:032x}"),
        bait=BaitName(BAIT),
        owner=1000,
        environment=ENVIRONMENT,
        image=image,
        shape=SHAPE,
        asked=run,
        bound=run.next(),
        phase=VmPhase.STARTED,
        boot_id=BootId(f"00000000-0000-4000-8000-{number:012d}"),
        granted_at=1.0,
        since=1.0,
    )


def _journal(directory: Path, records: list[Vm]) -> None:
    (directory / "state").mkdir(mode=0o711)
    journal = Journal(f"{directory}/state/journal.sqlite", "hostmaster", str(HOST))
    with journal.transaction():
        journal.raise_number("generation", FIRST + len(records))
        for vm in records:
            journal.put("vm", str(vm.generation), vm)
    journal.close()


def _domains(directory: Path, records: list[Vm]) -> None:
    site = Site(load_hostmaster(str(directory / "hostmaster.yaml")), Accelerator.NONE)
    artifacts = Artifacts(image=records[0].image, kernel="/k", initrd="/i", root="/r", lrms="slurm")
    node = ET.Element("node")
    for vm in records:
        node.append(ET.fromstring(domain_xml(specify(site, vm, artifacts, "/overlay", "/channel"))))
    ET.ElementTree(node).write(directory / "domains.xml")
