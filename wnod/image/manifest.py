"""An image's manifest: what it consists of, its identity, and the check that the files are still those.

An image is a directory with manifest.json and the files it names. Its id is the hash of the canonical
manifest, which holds the hash of every file: whoever trusts the id trusts the bytes.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from wnod.image.errors import FileMismatch, ManifestError, UnsafeFile

FORMAT = 1
MANIFEST = "manifest.json"
ROOT = "root.squashfs"
KERNEL = "kernel"
INITRD = "initrd"
FILES = (ROOT, KERNEL, INITRD)
_MAX_MANIFEST = 4 << 20
_BLOCK = 1 << 20
_SQUASHFS = b"hsqs"
# Headers of formats in which a file can name another file that QEMU would then open.
_REFERRING = {
    b"QFI\xfb": "qcow2",
    b"QED\0": "qed",
    b"KDMV": "vmdk",
    b"COWD": "vmdk",
    b"# Disk DescriptorFile": "vmdk",
    b"conectix": "vpc",
    b"vhdxfile": "vhdx",
}

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9.-]{0,62}$")]


class ImageFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of an image: size in bytes and hash of its content."""

    size: Annotated[int, msgspec.Meta(ge=1)]
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an image is. Equal manifests mean equal images, wherever and whenever they were built."""

    format: int
    name: Name
    suite: str
    arch: str
    files: dict[str, ImageFile]
    packages: dict[str, str]
    kernel_release: str
    lrms: str
    lrms_version: str
    tags: tuple[str, ...]
    source_date_epoch: Annotated[int, msgspec.Meta(ge=0)]

    def canonical(self) -> bytes:
        """The bytes that the id is the hash of: JSON with sorted keys and no spaces."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def image_id(self) -> str:
        """Sha256 of the canonical manifest, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()


class Image(msgspec.Struct, frozen=True):
    """An image found on disk. Its files are only known to be right after `verify`."""

    directory: Path
    manifest: Manifest

    @property
    def image_id(self) -> str:
        """Identity of the image, see Manifest.image_id."""
        return self.manifest.image_id

    @property
    def root(self) -> Path:
        """The raw squashfs, to be attached read-only as vda."""
        return self.directory / ROOT

    @property
    def kernel(self) -> Path:
        """The kernel for direct boot."""
        return self.directory / KERNEL

    @property
    def initrd(self) -> Path:
        """The initrd for direct boot."""
        return self.directory / INITRD


def load(directory: Path) -> Image:
    """Read an image's manifest, without reading its files.

    Raises ManifestError when it is missing, larger than 4 MiB, malformed or of another format version.
    """
    path = directory / MANIFEST
    try:
        with _open_regular(path) as file:
            data = file.read(_MAX_MANIFEST + 1)
    except OSError as e:
        raise ManifestError(f"{path}: cannot be read ({e.strerror}); build the image again") from e
    if len(data) > _MAX_MANIFEST:
        raise ManifestError(f"{path}: larger than {_MAX_MANIFEST} bytes; this is no manifest of wnod")
    return Image(directory, _decode(path, data))


def verify(image: Image) -> None:
    """Read every file of the image and compare it with the manifest; takes about a second for 300 MB.

    Raises FileMismatch for a missing or changed file, UnsafeFile for a symbolic link or a disk format that
    can refer to another file, ManifestError when the manifest does not name exactly the files of an image.
    """
    names = set(image.manifest.files)
    if names != set(FILES):
        raise ManifestError(
            f"{image.directory / MANIFEST}: files is {sorted(names)}, expected exactly {sorted(FILES)}; "
            "build the image again"
        )
    for name in FILES:
        _verify_file(image.directory / name, image.manifest.files[name])


def describe_file(path: Path) -> ImageFile:
    """Size and hash of a file as the manifest has them."""
    with _open_regular(path) as file:
        return _measure(file)


def refuse_references(path: Path, head: bytes) -> None:
    """Raise UnsafeFile when these first bytes belong to a disk format that can name a backing or data file."""
    for magic, kind in _REFERRING.items():
        if head.startswith(magic):
            raise UnsafeFile(f"{path}: is a {kind} file, which may open other files; an image holds raw files only")


def _decode(path: Path, data: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(data, type=_Versioned).format
        if version != FORMAT:
            raise ManifestError(f"{path}: format is {version}, this version reads {FORMAT}; build the image again")
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as e:
        raise ManifestError(f"{path}: {e}; build the image again") from e


class _Versioned(msgspec.Struct):
    format: int


def _open_regular(path: Path) -> BinaryIO:
    """Open without following a link in the last component, and only a regular file (a FIFO would block us)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if path.is_symlink():
            raise UnsafeFile(f"{path}: is a symbolic link; an image holds its own files, copy the target here") from e
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UnsafeFile(f"{path}: is not a regular file; build the image again")
    return os.fdopen(fd, "rb")


def _verify_file(path: Path, expected: ImageFile) -> None:
    try:
        file = _open_regular(path)
    except OSError as e:
        raise FileMismatch(f"{path}: cannot be read ({e.strerror}); build or copy the image again") from e
    with file:
        size = os.fstat(file.fileno()).st_size
        if size != expected.size:
            raise FileMismatch(f"{path}: has {size} bytes, the manifest says {expected.size}; build or copy it again")
        head = file.read(64)
        refuse_references(path, head)
        if path.name == ROOT and not head.startswith(_SQUASHFS):
            raise UnsafeFile(f"{path}: is not a squashfs; the root of an image is always a raw squashfs")
        file.seek(0)
        found = _measure(file)
    if found != expected:
        raise FileMismatch(
            f"{path}: sha256 is {found.sha256}, the manifest says {expected.sha256}; build or copy it again"
        )


def _measure(file: BinaryIO) -> ImageFile:
    digest = hashlib.sha256()
    size = 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return ImageFile(size=size, sha256=digest.hexdigest())
