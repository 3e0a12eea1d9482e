"""A libvirtd of the test's own: in namespaces, with its own directories and bridge, ended with the test.

Needs root. The machine's libvirt, if there is one, sees nothing of it; QEMUs outlive a killed libvirtd as they
do in production, and end with the namespace.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BRIDGE = "wnodtest0"
_QEMU_CONF = """security_driver = "none"
cgroup_controllers = []
stdio_handler = "file"
"""
# libvirt waits for a QEMU's pid to vanish: somebody must reap its orphans. An ignored SIGCHLD does, even for sleep.
_INIT = "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execvp('sleep', ['sleep', 'infinity'])"
# Dies with the test process, even a killed one, and takes all of the namespace along.
_UNSHARE = (
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--mount",
    "--net",
    "--uts",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
)
_LIBVIRTD_CONF = """auth_unix_rw = "none"
unix_sock_group = "root"
"""


class ScratchLibvirt:
    """One namespace with one libvirtd, which may be killed, frozen and started again."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="wt-", dir="/tmp"))
        self.root.chmod(0o711)
        self.uri = f"qemu+unix:///system?socket={self.root}/run/libvirt/libvirt-sock"
        for name in ("run", "lib", "cache", "log", "etc"):
            (self.root / name).mkdir()
        shutil.copytree("/etc/libvirt/nwfilter", self.root / "etc" / "nwfilter")
        (self.root / "etc" / "qemu.conf").write_text(_QEMU_CONF)
        (self.root / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF)
        self._unshare = subprocess.Popen([*_UNSHARE, sys.executable, "-c", _INIT], stdout=subprocess.DEVNULL)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._wait(lambda: _children(self._unshare.pid))
        self._init = _children(self._unshare.pid)[0]
        self._wait(lambda: b"sleep" in Path(f"/proc/{self._init}/cmdline").read_bytes())
        self._mount()
        self.inside(["ip", "link", "set", "lo", "up"])
        self.inside(["ip", "link", "add", BRIDGE, "type", "bridge"])
        self.inside(["ip", "link", "set", BRIDGE, "up"])

    def inside(self, argv: Sequence[str]) -> str:
        """Run a command in the namespaces; its output."""
        return subprocess.run([*self._enter(), *argv], check=True, capture_output=True, text=True).stdout

    def start(self) -> None:
        """Start libvirtd and return once its socket is there."""
        log = (self.root / "log" / "daemon.log").open("ab")
        self._daemon = subprocess.Popen([*self._enter(), "libvirtd"], stdout=log, stderr=log)
        log.close()
        socket = self.root / "run" / "libvirt" / "libvirt-sock"
        self._wait(socket.exists)

    def signal(self, number: int) -> None:
        """Send libvirtd a signal."""
        assert self._daemon is not None
        os.kill(_children(self._daemon.pid)[0], number)
        if number == signal.SIGCONT:
            self._daemon.send_signal(number)  # nsenter stops itself when what it runs is stopped

    def kill(self) -> None:
        """End libvirtd as a crash does; its QEMUs go on."""
        assert self._daemon is not None
        self.signal(signal.SIGKILL)
        self._daemon.wait()
        self._daemon = None
        (self.root / "run" / "libvirt" / "libvirt-sock").unlink(missing_ok=True)

    def close(self) -> None:
        """End all of it."""
        os.kill(self._init, signal.SIGKILL)
        self._unshare.wait()
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._init}", "--mount", "--net", "--uts", "--pid"]

    def _mount(self) -> None:
        places = {"run": "/run", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt"}
        for name, place in {**places, "etc": "/etc/libvirt"}.items():
            self.inside(["mount", "--bind", str(self.root / name), place])
        # If QEMU's user may not open /dev/kvm, libvirt probes QEMU again at every single look-up (12 s per create).
        kvm = self.root / "kvm"
        self.inside(["mknod", "--mode=0666", str(kvm), "c", "10", "232"])
        if Path("/dev/kvm").exists():
            self.inside(["mount", "--bind", str(kvm), "/dev/kvm"])
        self.inside(["mount", "-t", "sysfs", "sysfs", "/sys"])  # the bridge is found through the namespace's own

    def _wait(self, ready: Callable[[], object], limit_s: float = 20) -> None:
        end = time.monotonic() + limit_s
        while not ready():
            if time.monotonic() > end:
                raise TimeoutError(f"not ready after {limit_s} s; see {self.root}/log")
            time.sleep(0.02)


class ScratchSession(ScratchLibvirt):
    """The same with the libvirtd of an unprivileged user (qemu:///session), who also runs the QEMUs."""

    USER = "nobody"

    def __init__(self) -> None:
        super().__init__()
        self.uri = f"qemu+unix:///session?socket={self.root}/user/libvirt/libvirt-sock"
        self.ids = (pwd.getpwnam(self.USER).pw_uid, pwd.getpwnam(self.USER).pw_gid)
        for name in ("home", "user", "log"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
            os.chown(self.root / name, *self.ids)

    def start(self) -> None:
        """Start the user's libvirtd and return once its socket is there."""
        uid, gid = self.ids
        environment = {
            "HOME": f"{self.root}/home",
            "XDG_RUNTIME_DIR": f"{self.root}/user",
            "PATH": os.defpath + ":/usr/sbin",
        }
        argv = [*self._enter(), "setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "libvirtd"]
        with (self.root / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)
        self._wait((self.root / "user" / "libvirt" / "libvirt-sock").exists)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
