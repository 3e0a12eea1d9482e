"""Old console logs go; those of VMs that are there stay, however silent they are."""

import os
from pathlib import Path
from typing import Any

import pytest

from hostmaster.edges.consoles import prune


def logs(directory: Path, **ages: float) -> None:
    for name, written_at in ages.items():
        path = directory / f"{name}.log"
        path.write_text("kernel")
        os.utime(path, (written_at, written_at))


def test_what_was_last_written_long_ago_goes_and_a_living_vms_stays(tmp_path: Path) -> None:
    logs(tmp_path, old=10.0, new=30.0, silent=10.0)
    prune(tmp_path, 20.0, {"silent"})
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["new", "silent"]


def test_one_that_libvirt_turns_over_meanwhile_is_no_reason_for_the_daemon_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs(tmp_path, gone=10.0, old=10.0)
    look = Path.stat

    def late(path: Path, **more: Any) -> os.stat_result:
        if path.stem == "gone":
            path.unlink(missing_ok=True)
        return look(path, **more)

    monkeypatch.setattr(Path, "stat", late)
    prune(tmp_path, 20.0, ())
    assert list(tmp_path.iterdir()) == []
