"""The guest's scripts, run by a chosen shell against a pseudo-terminal in place of the virtio-serial port."""

import functools
import os
import pty
import select
import shutil
import subprocess
import tempfile
import termios
import time
import tty
from pathlib import Path
from types import TracebackType

GUEST = Path(__file__).parents[3] / "deploy/images/guest"
SHELLS = {"busybox": ["busybox", "sh"]}
PATIENCE = 10.0
NAME = "vm7"


def shells() -> list[str]:
    """What the image puts into the scripts' first lines: `read -t` and `set -C` save them processes."""
    return list(SHELLS)


@functools.cache
def _kernel_calls() -> tuple[Path, "tempfile.TemporaryDirectory[str]"]:
    """The guest's small program, made once, with this machine's busybox as its shell; and what keeps it there."""
    place = tempfile.TemporaryDirectory()
    made = Path(place.name) / "kernel-calls"
    shell = f'-DSHELL="{shutil.which("busybox")}"'
    subprocess.run(["gcc", "-static", shell, "-o", made, GUEST / "kernel-calls.c"], check=True)
    return made, place


class Guest:
    """An agent at work. `line` and `send` are the hostmaster's end of the channel."""

    def __init__(self, directory: Path, shell: str) -> None:
        self.shell = SHELLS[shell]
        self.run = directory / "run"
        self.etc = directory / "etc"
        self.etc.mkdir()
        self.random = directory / "random"
        """In the place of the kernel's generator."""
        self.random.touch()
        (self.etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nmunge:x:100:101::/:/bin/false\n")
        (self.etc / "group").write_text("root:x:0:\nmunge:x:101:\n")
        self.mounts = directory / "mounts"
        """In the place of /proc/mounts."""
        self.mounts.touch()
        self.mounting = directory / "mounting"
        """Every mount and umount, with its words."""
        (directory / "cmdline").write_text(f"console=ttyS0 wnod.name={NAME} quiet\n")
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.scripts = directory / "lib"
        self._copy_scripts()
        self._master, slave = pty.openpty()
        tty.setraw(slave, termios.TCSANOW)
        self._buffer = b""
        self._heard = b""
        environment = {
            "PATH": os.environ["PATH"],
            "WNOD_LIB": str(self.scripts),
            "WNOD_RUN": str(self.run),
            "WNOD_ETC": str(self.etc),
            "WNOD_CMDLINE": str(directory / "cmdline"),
            "WNOD_PORT": os.ttyname(slave),
            "WNOD_MUNGE_USER": str(os.getuid()),
            "WNOD_RANDOM": str(self.random),
            "WNOD_DATE": "true",
            "WNOD_MOUNTS": str(self.mounts),
            **{name.upper(): str(self._stand_in(directory, name)) for name in ("mount", "umount")},
            "WNOD_TEST": "1",
        }
        self.console = (directory / "console").open("w+")
        self._slave = slave
        self._pid = directory / "pid"
        start = f"while :; do {' '.join(self.shell)} {self.scripts}/agent & echo $! >{self._pid}; wait; done"
        self._agent = subprocess.Popen(
            ["/bin/sh", "-c", start],  # as the guest's init does, which starts it again
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.console,
            stderr=self.console,
            start_new_session=True,
        )

    def _stand_in(self, directory: Path, name: str) -> Path:
        """A mount or umount that mounts nothing and writes down what it was told."""
        program = directory / name
        program.write_text(f"""#!/bin/sh
echo {name} "$@" >>{self.mounting}
for target; do :; done
[ ! -e {self.mounts}.fail ] || exit 32
if [ {name} = mount ]; then echo "x $target nfs4" >>{self.mounts}; else : >{self.mounts}; fi
""")
        program.chmod(0o755)
        return program

    def _copy_scripts(self) -> None:
        """Starter and epilog have the gate's place fixed in them, for good reason: the copies get another."""
        shutil.copytree(GUEST, self.scripts)
        for name in ("starter", "prolog", "epilog"):
            text = (GUEST / name).read_text()
            assert "RUN=/run/wnod\n" in text
            text = (
                text.replace("RUN=/run/wnod\n", f"RUN={self.run}\n")
                .replace("=/usr/libexec/wnod/kernel-calls\n", f"={_kernel_calls()[0]}\n")
                .replace("PATIENCE=20\n", "PATIENCE=2\n")
                .replace("PATIENCE=8\n", "PATIENCE=2\n")
            )
            (self.scripts / name).write_text(text)

    def __enter__(self) -> "Guest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._agent.pid, 9)
        self._agent.wait()
        os.close(self._master)
        os.close(self._slave)
        self.console.close()

    def kill_agent(self) -> None:
        """It dies; what it has started in the background does not, and it is started again."""
        os.kill(int(self._pid.read_text()), 9)

    def send(self, *lines: str) -> None:
        """Say these lines as the hostmaster."""
        os.write(self._master, "".join(f"{line}\n" for line in lines).encode())

    @staticmethod
    def time(ahead: float = 0.0) -> str:
        """The line that tells the time, or one that is wrong by so many seconds. The test's clock is not set by it."""
        return f"time {time.time() + ahead:.3f}"

    def line(self, *words: str, patience: float = PATIENCE) -> str:
        """The next line from the guest that starts with one of these words; others are skipped."""
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            while b"\n" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\n")
                if line.split(b" ")[0].decode() in words:
                    return line.decode()
            if select.select([self._master], [], [], left)[0]:
                heard = os.read(self._master, 4096)
                self._buffer += heard
                self._heard += heard
        raise AssertionError(
            f"no line {words} from the guest in {patience} s; it said {self._heard!r}; console:\n{self.said()}"
        )

    def said(self) -> str:
        """What the agent has written to the console."""
        return Path(self.console.name).read_text()

    def settle(self) -> None:
        """Return when the agent has dealt with everything that was sent before."""
        self.send("host 127.0.0.9 settled", "welcome 1 1", "go")
        self.line("ready")
        self.wait_mounted()

    def wait_mounted(self) -> None:
        """Return when the agent says that all is mounted."""
        deadline = time.monotonic() + PATIENCE
        while not (self.run / "mounted").exists():
            assert time.monotonic() < deadline, f"not mounted after {PATIENCE} s; console:\n{self.said()}"
            select.select([], [], [], 0.01)

    def start(self, *words: str, extra: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """Run the starter with these words, as Slurm's plugin would."""
        return subprocess.Popen(
            [_kernel_calls()[0], "gate", str(self.scripts / "starter"), *words],
            env={"PATH": os.environ["PATH"], **(extra or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def prolog(self) -> int:
        """Run the prolog as slurmd would; its exit status."""
        argv = [*self.shell, str(self.scripts / "prolog")]
        return subprocess.run(argv, env={}, timeout=PATIENCE, check=False).returncode

    def epilog(self, **variables: str) -> int:
        """Run the epilog as slurmd would; its exit status."""
        argv = [*self.shell, str(self.scripts / "epilog")]
        return subprocess.run(
            argv, env={"PATH": os.environ["PATH"], **variables}, timeout=PATIENCE, check=False
        ).returncode
