"""`wnod vm pause|resume` against a real socket: what is said, who may, and how it ends."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.wnod.test_commands import Result, write_configs
from wnod.ask import ActRefused, DaemonUnreachable, act, ask
from wnod.cli import main
from wnod.commands import vm as vm_command
from wnod.commands.vm import duration
from wnod.status import user_name

UNTIL = 2_000_000_000.0


def a_row(name: str, generation: int, domain: str, **more: Any) -> dict[str, Any]:
    return {"vm": name, "generation": generation, "phase": "started", "run": f"site/{generation}.1", "domain": domain,
            "paused": None, "text": "", **more}  # fmt: skip


PAUSED = {"since": 1.0, "until": UNTIL, "by": "root", "seen": True}
VMS = [
    a_row("vm1", 1, "paused", paused=PAUSED, text="paused by root"),
    a_row("vm2", 2, "running"),
    a_row("vm3", 3, "running", paused={**PAUSED, "seen": False}, text="to be paused by root"),
]


def said(row: dict[str, Any], until: float | None) -> list[Any]:
    return [200, {"vm": row["vm"], "generation": row["generation"], "run": row["run"], "until": until}]


ACTS = {
    "pause": {"vm1": said(VMS[0], UNTIL), "12": said(VMS[0], UNTIL), "vm3": said(VMS[2], UNTIL),
              "vm2": [409, {"error": "vm2 is booting\x1b[2J: wait"}]},
    "keep": {"vm1": said(VMS[0], None), "vm2": [409, {"error": "the quarantine is full"}]},
    "drop": {"vm1-g1": [200, {"name": "vm1-g1"}]},
    "resume": {"vm1": said(VMS[0], 5.0), "vm2": said(VMS[1], None)},
}  # fmt: skip


KEPT = [{"name": "vm1-g1", "run": "site/1.1", "owner": 0, "environment": "debian12", "at": 1.0, "until": UNTIL,
         "by": "root", "why": "ticket\x1b 1", "mib": 64}]  # fmt: skip


@pytest.fixture(scope="module")
def etc() -> Iterator[Path]:
    """Configurations of a hostmaster that answers."""
    with tempfile.TemporaryDirectory(prefix="wnod-") as name:
        place = Path(name)
        place.chmod(0o755)
        write_configs(place, place / "etc")
        told = {str(place / "h"): {"snapshot": {"vms": VMS, "quarantine": KEPT}, "jobs": {}, "acts": ACTS}}
        (place / "told.json").write_text(json.dumps(told))
        argv = [sys.executable, str(Path(__file__).parent / "serving.py"), str(place / "told.json")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield place / "etc"
            child.terminate()


@pytest.fixture
def wnod(capsys: pytest.CaptureFixture[str], etc: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(vm_command, "SEEN_WITHIN_S", 0.2)

    def call(*words: str) -> Result:
        try:
            code = main(["vm", words[0], "--etc", str(etc), *words[1:]] if words else ["vm"])
        except SystemExit as end:
            code = int(end.code or 0)
        return Result(code, *capsys.readouterr())

    return call


def test_a_vm_is_paused_by_its_name_or_its_jobs(wnod: Any) -> None:
    for name in ("vm1", "12"):
        shown = wnod("pause", name, "--for", "1m")
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.startswith("vm1 (site/1.1) is paused and goes on by itself at ")


def test_a_vm_goes_on(wnod: Any) -> None:
    assert wnod("resume", "vm2").out == "vm2 (site/2.1) goes on\n"


def test_programs_get_json(wnod: Any) -> None:
    shown = wnod("pause", "vm1", "--json")
    assert shown.json == {"vm": "vm1", "generation": 1, "run": "site/1.1", "until": UNTIL, "state": "paused"}


def test_what_is_not_seen_in_time_is_a_problem_that_is_said(wnod: Any) -> None:
    shown = wnod("pause", "vm3")
    assert (shown.code, shown.out) == (1, "vm3 (site/3.1): not yet paused; look again with: wnod vms\n")
    shown = wnod("resume", "vm1")
    assert (shown.code, shown.out) == (1, "vm1 (site/1.1): paused; look again with: wnod vms\n")
    assert wnod("resume", "vm1", "--json").json["state"] == "paused"


def test_a_refusal_is_exit_code_1_and_one_printable_line(wnod: Any) -> None:
    shown = wnod("pause", "vm2")
    assert (shown.code, shown.out, shown.err) == (1, "", "vm2 is booting\\x1b[2J: wait\n")
    assert (wnod("pause", "vm9").code, wnod("resume", "../x").code) == (1, 1)


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5.2", "soon", "1d", "9" * 20, "nan", "inf", "1e3", "٣"])
def test_a_duration_that_is_none_is_wrong_usage(wnod: Any, text: str) -> None:
    shown = wnod("pause", "vm1", f"--for={text}")
    assert shown.code == 2
    assert "is not a duration above 0: write it as 45, 45s or 1m" in shown.err


def test_durations() -> None:
    assert [duration(text) for text in ("45", "45s", "1.5", "1m", "2min", "1h")] == [45, 45, 1.5, 60, 120, 3600]


def test_an_action_must_be_named(wnod: Any) -> None:
    assert wnod().code == 2


def test_help_tells_the_limit_and_who_may(wnod: Any) -> None:
    shown = wnod("pause", "--help")
    assert shown.code == 0
    words = " ".join(shown.out.split())
    assert "times.pause_limit_s" in words
    assert "For root and the hostmaster's user" in words


def test_nobody_to_ask_is_exit_code_3(wnod: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_configs(tmp_path, tmp_path / "etc")
    assert main(["vm", "pause", "vm1", "--etc", f"{tmp_path}/etc"]) == 3
    assert "no such socket" in capsys.readouterr().err


def test_a_page_cannot_be_done_and_an_act_not_looked_at(etc: Path) -> None:
    path = str(etc.parent / "h" / "status.sock")
    with pytest.raises(ActRefused, match="another version"):
        act(path, "/vms", {})
    with pytest.raises(ActRefused, match="another version"):
        act(path, "/nothing", {})
    with pytest.raises(DaemonUnreachable, match="405"):
        ask(path, "/pause", vm="vm1")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for once")
def test_who_may_look_may_not_act(etc: Path) -> None:
    path = str(etc.parent / "h" / "status.sock")
    os.chmod(path, 0o666)
    try:
        os.seteuid(65534)
        assert len(ask(path, "/vms")) == len(VMS)
        with pytest.raises(ActRefused, match="may look, but not pause: root may; try it with sudo"):
            act(path, "/pause", {"vm": "vm1"})
    finally:
        os.seteuid(0)
        os.chmod(path, 0o660)


def test_a_uid_without_a_name_is_named_by_its_number() -> None:
    assert (user_name(0), user_name(4_000_000_000)) == ("root", "uid 4000000000")


def test_a_vm_is_kept_listed_and_dropped(wnod: Any) -> None:
    assert wnod("keep", "vm1", "--why", "ticket 1").out == "vm1 (site/1.1) goes into quarantine when it ends\n"
    assert wnod("keep", "vm1", "--why", "ticket 1", "--json").json["vm"] == "vm1"
    header, row = wnod("kept").out.splitlines()
    assert header.split()[:4] == ["NAME", "RUN", "OWNER", "ENVIRONMENT"]
    assert row.split("  ")[0] == "vm1-g1"
    assert row.endswith("64 MiB  root  ticket\\x1b 1")
    assert wnod("kept", "--json").json == KEPT
    assert wnod("drop", "vm1-g1").out == "vm1-g1 is dropped\n"
    assert wnod("drop", "vm1-g1", "--json").json == {"name": "vm1-g1"}


def test_why_a_vm_is_kept_must_be_said(wnod: Any) -> None:
    assert wnod("keep", "vm1").code == 2


def test_what_cannot_be_kept_or_dropped_is_exit_code_1(wnod: Any) -> None:
    shown = wnod("keep", "vm2", "--why", "x")
    assert (shown.code, shown.err) == (1, "the quarantine is full\n")
    assert wnod("drop", "vm9").code == 1
