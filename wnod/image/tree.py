"""The root tree of an image: installed from packages, then stripped of what must differ or must not be in a guest."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from wnod.image.errors import BuildError
from wnod.image.kernel import Kernel
from wnod.image.recipe import Recipe
from wnod.image.run import need, run

LRMS_PACKAGES = {"slurm": ("slurmd", "slurm-client", "munge"), "none": ()}
LRMS_PACKAGE = {"slurm": "slurmd"}
_ALWAYS = ("busybox-static",)
_LIBEXEC = "usr/libexec/wnod"
_SPANK = f"{_LIBEXEC}/spank_wnod.so"
_KERNEL_CALLS = "kernel-calls"
_SHEBANG = b"#!/bin/sh\n"
# Static, because its own programs need no exec.
_GUEST_SHEBANG = b"#!/usr/libexec/wnod/busybox sh\n"
# The same shell, without the user's environment: that is kept for his program as it is, and his LD_PRELOAD cannot act
# before the gate.
_STARTER = "starter"
_STARTER_SHEBANG = b"#!/usr/libexec/wnod/kernel-calls gate\n"
_PROGRAMS = ("init", "agent", _STARTER, "prolog", "epilog")
_LIBRARIES = ("words.sh", "configure.sh", "gate.sh", "lrms-slurm.sh")
# Secrets, identities and traces of the build: they would be shared by all guests, or differ from build to build.
_REMOVED = (
    "etc/munge/munge.key",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/ssh",
    "var/cache/ldconfig/aux-cache",
    "var/lib/systemd/random-seed",
    "var/lib/dbus/machine-id",
)
_EMPTIED_DIRECTORIES = ("var/log", "var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "tmp", "run", "boot")
_KEPT_DIRECTORIES = ("var/log/munge", "var/log/slurm", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial")


# Pages that nobody reads in a guest; the licences stay.
_LEFT_OUT = (
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)


def install_packages(recipe: Recipe, tree: Path, kernel_dir: Path, cache: Path | None, hooks: Path) -> None:
    """Make the tree with mmdebstrap and download the kernel's package to kernel_dir. Needs root; takes 10 to 30 s."""
    if os.geteuid() != 0:
        raise BuildError("building an image installs packages into a tree with their owners: run it as root")
    need(["mmdebstrap", "mksquashfs", "dpkg-deb", "dpkg-query"])
    environment = {
        "SOURCE_DATE_EPOCH": str(recipe.source_date_epoch),
        "WNOD_KERNEL": recipe.kernel,
        "WNOD_KERNEL_DIR": str(kernel_dir.absolute()),
    }
    cache_options: list[str] = []
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        environment["WNOD_PACKAGE_CACHE"] = str(cache.absolute())
        hook_options = (f"--setup-hook={hooks / 'cache-in'}", f"--customize-hook={hooks / 'cache-out'}")
        cache_options = ["--skip=essential/unlink", *hook_options]
    fetch = f"--customize-hook={hooks / 'fetch-kernel'}"
    run([*_mmdebstrap(recipe), *cache_options, fetch, recipe.suite, tree], environment)


def _mmdebstrap(recipe: Recipe) -> list[str]:
    wanted = sorted({*recipe.packages, *LRMS_PACKAGES[recipe.lrms], *_ALWAYS})
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--architectures={recipe.arch}",
        f"--include={','.join(wanted)}",
        '--aptopt=APT::Install-Recommends "false"',
        *_LEFT_OUT,
    ]


def package_versions(tree: Path) -> dict[str, str]:
    """Every installed package with its version."""
    listing = run(["dpkg-query", f"--root={tree}", "-W", "-f=${Package}:${Architecture} ${Version}\\n"])
    pairs = (line.partition(" ") for line in listing.splitlines())
    return {name: version for name, _, version in sorted(pairs) if name}


def add_guest_files(recipe: Recipe, tree: Path, kernel: Kernel) -> None:
    """Put the guest's scripts, its static shell and the kernel modules of the second stage in place."""
    libexec = tree / _LIBEXEC
    (libexec / "modules").mkdir(parents=True)
    shutil.copyfile(tree / "bin/busybox", libexec / "busybox")
    (libexec / "busybox").chmod(0o755)
    for name in (*_PROGRAMS, *_LIBRARIES):
        target = libexec / name
        target.write_bytes(_for_guest(name, (recipe.guest_files / name).read_bytes()))
        target.chmod(0o755 if name in _PROGRAMS else 0o644)
    need(["gcc"])
    calls = libexec / _KERNEL_CALLS
    run(["gcc", "-static", "-O2", "-s", "-o", calls, recipe.guest_files / f"{_KERNEL_CALLS}.c"])
    calls.chmod(0o755)
    for name, modules in kernel.late.items():
        for module in modules:
            (libexec / "modules" / module.name).write_bytes(module.content)
        (libexec / f"modules/{name}.order").write_text("".join(f"{module.name}\n" for module in modules))


def add_spank_plugin(recipe: Recipe, tree: Path, version: str) -> bool:
    """Compile the gate's plugin for Slurm into the tree; False when this tree has no source of it.

    Raises BuildError when this machine's Slurm headers are of another version than the image's slurmd:
    Slurm refuses such a plugin and with it every job.
    """
    source = recipe.directory.parent / "lrms/slurm"
    if not (source / "build.sh").exists():
        return False
    need(["gcc"])
    headers = run(["dpkg-query", "-W", "-f=${Version}", "libslurm-dev"])
    if headers.split("-")[0] != version.split("-", maxsplit=1)[0]:
        raise BuildError(
            f"lrms: libslurm-dev here is {headers}, slurmd in the image is {version}; "
            f"build on a machine of the release {recipe.suite}"
        )
    target = tree / _SPANK
    target.parent.mkdir(parents=True, exist_ok=True)
    run([source / "build.sh", target])
    target.chmod(0o755)
    return True


def strip(tree: Path) -> None:
    """Remove secrets, identities, logs and every set-uid bit; lock root. Nobody can become root in a guest."""
    for name in _REMOVED:
        _remove(tree / name)
    for name in _EMPTIED_DIRECTORIES:
        _empty(tree, tree / name)
    (tree / "etc/machine-id").write_bytes(b"")
    (tree / "etc/resolv.conf").write_bytes(b"")
    for backup in (
        *(tree / "etc").glob("*-"),
        *(tree / "var/lib/dpkg").glob("*-old"),
        *(tree / "var/backups").glob("*"),
    ):
        _remove(backup)
    _lock_root(tree / "etc/shadow")
    for path in _set_id_files(tree):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o1777)


def _for_guest(name: str, script: bytes) -> bytes:
    first = _STARTER_SHEBANG if name == _STARTER else _GUEST_SHEBANG
    return first + script.removeprefix(_SHEBANG) if script.startswith(_SHEBANG) else script


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _empty(tree: Path, directory: Path) -> None:
    kept = {tree / name for name in _KEPT_DIRECTORIES}
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path == keep or path in keep.parents for keep in kept):
                path.rmdir()
        else:
            path.unlink()


def _lock_root(shadow: Path) -> None:
    lines = [line.split(":") for line in shadow.read_text().splitlines()]
    locked = [[fields[0], "*", *fields[2:]] for fields in lines]
    shadow.write_text("".join(":".join(fields) + "\n" for fields in locked))


def _set_id_files(tree: Path) -> Iterator[Path]:
    for top, _, names in os.walk(tree):
        for name in names:
            path = Path(top, name)
            if not path.is_symlink() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
                yield path
