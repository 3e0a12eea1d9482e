"""A libvirtd of the test's own: in namespaces, with its own directories and bridge, ended with the test.

Needs root. The machine's libvirt, if there is one, sees nothing of it; QEMUs outlive a killed libvirtd as they
do in production, and are ended by pid at the end.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

BRIDGE = "wnodtest0"
_QEMU_CONF = """security_driver = "none"
cgroup_controllers = []
stdio_handler = "file"
"""
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
        self._holder = subprocess.Popen(["unshare", "--mount", "--net", "--uts", "sleep", "infinity"])
        self._daemon: subprocess.Popen[bytes] | None = None
        self._wait(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
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
        """Send libvirtd a signal (nsenter without fork: the child is libvirtd itself)."""
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def kill(self) -> None:
        """End libvirtd as a crash does; its QEMUs go on."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGKILL)
        self._daemon.wait()
        self._daemon = None
        (self.root / "run" / "libvirt" / "libvirt-sock").unlink(missing_ok=True)

    def qemus(self) -> list[int]:
        """The pids of this libvirtd's QEMUs."""
        files = (self.root / "run" / "libvirt" / "qemu").glob("*.pid")
        return [pid for pid in (int(f.read_text()) for f in files) if Path(f"/proc/{pid}").exists()]

    def close(self) -> None:
        """End all of it."""
        for pid in self.qemus():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._daemon is not None:
            self.kill()
        self._holder.kill()
        self._holder.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "--uts"]

    def _mount(self) -> None:
        places = {"run": "/run", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt"}
        for name, place in {**places, "etc": "/etc/libvirt"}.items():
            self.inside(["mount", "--bind", str(self.root / name), place])
        self.inside(["mount", "-t", "sysfs", "sysfs", "/sys"])  # the bridge is found through the namespace's own

    def _wait(self, ready: Callable[[], object], limit_s: float = 20) -> None:
        end = time.monotonic() + limit_s
        while not ready():
            if time.monotonic() > end:
                raise TimeoutError(f"not ready after {limit_s} s; see {self.root}/log")
            time.sleep(0.02)
