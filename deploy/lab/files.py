"""Fills a node's private directories: its own /etc, keys, accounts, and the places daemons write to."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

from deploy.lab.layout import NETWORK, SERVICES, USERS, Account, Layout, Node
from deploy.lab.slurmconf import FRAGMENT

LIBEXEC = "/usr/libexec"
#: Until the bait's own starter is installed: gives every job back, so that nothing ever runs on a bait.
STARTER_PLACEHOLDER = (
    "#!/bin/sh\necho 'wnod: no starter is installed here; the job goes back to the queue' >&2\nexit 199\n"
)

LIBVIRTD = """auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
"""
QEMU = """security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "logd"
"""
GANESHA = """NFS_CORE_PARAM {{ Bind_addr = {address}; Protocols = 4; NFS_Port = 2049;
    Enable_NLM = false; Enable_RQUOTA = false; }}
NFSv4 {{ Graceless = true; Only_Numeric_Owners = true; Minor_Versions = 1, 2; RecoveryBackend = fs; }}
EXPORT {{ Export_Id = 1; Path = /home; Pseudo = /home; Protocols = 4; Transports = TCP; SecType = sys;
    Squash = Root_Squash;
    Access_Type = None; FSAL {{ Name = VFS; }} CLIENT {{ Clients = {network}; Access_Type = RW; }} }}
"""


def prepare_shared(layout: Layout) -> None:
    """What all nodes share: homes, images, the munge key of this lab, wnod's own programs."""
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.root.chmod(0o755)
    layout.images.mkdir(exist_ok=True)
    for user in USERS:
        home = layout.home / user.name
        home.mkdir(parents=True, exist_ok=True)
        os.chown(home, user.uid, user.uid)
        home.chmod(0o755)
    key = layout.root / "munge.key"
    if not key.exists():
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
    libexec = layout.root / "libexec"
    libexec.mkdir(exist_ok=True)
    subprocess.run([str(FRAGMENT / "build.sh"), str(libexec / "spank_wnod.so")], check=True)
    for script in ("prolog", "epilog"):
        install(FRAGMENT / script, libexec / script)
    if not (libexec / "starter").exists():
        (libexec / "starter").write_text(STARTER_PLACEHOLDER)
        (libexec / "starter").chmod(0o755)


def install(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    target.chmod(0o755)


def forget(layout: Layout, node: Node) -> None:
    """Removes what an earlier lab's daemons remembered (jobs, drained nodes, domains); its logs stay as log.old.
    The cache stays too: libvirt's first look at an emulator takes seconds."""
    for what in ("spool", "lib", "log.old"):
        shutil.rmtree(layout.private(node.name, what), ignore_errors=True)
    if layout.private(node.name, "log").exists():
        layout.private(node.name, "log").rename(layout.private(node.name, "log.old"))


def prepare(layout: Layout, node: Node) -> None:
    """Makes the node's directories; what its daemons keep there stays, as on a machine that reboots."""
    etc = layout.private(node.name, "etc")
    if etc.exists():
        shutil.rmtree(etc)
    etc.mkdir(parents=True)
    # -x: nothing mounted below /etc; a copy, not an overlay, because overlays do not stack everywhere.
    subprocess.run(["cp", "-ax", "/etc/.", str(etc)], check=True)
    _accounts(etc)
    _names(layout, node, etc)
    _munge_key(layout, etc)
    _daemon_files(layout, node, etc)
    for what, names in DIRECTORIES.items():
        for name, (owner, mode) in names.items():
            directory(layout.private(node.name, what) / name, owner, mode)


DIRECTORIES: dict[str, dict[str, tuple[str, int]]] = {
    "log": {".": ("root", 0o755), "munge": ("munge", 0o700), "slurm": ("slurm", 0o755), "libvirt/qemu": ("root", 0o755),
            "wnod": ("root", 0o755), "ganesha": ("root", 0o755)},
    "lib": {"munge": ("munge", 0o711), "libvirt/qemu": ("libvirt-qemu", 0o751), "libvirt/images": ("root", 0o711),
            "libvirt/boot": ("root", 0o711), "nfs/ganesha": ("root", 0o755), "wnod": ("root", 0o755)},
    "cache": {"libvirt/qemu": ("root", 0o711), "ldconfig": ("root", 0o700)},
    "spool": {"slurmctld": ("slurm", 0o700), "slurmd": ("root", 0o755)},
}  # fmt: skip


def kvm_device(layout: Layout, node: Node) -> Path | None:
    """The host's own /dev/kvm, open to the group kvm as udev makes it on a real host; None if the machine has none.

    With a /dev/kvm that QEMU's user may not open, libvirt takes its cached capabilities for stale and probes the
    emulator anew at every single create (12 s each).
    """
    machines = Path("/dev/kvm")
    if node.is_head or not machines.exists():
        return None
    own = layout.root / node.name / "kvm"
    own.unlink(missing_ok=True)
    os.mknod(own, stat.S_IFCHR | 0o660, machines.stat().st_rdev)
    own.chmod(0o660)
    os.chown(own, 0, pwd.getpwnam("libvirt-qemu").pw_gid)
    return own


def directory(path: Path, owner: str, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    account = pwd.getpwnam(owner)
    os.chown(path, account.pw_uid, account.pw_gid)
    path.chmod(mode)


def _accounts(etc: Path) -> None:
    accounts: tuple[Account, ...] = (*USERS, *SERVICES)
    groups = (etc / "group").read_text().splitlines()
    for name in ("libvirt", "kvm"):
        if not any(line.startswith(name + ":") for line in groups):
            groups.append(f"{name}:x:{7750 + len(groups) % 40}:")
    groups = [_with_members(line, [a.name for a in accounts if line.split(":")[0] in a.groups]) for line in groups]
    (etc / "group").write_text("\n".join([*groups, *(a.group() for a in accounts)]) + "\n")
    with (etc / "passwd").open("a") as passwd:
        passwd.writelines(a.passwd() + "\n" for a in accounts)
    # Users may `su` to themselves (slurmd does, for --get-user-env): no password, no expiry.
    with (etc / "shadow").open("a") as shadow:
        shadow.writelines(f"{a.name}:*:19000:0:99999:7:::\n" for a in accounts)


def _with_members(line: str, names: list[str]) -> str:
    if not names:
        return line
    head, _, members = line.rpartition(":")
    return head + ":" + ",".join([*filter(None, members.split(",")), *names])


def _names(layout: Layout, node: Node, etc: Path) -> None:
    (etc / "hostname").write_text(node.name + "\n")
    lines = ["127.0.0.1 localhost", *(f"{other.address} {other.name}" for other in layout.nodes)]
    (etc / "hosts").write_text("\n".join(lines) + "\n")
    (etc / "resolv.conf").unlink(missing_ok=True)
    (etc / "resolv.conf").write_text("")


def _munge_key(layout: Layout, etc: Path) -> None:
    directory(etc / "munge", "munge", 0o700)
    key = etc / "munge" / "munge.key"
    key.unlink(missing_ok=True)
    shutil.copy(layout.root / "munge.key", key)
    account = pwd.getpwnam("munge")
    os.chown(key, account.pw_uid, account.pw_gid)
    key.chmod(0o600)


def _daemon_files(layout: Layout, node: Node, etc: Path) -> None:
    for name, text in {
        "libvirt/libvirtd.conf": LIBVIRTD,
        "libvirt/qemu.conf": QEMU,
        "ganesha/ganesha.conf": GANESHA.format(address=node.address, network=NETWORK),
    }.items():
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text(text)
    (etc / "wnod").mkdir(exist_ok=True)
    # The machine's own networks and domains are none of ours.
    for name in ("libvirt/qemu", "libvirt/storage"):
        shutil.rmtree(etc / name, ignore_errors=True)
        (etc / name).mkdir(parents=True)
