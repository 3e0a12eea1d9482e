"""A real guest in QEMU, with this test as the hostmaster's end of its channel."""

import json
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.unit.image.guest import GUEST
from wnod.image.manifest import Image

NAME = "vm1"
CMDLINE = f"console=ttyS0 quiet cryptomgr.notests ipv6.disable=1 wnod.name={NAME}"
PATIENCE = 60.0
ACCOUNT = "account alice%3Ax%3A1001%3A1001%3AAlice%3A%2Fhome%2Falice%3A%2Fbin%2Fsh"


def make_disk(path: Path, replaced: dict[str, str]) -> None:
    """An ext4 for vdb, on whose upper layer these files of /usr/libexec/wnod are others than in the image."""
    content = path.with_suffix(".content")
    libexec = content / "upper/usr/libexec/wnod"
    libexec.mkdir(parents=True)
    for name, text in replaced.items():
        (libexec / name).write_text(text)
    with path.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(content), str(path)], check=True)


class RealGuest:
    """A guest that runs until the end of the `with` block."""

    def __init__(
        self,
        image: Image,
        directory: Path,
        replaced: dict[str, str] | None = None,
        more: Sequence[str] = (),
        save: bool = False,
        disk: Path | None = None,
        memory: Path | None = None,
    ) -> None:
        """`save`: it will be paused or saved. `disk` and `memory`: go on as a copy of one that was saved."""
        self._monitor_path = directory / "monitor"
        self._monitor: socket.socket | None = None
        self._socket_path = directory / "channel"
        self.console = directory / "console"
        self._listen()
        if disk is None:
            make_disk(directory / "vdb.img", replaced or {})
        else:
            shutil.copyfile(disk, directory / "vdb.img")
        if save:
            more = [*more, "-qmp", f"unix:{self._monitor_path},server=on,wait=off"]
        if memory is not None:
            more = [*more, "-incoming", f"exec:cat {memory}"]
        self._buffer = b""
        self._channel: socket.socket | None = None
        self._qemu = subprocess.Popen([*self._argv(image, directory), *more])

    def _listen(self) -> None:
        self._socket_path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._socket_path))
        self._listener.listen(1)
        self._listener.settimeout(PATIENCE)

    def _argv(self, image: Image, directory: Path) -> list[str]:
        disks = [(image.root, "raw,readonly=on"), (directory / "vdb.img", "raw,cache=unsafe")]
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35,usb=off,hpet=off", "-cpu", "max", "-m", "512"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{self.console}"]
        argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", CMDLINE]
        for number, (path, options) in enumerate(disks):
            argv += ["-drive", f"id=d{number},if=none,file={path},format={options}"]
            argv += ["-device", f"virtio-blk-pci,drive=d{number}"]
        argv += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=c,path={self._socket_path},reconnect=1"]
        return [*argv, "-device", "virtserialport,chardev=c,name=org.wnod.guest.0"]

    def __enter__(self) -> "RealGuest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._monitor is not None:
            self._answers.close()
            self._monitor.close()
        self._qemu.kill()
        self._qemu.wait()
        self.hang_up()
        self._listener.close()

    def hang_up(self) -> None:
        """Close the channel as a hostmaster that dies does; QEMU connects again to the next `line`."""
        if self._channel is not None:
            self._channel.close()
        self._channel, self._buffer = None, b""

    def restart_hostmaster(self) -> None:
        """Die, and listen again on the same path."""
        self._listener.close()
        self.hang_up()
        self._listen()

    def pause(self) -> None:
        """Stop its CPUs."""
        self._command("stop")

    def unpause(self) -> None:
        """Let its CPUs run."""
        self._command("cont")

    def save(self, path: Path) -> None:
        """Write its memory; the guest stops, and its copies run."""
        self._command("migrate", uri=f"exec:cat > {path}")
        deadline = time.monotonic() + PATIENCE
        while (status := self._command("query-migrate").get("status")) != "completed":
            assert status != "failed", "QEMU could not save the guest"
            assert time.monotonic() < deadline, f"not saved after {PATIENCE} s"
            select.select([], [], [], 0.05)

    def _command(self, name: str, **arguments: str) -> dict[str, Any]:
        if self._monitor is None:
            self._monitor = socket.socket(socket.AF_UNIX)
            self._monitor.settimeout(PATIENCE)
            self._monitor.connect(str(self._monitor_path))
            self._answers = self._monitor.makefile()
            self._answers.readline()  # QEMU's greeting
            self._command("qmp_capabilities")
        self._monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._answers.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return dict(answer["return"])

    def send(self, *lines: str) -> None:
        """Say these lines as the hostmaster."""
        self._connected().sendall("".join(f"{line}\n" for line in lines).encode())

    def line(self, word: str) -> list[str]:
        """The words of the next line from the guest that starts with this word; others are skipped."""
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            while b"\n" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\n")
                if line.decode().split(" ")[0] == word:
                    return line.decode().split(" ")
            channel = self._connected()
            if select.select([channel], [], [], left)[0]:
                self._buffer += channel.recv(65536)
        raise AssertionError(f"no line {word!r} in {PATIENCE} s; console:\n{self.said()}")

    def said(self) -> str:
        """What is on the guest's console."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def wait_for(self, text: str) -> str:
        """Return the console as soon as it has this text."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.said():
            assert time.monotonic() < deadline, f"no {text!r} on the console:\n{self.said()}"
            assert self._qemu.poll() is None, f"QEMU ended; console:\n{self.said()}"
            select.select([], [], [], 0.05)
        return self.said()

    def _connected(self) -> socket.socket:
        if self._channel is None:
            self._channel = self._listener.accept()[0]
        return self._channel


def probe(image: Image) -> tuple[int, str]:
    """Boot kernel and initrd as the accelerator's probe does, with no disk: exit status, console."""
    argv = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-M",
        "q35",
        "-cpu",
        "max",
        "-m",
        "256",
        "-nodefaults",
        "-display",
        "none",
    ]
    argv += ["-serial", "stdio", "-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    argv += ["-append", "console=ttyS0 quiet cryptomgr.notests wnod.probe=1"]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    return done.returncode, done.stdout


def guest_script(name: str) -> str:
    """The text of one of the guest's scripts."""
    return (GUEST / name).read_text()
