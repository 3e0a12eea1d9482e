"""The smallest real sshd for the guest: Debian's dropbear, as files that are laid over the image."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.lab.layout import PROJECT
from tests.bench.guest import File

PACKAGES = ("dropbear-bin", "libtomcrypt1", "libtommath1")
"""What else it needs is in the image."""
KEPT = PROJECT / "build" / "bench" / "packages"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def check() -> None:
    """RuntimeError if this machine has no ssh client, before anything is started."""
    if missing := [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]:
        raise RuntimeError(
            f"kit_ssh needs {' and '.join(missing)}: apt-get install openssh-client, or leave it out with --only"
        )


def files() -> dict[str, File]:
    """dropbear, its libraries, and a host key made for this run."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        for package in _packages():
            subprocess.run(["dpkg-deb", "-x", str(package), scratch], check=True)
        found = {"usr/local/sbin/dropbear": File((tree / "usr/sbin/dropbear").read_bytes(), 0o755)}
        for library in (tree / LIBRARIES).glob("libtom*.so.?"):
            found[f"{LIBRARIES}/{library.name}"] = File(library.read_bytes(), 0o755)
        found["etc/dropbear/host_key"] = File(_host_key(tree), 0o600)
    return found


def _host_key(tree: Path) -> bytes:
    key = tree / "host_key"
    subprocess.run(
        [str(tree / "usr/bin/dropbearkey"), "-t", "ed25519", "-f", str(key)],
        env={**os.environ, "LD_LIBRARY_PATH": str(tree / LIBRARIES)}, check=True, capture_output=True,
    )  # fmt: skip
    return key.read_bytes()


def _packages() -> list[Path]:
    KEPT.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(KEPT.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(
            ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *missing], cwd=KEPT, check=True
        )  # fmt: skip
    return [next(iter(KEPT.glob(f"{name}_*.deb"))) for name in PACKAGES]


def user_key(home: Path, uid: int) -> None:
    """A key pair for the user, who may log in with it wherever his home is mounted."""
    directory = home / ".ssh"
    directory.mkdir(exist_ok=True)
    key = directory / "bench"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (directory / "authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())
    for path in (directory, *directory.iterdir()):
        os.chown(path, uid, uid)
    key.chmod(0o600)
