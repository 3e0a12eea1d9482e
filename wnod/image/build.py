"""Builds an image from a recipe: packages to a tree, tree to a squashfs, kernel and initrd beside it, manifest last.

The image appears under its final name at once (a rename), so whoever finds it finds it whole.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wnod.image import manifest
from wnod.image.errors import BuildError, ImageError
from wnod.image.initrd import Entry, write_cpio
from wnod.image.kernel import Kernel, unpack_kernel
from wnod.image.manifest import Image, Manifest
from wnod.image.recipe import Recipe
from wnod.image.run import run
from wnod.image.tree import (
    LRMS_PACKAGE,
    add_guest_files,
    add_spank_plugin,
    install_packages,
    package_versions,
    strip,
)

HASH_DIGITS = 12
_COMPRESSION = {"lz4": ["-comp", "lz4"], "zstd": ["-comp", "zstd"], "none": ["-noI", "-noId", "-noD", "-noF", "-noX"]}
_MOUNT_POINTS = ("dev", "proc", "sys", "image", "private", "root")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Paths:
    """Where a build finds its parts and keeps its results. No cache directory means: download everything."""

    output: Path
    cache: Path | None = None


def build_image(recipe: Recipe, paths: Paths, progress: Progress) -> Image:
    """Build, and return the image at OUTPUT/<name>/<first 12 digits of its id>.

    An equal image that is already there is kept, and returned; a damaged one is replaced. Raises ImageError; then
    nothing is left behind.
    """
    with _scratch(paths.output / recipe.name) as scratch:
        tree, result = scratch / "tree", scratch / "image"
        result.mkdir()
        kernel, versions = _make_tree(recipe, tree, scratch, paths.cache, progress)
        progress(f"packing the root ({recipe.compression})")
        _pack_root(recipe, tree, result / manifest.ROOT)
        progress("writing kernel and initrd")
        (result / manifest.KERNEL).write_bytes(kernel.vmlinuz)
        (result / manifest.INITRD).write_bytes(_initrd(recipe, tree, kernel))
        made = _manifest(recipe, versions, kernel, result)
        (result / manifest.MANIFEST).write_bytes(made.canonical())
        return _publish(result, paths.output / recipe.name / made.image_id[:HASH_DIGITS], made)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A directory for the build, on the file system of the result (so that it can be renamed into place)."""
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
    try:
        # mmdebstrap makes the tree accessible to its unprivileged apt user.
        scratch.chmod(0o755)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_tree(
    recipe: Recipe, tree: Path, scratch: Path, cache: Path | None, progress: Progress
) -> tuple[Kernel, dict[str, str]]:
    kernel_dir = scratch / "kernel"
    kernel_dir.mkdir()
    progress(f"installing packages of {recipe.suite}")
    install_packages(recipe, tree, kernel_dir, cache, recipe.directory / "hooks")
    packages = sorted(kernel_dir.glob("*.deb"))
    if len(packages) != 1:
        raise BuildError(f"kernel: {recipe.kernel} gave {len(packages)} packages, expected 1; name a linux-image one")
    kernel = unpack_kernel(packages[0], scratch / "unpacked")
    versions = package_versions(tree)
    versions[packages[0].name.split("_")[0]] = packages[0].name.split("_")[1]
    add_guest_files(recipe, tree, kernel)
    if recipe.lrms == "slurm" and not add_spank_plugin(recipe, tree, _lrms_version(recipe, versions)):
        progress("WARNING: no source of the SPANK plugin beside the recipes: this image has no gate")
    strip(tree)
    return kernel, versions


def _pack_root(recipe: Recipe, tree: Path, target: Path) -> None:
    epoch = str(recipe.source_date_epoch)
    options = ["-noappend", "-no-progress", "-no-xattrs", "-all-time", epoch, "-mkfs-time", epoch]
    run(["mksquashfs", tree, target, *options, *_COMPRESSION[recipe.compression]])
    target.chmod(0o644)


def _initrd(recipe: Recipe, tree: Path, kernel: Kernel) -> bytes:
    order = "".join(f"{module.name}\n" for module in kernel.early).encode()
    entries = [
        Entry("bin/busybox", 0o755, (tree / "bin/busybox").read_bytes()),
        Entry("init", 0o755, (recipe.guest_files / "initrd-init").read_bytes()),
        Entry("modules/order", 0o644, order),
        *(Entry(f"modules/{module.name}", 0o644, module.content) for module in kernel.early),
        *(Entry(name, 0o755, None) for name in _MOUNT_POINTS),
    ]
    return write_cpio(entries)


def _lrms_version(recipe: Recipe, versions: dict[str, str]) -> str:
    package = LRMS_PACKAGE.get(recipe.lrms)
    return "" if package is None else versions[f"{package}:{recipe.arch}"]


def _manifest(recipe: Recipe, versions: dict[str, str], kernel: Kernel, result: Path) -> Manifest:
    return Manifest(
        format=manifest.FORMAT,
        name=recipe.name,
        suite=recipe.suite,
        arch=recipe.arch,
        files={name: manifest.describe_file(result / name) for name in manifest.FILES},
        packages=versions,
        kernel_release=kernel.release,
        lrms=recipe.lrms,
        lrms_version=_lrms_version(recipe, versions),
        tags=tuple(sorted(recipe.tags)),
        source_date_epoch=recipe.source_date_epoch,
    )


def _publish(result: Path, final: Path, made: Manifest) -> Image:
    result.chmod(0o755)
    for path in result.iterdir():
        path.chmod(0o444)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if _is_there(final, made):
        shutil.rmtree(result)
        return Image(final, made)
    damaged = result.with_name(f".damaged-{final.name}")  # out of the way until all is done
    if os.path.lexists(final):
        final.rename(damaged)
    result.rename(final)
    if damaged.is_dir() and not damaged.is_symlink():
        shutil.rmtree(damaged)
    else:
        damaged.unlink(missing_ok=True)
    manifest.verify(manifest.load(final))
    return Image(final, made)


def _is_there(final: Path, made: Manifest) -> bool:
    """True if this very image is there and whole."""
    try:
        image = manifest.load(final)
        manifest.verify(image)
    except ImageError:
        return False
    return image.manifest == made
