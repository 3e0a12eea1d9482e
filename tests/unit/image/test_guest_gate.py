"""The gate: a run starts only when the hostmaster allows it, once per boot, and its end is told."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.unit.image.guest import Guest, shells

OWNER = os.getuid() or 1001
BATCH = ("batch", "41", "-", "1", str(OWNER), "--")
STEP = ("step", "41", "4294967294", "0", str(OWNER), "--")


@pytest.fixture(params=shells())
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    with Guest(tmp_path, request.param) as guest:
        guest.send("account " + quote(f"alice:x:{OWNER}:{OWNER}:A:/home/alice:/bin/sh", safe=""))
        guest.settle()
        yield guest


def let_in(guest: Guest) -> None:
    """Start run 41 restart 1 and let it end."""
    starter = guest.start(*BATCH, "true")
    number = guest.line("may-start").split(" ")[2]
    guest.send(f"allow {number}")
    assert starter.wait(10) == 0


def test_a_run_that_is_allowed_becomes_the_users_program(guest: Guest) -> None:
    starter = guest.start(
        *BATCH,
        "sh",
        "-c",
        'printf "%s|" "$0" "$@" "$PATH"; cat; exit 3',
        "two words",
        "*",
        "",
        extra={"PATH": "/my:/usr/bin:/bin"},
    )
    assert guest.line("may-start") == f"may-start {guest.boot_id} 1 41 - 1 {OWNER}"
    guest.send("allow 1")
    out, err = starter.communicate("its input", timeout=10)
    assert (out, err) == ("two words|*||/my:/usr/bin:/bin|its input", "")
    assert starter.returncode == 3


@pytest.mark.parametrize("path", ["{bin}:/usr/bin:/bin", "/nowhere::{bin}", "/usr/libexec/../nowhere:{bin}:/bin"])
def test_a_steps_program_is_the_one_on_the_users_path_and_not_the_static_shells_own(
    guest: Guest, tmp_path: Path, path: str
) -> None:
    """Slurm gives a step's program as it was typed, and looks for it only after the plugin's hook."""
    let_in(guest)
    mine = tmp_path / "bin" / "sort"
    mine.parent.mkdir()
    mine.write_text("#!/bin/sh\n/usr/bin/printf '%s|' mine \"$@\"\n")
    mine.chmod(0o755)
    step = guest.start(*STEP, "sort", "--parallel=2", "a b", "*", extra={"PATH": path.format(bin=mine.parent)})
    assert step.communicate(timeout=10) == ("mine|--parallel=2|a b|*|", "")


def test_a_program_that_is_nowhere_on_the_path_is_not_found(guest: Guest) -> None:
    let_in(guest)
    step = guest.start(*STEP, "no-such-program", extra={"PATH": "/usr/bin:/bin"})
    assert "no-such-program" in step.communicate(timeout=10)[1]
    assert step.returncode == 127


def test_the_users_program_has_his_environment_as_it_is(guest: Guest) -> None:
    """Names that we use ourselves, and what a shell cannot name: a function that bash has exported (`module`)."""
    words = ("RUN", "job", "task", "kind", "uid", "lane", "home", "PATIENCE", "SHLVL", "WNOD_KEPT", "empty", "a.b")
    own = {
        **{word: f"the user's  {word}" for word in words},
        "empty": "",
        "BASH_FUNC_module%%": "() {  echo loaded\n}",
        "PATH": "/my:/usr/bin:/bin",
        "LARGE": "x" * 100_000,
    }
    starter = guest.start(*BATCH, "/usr/bin/env", "-0", extra=own)
    guest.send(f"allow {guest.line('may-start').split(' ')[2]}")
    out, _ = starter.communicate(timeout=10)
    assert dict(line.split("=", 1) for line in out.split("\0")[:-1]) == own


def test_nothing_but_input_and_output_is_open_for_the_users_program(guest: Guest) -> None:
    let_in(guest)
    step = guest.start(*STEP, "/bin/sh", "-c", "for n in $(seq 0 20); do [ ! -e /proc/$$/fd/$n ] || echo $n; done")
    assert step.communicate(timeout=10)[0].split() == ["0", "1", "2"]


def test_a_login_environment_that_was_asked_for_is_made_in_the_vm(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / ".profile").write_text("export FROM_LOGIN='one  two'\n")
    extra = {"WNOD_GET_USER_ENV": "1", "HOME": str(tmp_path)}
    starter = guest.start(*BATCH, "sh", "-c", 'printf "%s|" "$FROM_LOGIN" "$0" "$@"; exit 4', "a b", "*", extra=extra)
    guest.line("may-start")
    guest.send("allow 1")
    out, _ = starter.communicate(timeout=10)
    assert out == "one  two|a b|*|"
    assert starter.returncode == 4


def test_a_run_that_is_denied_is_given_back_without_a_trace_of_the_program(guest: Guest, tmp_path: Path) -> None:
    starter = guest.start(*BATCH, "touch", str(tmp_path / "ran"))
    guest.line("may-start")
    guest.send("deny 1 bound%20elsewhere")
    _, err = starter.communicate(timeout=10)
    assert starter.returncode == 199
    assert "given back" in err
    assert not (tmp_path / "ran").exists()


def test_a_question_is_repeated_and_without_an_answer_the_run_is_given_back(guest: Guest, tmp_path: Path) -> None:
    starter = guest.start(*BATCH, "touch", str(tmp_path / "ran"))
    first = guest.line("may-start")
    assert guest.line("may-start") == first
    assert starter.wait(10) == 199
    assert not (tmp_path / "ran").exists()


def test_an_answer_that_comes_too_late_does_not_start_the_next_one(guest: Guest) -> None:
    starter = guest.start(*BATCH, "true")
    guest.line("may-start")
    assert starter.wait(10) == 199
    guest.send("allow 1", "welcome 1 1")
    guest.line("ready")
    late = guest.start(*BATCH, "true")
    assert late.wait(10) == 199, "the marker of the late answer stands: this run is not started here any more"


def test_an_answer_for_another_run_in_the_same_lane_is_passed_over(guest: Guest) -> None:
    first = guest.start(*BATCH, "true")
    guest.line("may-start")
    first.kill()
    first.wait()
    second = guest.start("batch", "42", "-", "0", str(OWNER), "--", "true")
    guest.line("may-start")
    while guest.line("may-start").split(" ")[3] != "42":
        pass
    guest.send("allow 1", "welcome 1 1")
    guest.line("ready")
    assert second.poll() is None, "it still waits for its own answer"
    guest.send("deny 2 x")
    assert second.wait(10) == 199


def test_a_second_batch_start_of_the_same_run_is_refused_without_asking(guest: Guest) -> None:
    let_in(guest)
    again = guest.start(*BATCH, "true")
    assert again.wait(10) == 199
    another = guest.start("batch", "41", "-", "2", str(OWNER), "--", "true")
    assert guest.line("may-start").split(" ")[2:] == ["2", "41", "-", "2", str(OWNER)], "no line for the second start"
    guest.send("deny 2 x")
    assert another.wait(10) == 199


def test_of_two_batch_starts_of_one_run_exactly_one_goes_on(guest: Guest, tmp_path: Path) -> None:
    both = [guest.start(*BATCH, "sh", "-c", f"echo ran >>{tmp_path}/ran") for _ in range(2)]
    guest.send(*(f"allow {guest.line('may-start').split(' ')[2]}" for _ in both))
    assert sorted(starter.wait(10) for starter in both) == [0, 199]
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_nothing_starts_before_all_is_mounted(guest: Guest, tmp_path: Path) -> None:
    (guest.run / "mounted").unlink()
    assert guest.prolog() == 1, "it waits, and then the job goes back"
    starter = guest.start(*BATCH, "touch", str(tmp_path / "ran"))
    assert starter.wait(10) == 199, "also where no prolog is configured"
    assert not (tmp_path / "ran").exists()
    (guest.run / "mounted").touch()
    assert guest.prolog() == 0
    let_in(guest)


def test_a_job_whose_file_systems_are_being_mounted_waits_for_them(guest: Guest) -> None:
    (guest.run / "mounted").unlink()
    prolog = subprocess.Popen([*guest.shell, str(guest.scripts / "prolog")], env={})
    time.sleep(0.2)
    assert prolog.poll() is None
    (guest.run / "mounted").touch()
    assert prolog.wait(10) == 0


def test_a_step_of_a_started_run_goes_on_at_once(guest: Guest) -> None:
    let_in(guest)
    begin = time.monotonic()
    step = guest.start(*STEP, "echo", "step")
    assert step.communicate(timeout=10)[0] == "step\n"
    assert time.monotonic() - begin < 1.5, "not the patience of a question"


def test_an_answer_is_not_lost_however_quick_it_is(guest: Guest) -> None:
    """The starter listens before it asks; an agent that answers first would speak to nobody."""
    let_in(guest)
    for marker in ("41", "41.1"):
        (guest.run / "runs" / marker).rename(guest.run / "runs" / f"hidden-{marker}")
    for _ in range(10):
        step = guest.start(*STEP, "true")
        guest.send(f"allow {guest.line('may-start').split(' ')[2]}")
        assert step.wait(10) == 0
        (guest.run / "runs/41.0").unlink()
        (guest.run / "runs/41").unlink()


def test_many_steps_without_a_batch_script_are_all_let_in_by_one_answer(guest: Guest) -> None:
    steps = [guest.start(*STEP, "echo", str(rank)) for rank in range(4)]
    guest.send(f"allow {guest.line('may-start').split(' ')[2]}")
    assert sorted(step.communicate(timeout=10)[0] for step in steps) == [f"{rank}\n" for rank in range(4)]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("batch",),
        ("batch", "41", "-", "1", "1001", "true", "x"),
        ("other", "41", "-", "1", "1001", "--", "true"),
        ("batch", "x;y", "-", "1", "1001", "--", "true"),
        ("batch", "41", "-", "../1", "1001", "--", "true"),
    ],
)
def test_a_starter_with_words_that_make_no_sense_gives_the_job_back(guest: Guest, words: tuple[str, ...]) -> None:
    assert guest.start(*words).wait(10) == 199


def test_the_users_environment_cannot_name_another_gate(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "fake/runs/41/1").mkdir(parents=True)
    names = ("RUN", "WNOD_RUN", "WNOD_LIB", "PATIENCE", "IFS", "ENV", "lane", "allowed")
    starter = guest.start(*BATCH, "true", extra={name: str(tmp_path / "fake") for name in names})
    guest.line("may-start")
    guest.send("deny 1 x")
    assert starter.wait(10) == 199


def test_rubbish_from_the_owner_does_not_stop_the_gate(guest: Guest) -> None:
    with (guest.run / "ask").open("w") as ask:
        ask.write(
            "ask batch 1 - 0 0 9\nask batch $(id) - 0 1 1\nfinished 41 0\ntick\nport deny 1 x\n\n" + "x" * 5000 + "\n"
        )
    let_in(guest)


@pytest.mark.parametrize(("wait_status", "said"), [("0", "0"), ("768", "3"), ("9", "137"), ("", "-"), ("x", "-")])
def test_the_end_of_a_run_is_told_with_its_exit_code_and_again_after_each_welcome(
    guest: Guest, wait_status: str, said: str
) -> None:
    let_in(guest)
    assert guest.epilog(SLURM_JOB_ID="41", SLURM_JOB_EXIT_CODE=wait_status) == 0
    line = f"finished {guest.boot_id} 41 - 1 {said}"
    assert guest.line("finished") == line
    guest.send("welcome 1 9")
    assert guest.line("finished") == line


def test_the_end_of_a_job_that_never_started_here_is_no_news(guest: Guest) -> None:
    let_in(guest)
    guest.epilog(SLURM_JOB_ID="4")
    guest.epilog(SLURM_JOB_ID="41", SLURM_JOB_EXIT_CODE="0")
    assert guest.line("finished").split(" ")[2] == "41"


def test_a_cancelled_question_is_not_asked_for_ever(guest: Guest) -> None:
    starter = guest.start(*BATCH, "true")
    guest.line("may-start")
    starter.kill()
    starter.wait()
    guest.epilog(SLURM_JOB_ID="41")
    guest.send("welcome 1 1")
    guest.line("ready")
    other = guest.start("batch", "42", "7", "0", str(OWNER), "--", "true")
    assert guest.line("may-start").split(" ")[3:5] == ["42", "7"]
    guest.send("allow 2")
    assert other.wait(10) == 0


@pytest.mark.parametrize("shell", shells())
def test_the_epilog_never_waits_and_never_fails(tmp_path: Path, shell: str) -> None:
    guest = Guest(tmp_path, shell)
    guest.settle()
    guest.__exit__(None, None, None)
    for variables in ({"SLURM_JOB_ID": "41"}, {}, {"SLURM_JOB_ID": "x"}):
        assert guest.epilog(**variables) == 0


def test_the_guests_scripts_pass_the_shell_checker() -> None:
    here = Path(__file__).parents[3] / "deploy/images"
    programs = [path for path in (here / "guest").iterdir() if not path.suffix]
    argv = ["shellcheck", "-x", "-P", str(here / "guest"), *map(str, programs), *map(str, (here / "hooks").iterdir())]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
