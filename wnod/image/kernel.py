"""The guest's kernel: taken out of its package, with the few modules a guest needs in loading order."""

import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wnod.image.errors import BuildError
from wnod.image.run import run

# Needed to find and mount the root and to reach the hostmaster; loaded in the initrd.
EARLY = ("virtio_pci", "virtio_blk", "virtio_console", "squashfs", "overlay")
# Needed later: the network while the hostmaster prepares its first words, NFS when something is to be mounted.
LATE = ("virtio_net", "nfsv4")
# A signed module ends with: the signature, 12 bytes that end with its length, and this text.
_SIGNED = b"~Module signature appended~\n"
_SIGNATURE_FACTS = 12
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True)
class Module:
    """A kernel module: file name without compression, content."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Kernel:
    """A kernel image with the modules of both stages, in the order in which they must be loaded.

    `late` has for each module of LATE what must be loaded for it, after the early ones.
    """

    release: str
    vmlinuz: bytes
    early: tuple[Module, ...]
    late: dict[str, tuple[Module, ...]]


def unpack_kernel(package: Path, scratch: Path) -> Kernel:
    """Read the kernel and its modules from a Debian package. Raises BuildError for one without a kernel."""
    run(["dpkg-deb", "-x", package, scratch])
    images = sorted((scratch / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise BuildError(f"{package.name}: holds {len(images)} kernels, expected 1; name a linux-image package")
    release = images[0].name.removeprefix("vmlinuz-")
    available = _modules_below(scratch, release)
    early = load_order(EARLY, available)
    late = {name: tuple(m for m in load_order([name], available) if m not in early) for name in LATE}
    return Kernel(release, images[0].read_bytes(), early, late)


def load_order(wanted: Sequence[str], available: dict[str, Path]) -> tuple[Module, ...]:
    """The wanted modules, each after those it depends on. Modules built into the kernel are not available: left out."""
    ordered: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name in ordered or name not in available:
            return
        content = _content(available[name])
        for needed in _needs(content):
            visit(needed)
        ordered[name] = Module(f"{name}.ko", without_signature(content))

    for name in wanted:
        visit(name)
    return tuple(ordered.values())


def without_signature(content: bytes) -> bytes:
    """A module without the distribution's signature, whose check costs an emulated guest 0.35 s for NFS.

    Nothing is lost: the module is part of the image, and the image's hash is verified on the host.
    """
    if not content.endswith(_SIGNED):
        return content
    facts = content[-len(_SIGNED) - _SIGNATURE_FACTS : -len(_SIGNED)]
    length = int.from_bytes(facts[-4:], "big")
    return content[: -len(_SIGNED) - _SIGNATURE_FACTS - length]


def _modules_below(scratch: Path, release: str) -> dict[str, Path]:
    found = {}
    for top in ("lib", "usr/lib"):
        for path in sorted((scratch / top / "modules" / release).rglob("*.ko*")):
            found[path.name.split(".ko")[0].replace("-", "_")] = path
    if not found:
        raise BuildError(f"no modules for kernel {release} in its package; name a linux-image package with modules")
    return found


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _needs(content: bytes) -> Iterator[str]:
    found = _DEPENDS.search(content)
    if found and found[1]:
        yield from (name.replace("-", "_") for name in found[1].decode().split(","))
