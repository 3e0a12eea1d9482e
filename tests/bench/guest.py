"""The guest of the contestants that are not wnod: the lab's very image, with another first program in its disk.

Image, kernel, initrd and devices are those of a wnod VM. The VM's private disk, which the initrd lays over the
image, is filled beforehand: with what a site would put into the image of a cloud node or of a VM with an sshd.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.layout import USERS
from hostmaster.edges.domain import domain_xml
from hostmaster.world import Accelerator, DomainSpec, Ours
from protocol.ids import EnvironmentName, Generation, LeaseId, Shape, VmName

SHAPE = Shape(cpus=1, memory_mib=896, disk_mib=512)
"""512 MiB for the job and the overhead of the lab's catalogue: the shape of the VMs that wnod makes."""
INIT = Path(__file__).parent / "cloud" / "guest-init"


@dataclass(frozen=True, slots=True)
class File:
    """A file in the guest; always root's."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest that somebody else than wnod starts. Paths as its host sees them."""

    name: str
    mac: str
    address: str
    """With prefix length."""
    image: Path
    """The image's directory."""
    work: Path
    """Where disk and console are: QEMU's user and whoever starts the guest may write here."""
    accelerator: Accelerator

    @property
    def disk(self) -> Path:
        return self.work / f"{self.name}.raw"

    @property
    def template(self) -> Path:
        """What the disk is copied from before each start."""
        return self.work / f"{self.name}.template"

    @property
    def xml(self) -> Path:
        return self.work / f"{self.name}.xml"


def domain(guest: Guest, *words: str) -> str:
    """The XML of the guest's domain: a wnod VM's, without its channel and our facts; `words` for its first program."""
    ours = Ours("bench", VmName(guest.name), Generation(1), LeaseId("0" * 32), "none", 0, EnvironmentName("bench"),
                "0" * 64, SHAPE, "")  # fmt: skip
    spec = DomainSpec(
        ours=ours,
        uuid=str(uuid.uuid4()),
        mac=guest.mac,
        bridge="br0",
        accelerator=guest.accelerator,
        kernel=str(guest.image / "kernel"),
        initrd=str(guest.image / "initrd"),
        root=str(guest.image / "root.squashfs"),
        overlay=str(guest.disk),
        console=str(guest.work / f"{guest.name}.console"),
        channel="/nonexistent",
        extra_cmdline=(f"bench.address={guest.address}", *words),
    )
    root = ET.fromstring(domain_xml(spec))
    root.remove(_found(root, "metadata"))
    devices = _found(root, "devices")
    devices.remove(_found(devices, "channel"))
    return ET.tostring(root, encoding="unicode")


def _found(parent: ET.Element, tag: str) -> ET.Element:
    child = parent.find(tag)
    if child is None:
        raise ValueError(f"<{parent.tag}> has no <{tag}>: hostmaster.edges.domain has changed")
    return child


def accounts(image: Path) -> dict[str, File]:
    """The image's accounts and the lab's users, as files."""
    passwd, group = (image_file(image, f"etc/{name}") for name in ("passwd", "group"))
    return {
        "etc/passwd": File(passwd + "".join(f"{u.passwd()}\n" for u in USERS).encode()),
        "etc/group": File(group + "".join(f"{u.group()}\n" for u in USERS).encode()),
    }


def image_file(image: Path, name: str) -> bytes:
    """A file out of the image's root."""
    return subprocess.run(
        ["unsquashfs", "-cat", f"{image}/root.squashfs", name], check=True, capture_output=True
    ).stdout


def write(guest: Guest, files: Mapping[str, File], *words: str) -> None:
    """Make the guest's template and XML in its work directory, which everybody may then write to."""
    guest.work.mkdir(parents=True, exist_ok=True)
    guest.work.chmod(0o777)
    with tempfile.TemporaryDirectory(dir=guest.work) as scratch:
        tree = Path(scratch) / "tree"
        for name, file in {"usr/libexec/wnod/init": File(INIT.read_bytes(), 0o755), **files}.items():
            _put(tree / "upper" / name, file)
        (tree / "upper").chmod(0o755)
        _pack(tree, guest.template)
    guest.xml.write_text(domain(guest, *words))
    shutil.copyfile(guest.template, guest.disk)
    guest.disk.chmod(0o666)


def _put(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    path.chmod(file.mode)


def _pack(tree: Path, disk: Path) -> None:
    """An ext4 with the features of wnod's overlays, and something in it."""
    with disk.open("wb") as empty:
        empty.truncate(SHAPE.disk_mib << 20)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode,sparse_super2",
         "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-d", str(tree), str(disk)],
        check=True,
    )  # fmt: skip
    disk.chmod(0o644)
