"""Images, checked before use, and overlays, made in milliseconds: hostmaster.world.Images on local files.

An overlay is a raw sparse copy of an empty ext4 of its size; the copy moves only the few blocks that mkfs wrote.
Raw and not qcow2: no file that can name another file, no growth beyond its size, no metadata to walk on each
write (docs/decisions/0003). All work happens on threads of this module's own.
"""

import os
import re
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from hostmaster.edges.goldenfiles import GoldenFiles
from hostmaster.world import Artifacts, ImageRefused, ImageUnreadable
from protocol.ids import EnvironmentName
from wnod.image import manifest
from wnod.image.errors import ImageError

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}\Z")
_SUFFIX = ".overlay"
_PARTIAL = ".partial"
_MKFS_LIMIT_S = 60
# All zeros before mkfs, never grown, never needed after a crash: little to write means little to copy for each VM.
_FEATURES = "^has_journal,^resize_inode,sparse_super2"
_MKFS = ("mkfs.ext4", "-q", "-F", "-m", "0", "-O", _FEATURES, "-L", "wnod-overlay")
_FAST = ("-E", "lazy_itable_init=1,nodiscard,assume_storage_prezeroed=1")
_OLDER = ("-E", "lazy_itable_init=1,nodiscard")  # e2fsprogs before 1.47 does not know the third

_Identity = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the catalogue says an environment's image is, and the image id that it must have."""

    directory: str
    image: str


class LocalImages:
    """Images where the catalogue says, overlays and templates below `state`. Start before use."""

    def __init__(
        self,
        reactor: Any,
        state: str,
        catalogue: Mapping[EnvironmentName, Source],
        owner: Callable[[], tuple[int, int]] = lambda: (os.geteuid(), os.getegid()),
    ) -> None:
        """`owner`: (uid, gid) of the QEMU processes, who get the overlays (LibvirtHypervisor.qemu_user)."""
        self._reactor, self._catalogue, self._owner = reactor, catalogue, owner
        self._overlays = Path(state) / "overlays"
        self._templates = Path(state) / "templates"
        self._golden = GoldenFiles(Path(state) / "golden")
        self._good: dict[str, tuple[_Identity, Artifacts]] = {}
        # One thread hashes, so that an image asked for by many is read once; two others are never behind it.
        self._hashing = ThreadPool(0, 1, "images")
        self._making = ThreadPool(0, 2, "overlays")

    def start(self) -> None:
        """Make the directories and the threads. OSError if the state directory is not ours to write."""
        for directory, mode in ((self._overlays, 0o711), (self._templates, 0o700)):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)  # QEMU must pass through to its overlay, and need not list what is there
        for leftover in (*self._overlays.glob("*" + _PARTIAL), *self._templates.glob("*" + _PARTIAL)):
            leftover.unlink()
        self._golden.start()
        self._hashing.start()
        self._making.start()

    def stop(self) -> None:
        """Wait for the work under way, at most the hashing of one image."""
        self._hashing.stop()
        self._making.stop()

    async def verify(self, environment: EnvironmentName) -> Artifacts:
        """See hostmaster.world.Images. The content is hashed once for as long as the files stay untouched."""
        return await self._on(self._hashing, partial(self._verify, environment))

    async def make_overlay(self, name: str, disk_mib: int) -> str:
        """See hostmaster.world.Images. OSError if the disk is full or not ours to write."""
        return await self._on(self._making, partial(self._make, self._path(name), disk_mib))

    async def remove_overlay(self, name: str) -> None:
        """See hostmaster.world.Images."""
        await self._on(self._making, partial(self._path(name).unlink, missing_ok=True))

    async def overlays(self) -> tuple[str, ...]:
        """See hostmaster.world.Images."""
        return await self._on(self._making, self._list)

    async def move_overlay(self, name: str, target: str) -> None:
        """See hostmaster.world.Images."""
        await self._on(self._making, partial(_move, self._path(name), Path(target)))

    async def golden_path(self, name: str) -> str:
        """See hostmaster.world.Images."""
        return str(await self._on(self._making, partial(self._golden.memory, name)))

    async def freeze(self, name: str, overlay: str) -> None:
        """See hostmaster.world.Images."""
        await self._on(self._making, partial(self._golden.freeze, name, self._path(overlay)))

    async def thaw(self, name: str, overlay: str) -> str:
        """See hostmaster.world.Images."""
        work = partial(self._copy, self._golden.overlay(name), self._path(overlay))
        return await self._on(self._making, work)

    async def remove_golden(self, name: str) -> None:
        """See hostmaster.world.Images."""
        await self._on(self._making, partial(self._golden.remove, name))

    async def goldens(self) -> Mapping[str, int]:
        """See hostmaster.world.Images."""
        return await self._on(self._making, self._golden.sizes)

    async def _on(self, pool: ThreadPool, work: Callable[[], T]) -> T:
        return await deferToThreadPool(self._reactor, pool, work)

    def _list(self) -> tuple[str, ...]:
        found = (p.name for p in self._overlays.iterdir())
        return tuple(sorted(n.removesuffix(_SUFFIX) for n in found if n.endswith(_SUFFIX)))

    def _path(self, name: str) -> Path:
        if not _NAME.match(name) or ".." in name:
            raise ValueError(f"overlay name {name!r}: expected lower-case letters, digits, dots and hyphens")
        return self._overlays / (name + _SUFFIX)

    # --- images, on the hashing thread -----------------------------------------------------------

    def _verify(self, environment: EnvironmentName) -> Artifacts:
        source = self._catalogue.get(environment)
        if source is None:
            raise ImageRefused(f"environment {environment}: not in the catalogue; add it or ask for another")
        try:
            return self._checked(source)
        except (ImageError, OSError) as e:
            unreadable = isinstance(e, OSError) or isinstance(e.__cause__, OSError)
            raise (ImageUnreadable if unreadable else ImageRefused)(f"environment {environment}: {e}") from e

    def _checked(self, source: Source) -> Artifacts:
        directory = Path(source.directory)
        _refuse_strangers(directory, stat.S_ISDIR)
        identity = _identity(directory)
        good = self._good.get(source.image)
        if good is not None and good[0] == identity:
            return good[1]
        image = manifest.load(directory)
        if image.image_id != source.image:
            raise ImageError(
                f"{directory}: image id is {image.image_id}, the catalogue says {source.image}; "
                "install that image, or put the new id into the catalogue"
            )
        manifest.verify(image)
        artifacts = Artifacts(
            image=image.image_id,
            kernel=str(image.kernel),
            initrd=str(image.initrd),
            root=str(image.root),
            lrms=image.manifest.lrms,
        )
        # The identity was taken before hashing: a change meanwhile makes the next check hash again.
        self._good[source.image] = (identity, artifacts)
        return artifacts

    # --- overlays, on the making threads ---------------------------------------------------------

    def _make(self, path: Path, disk_mib: int) -> str:
        return self._copy(self._template(disk_mib), path)

    def _copy(self, source: Path, path: Path) -> str:
        partial_path = _beside(path)
        try:
            _copy_sparse(source, partial_path)
            _hand_over(partial_path, *self._owner())
            # Replacing by rename: a QEMU that still has the old one keeps it, and nobody ever sees half a disk.
            partial_path.replace(path)
        finally:
            partial_path.unlink(missing_ok=True)
        return str(path)

    def _template(self, disk_mib: int) -> Path:
        path = self._templates / f"ext4-{disk_mib}.raw"
        if not path.exists():
            partial_path = _beside(path)
            try:
                _make_file_system(partial_path, disk_mib)
                partial_path.replace(path)
            finally:
                partial_path.unlink(missing_ok=True)
        return path


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except FileNotFoundError:
        if not target.exists():
            raise


def _beside(path: Path) -> Path:
    # Two threads may make the same template at once; each its own, and the later one replaces the earlier.
    return path.with_name(f"{path.name}.{os.urandom(8).hex()}{_PARTIAL}")


def _refuse_strangers(path: Path, kind: Callable[[int], bool]) -> None:
    """Only root or we may be able to change what was hashed."""
    info = path.lstat()
    if not kind(info.st_mode):
        raise ImageError(f"{path}: is a symbolic link or of the wrong kind; name the image's own files")
    if info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
        raise ImageError(f"{path}: others may change it; chown it to root and chmod go-w")


def _identity(directory: Path) -> _Identity:
    """What changes whenever a file is changed or replaced, without reading it. Times in nanoseconds."""
    found = []
    for name in (manifest.MANIFEST, *manifest.FILES):
        path = directory / name
        _refuse_strangers(path, stat.S_ISREG)
        info = path.lstat()
        found.append((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    return tuple(found)


def _make_file_system(path: Path, disk_mib: int) -> None:
    failure = ""
    for options in (_FAST, _OLDER):
        with path.open("xb") as file:
            file.truncate(disk_mib << 20)
        command = [*_MKFS, *options, "--", str(path)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=_MKFS_LIMIT_S, check=False)
        except subprocess.TimeoutExpired as e:
            raise OSError(f"mkfs.ext4 of a {disk_mib} MiB overlay did not end within {_MKFS_LIMIT_S} s") from e
        if result.returncode == 0:
            return
        failure = result.stderr.strip()
        path.unlink()
    raise OSError(f"mkfs.ext4 of a {disk_mib} MiB overlay failed: {failure}")


def _copy_sparse(source: Path, target: Path) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with source.open("rb") as read, os.fdopen(os.open(target, flags, 0o600), "wb") as write:
        size = os.fstat(read.fileno()).st_size
        os.ftruncate(write.fileno(), size)
        start = _next_data(read.fileno(), 0)
        while start is not None:
            end = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            _copy_range(read.fileno(), write.fileno(), start, end)
            start = _next_data(read.fileno(), end)


def _next_data(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but a hole from here to the end
        return None


def _copy_range(read: int, write: int, start: int, end: int) -> None:
    while start < end:
        copied = os.copy_file_range(read, write, end - start, start, start)
        if copied == 0:
            raise OSError("what an overlay is copied from became shorter meanwhile")
        start += copied


def _hand_over(path: Path, uid: int, gid: int) -> None:
    """Let QEMU's user write the overlay: as root by giving it away, else through QEMU's group."""
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
        return
    try:
        os.chown(path, -1, gid)
        path.chmod(0o660)
    except PermissionError as e:
        raise OSError(f"cannot give {path} to QEMU's group {gid}: make the hostmaster's user a member of it") from e
