"""The guest's small program for the clock and the generator: what it takes, and what it does with it."""

import base64
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from tests.unit.image.guest import GUEST


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bin") / "kernel-calls"
    argv = ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(made), str(GUEST / "kernel-calls.c")]
    subprocess.run(argv, check=True)
    return made


def run(program: Path, *words: str, text: str = "") -> int:
    return subprocess.run([program, *words], input=text.encode(), capture_output=True, check=False).returncode


@pytest.mark.parametrize("size", [32, 33, 34, 48, 64])
def test_a_seed_is_mixed_in_whole_and_a_file_is_no_generator(program: Path, tmp_path: Path, size: int) -> None:
    device = tmp_path / "random"
    device.touch()
    seed = os.urandom(size)
    assert run(program, "seed", str(device), text=base64.b64encode(seed).decode() + "\n") == 2
    assert device.read_bytes() == seed


@pytest.mark.parametrize("text", ["", "\n", "QQ==", "A" * 42, "!" * 44, "A" * 88, "A" * 500, "\0" * 60])
def test_what_is_no_seed_is_refused(program: Path, tmp_path: Path, text: str) -> None:
    device = tmp_path / "random"
    device.touch()
    assert run(program, "seed", str(device), text=text) == 1
    assert device.read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may tell the kernel's generator to start anew")
def test_the_kernels_generator_starts_anew(program: Path) -> None:
    assert run(program, "seed", text=base64.b64encode(os.urandom(32)).decode()) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_secret_is_in_its_file_whole_and_with_its_mode_from_the_beginning(program: Path, tmp_path: Path) -> None:
    secret, file = os.urandom(1024), tmp_path / "munge.key"
    for _ in range(2):
        assert run(program, "secret", "0400", "daemon", str(file), text=base64.b64encode(secret).decode() + "\n") == 0
    assert file.read_bytes() == secret
    assert (file.stat().st_mode & 0o7777, file.stat().st_uid) == (0o400, pwd.getpwnam("daemon").pw_uid)
    assert [path.name for path in tmp_path.iterdir()] == ["munge.key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_program_runs_as_the_user_and_in_his_group_only(program: Path) -> None:
    argv = ["/bin/sh", "-c", 'echo "$(id -u) $(id -G)" "$@"', "sh", "two words"]
    done = subprocess.run([program, "as", "daemon", *argv], capture_output=True, text=True, check=True)
    account = pwd.getpwnam("daemon")
    assert done.stdout == f"{account.pw_uid} {account.pw_gid} two words\n"
    assert run(program, "as", "nobody-at-all", "/bin/true") != 0


@pytest.mark.parametrize(
    ("owner", "text"), [("nobody-at-all", "QUJD"), ("root", ""), ("root", "!"), ("root", "A" * 20000)]
)
def test_what_is_no_secret_or_nobodys_makes_no_file(program: Path, tmp_path: Path, owner: str, text: str) -> None:
    assert run(program, "secret", "0400", owner, str(tmp_path / "key"), text=text) != 0
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("words", [(), ("clock",), ("clock", ""), ("clock", "x"), ("clock", "1.5x"), ("clock", "-1")])
def test_what_is_no_time_sets_no_clock(program: Path, words: tuple[str, ...]) -> None:
    assert run(program, *words) != 0
