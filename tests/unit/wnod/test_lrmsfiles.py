"""The files that guests at standby are given: read anew when they change, and refused with a remedy."""

import os
from pathlib import Path

import pytest

from wnod.doctor.finding import Verdict
from wnod.doctor.images import check_guest_files
from wnod.lrmsfiles import MOST_BYTES, MOST_FILES, LrmsFiles, LrmsFilesRefused


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "slurm.conf").write_text("ClusterName=a\n")
    (tmp_path / "cgroup.conf").write_text("")
    (tmp_path / ".slurm.conf.swp").write_text("an editor's")
    return tmp_path


def test_without_a_directory_there_are_no_files() -> None:
    assert LrmsFiles(None).read() == {}


def test_files_are_read_again_only_when_one_was_changed(directory: Path) -> None:
    files = LrmsFiles(str(directory))
    first = files.read()
    assert list(first.items()) == [("cgroup.conf", b""), ("slurm.conf", b"ClusterName=a\n")]
    assert files.read() is first
    os.utime(directory / "slurm.conf", ns=(0, 0))
    (directory / "cgroup.conf").write_text("x")
    assert files.read() == {"cgroup.conf": b"x", "slurm.conf": b"ClusterName=a\n"}


def test_a_file_of_the_same_size_in_its_place_is_seen(directory: Path) -> None:
    files = LrmsFiles(str(directory))
    files.read()
    (directory / "new").write_text("ClusterName=b\n")
    (directory / "new").rename(directory / "slurm.conf")
    assert files.read()["slurm.conf"] == b"ClusterName=b\n"


def refusal(directory: Path) -> str:
    with pytest.raises(LrmsFilesRefused) as caught:
        LrmsFiles(str(directory)).read()
    (finding,) = check_guest_files(str(directory))
    assert finding.verdict is Verdict.BAD
    assert finding.remedy
    return str(caught.value)


def test_what_cannot_be_given_is_named_with_a_remedy(directory: Path) -> None:
    missing = refusal(directory / "no")
    assert missing.startswith(f"lrms.guest_files {directory}/no: ")
    assert "No such file" in missing
    (directory / "sub").mkdir()
    assert "'sub' is no such file" in refusal(directory)
    (directory / "sub").rmdir()
    (directory / "big").write_bytes(b"x" * MOST_BYTES)
    assert f"at most {MOST_FILES} of {MOST_BYTES}" in refusal(directory)
    (directory / "big").unlink()
    (directory / "slurm.conf").unlink()
    assert "no slurm.conf is there" in refusal(directory)


def test_a_directory_that_is_right_is_said_to_be_by_the_doctor(directory: Path) -> None:
    (finding,) = check_guest_files(str(directory))
    assert (finding.verdict, finding.text) == (Verdict.OK, f"{directory}: cgroup.conf, slurm.conf")
    assert list(check_guest_files(None)) == []
