"""What the job starter on Slurm promises, with a real slurmctld, slurmd and plugin (docs/decisions/0001)."""

from __future__ import annotations

import os
import stat

import pytest

from tests.contract.slurm.conftest import Cluster

pytestmark = pytest.mark.real


def test_starter_gets_the_run_and_a_clean_environment(cluster: Cluster) -> None:
    job = cluster.submit(env="MARK=mine")
    seen = cluster.seen(job)
    assert seen["argv"][:6] == ["batch", job, "-", "0", "7701", "--"]
    assert set(seen["environment"]) <= {"PATH", "LANG", "LC_CTYPE", "WNOD_USER_ENV_FD", "WNOD_VERDICT_FD"}
    assert seen["user"]["MARK"] == "mine"
    assert seen["uid"] == 7701


def test_no_user_code_on_the_bait_by_environment(cluster: Cluster, preload: str) -> None:
    job = cluster.submit(env=f"LD_PRELOAD={preload}")
    cluster.wait_state(job, "SPECIAL_EXIT")
    assert "h1" not in cluster.user_code_ran_on()


@pytest.mark.parametrize("option", ["--get-user-env", "--export=NONE"])
def test_no_login_shell_on_the_bait(cluster: Cluster, option: str) -> None:
    home = cluster.lab.layout.home / "alice"
    evidence = cluster.scratch / "login"
    evidence.unlink(missing_ok=True)
    (home / ".bash_profile").write_text(f"touch {evidence}\n")
    try:
        job = cluster.command("sbatch", "--parsable", option, "--wrap", "true", user="alice")
        assert cluster.seen(job)["user"]["WNOD_GET_USER_ENV"] == "1"
        assert not evidence.exists()
    finally:
        (home / ".bash_profile").unlink()


@pytest.mark.parametrize("options", [(), ("--no-requeue",)])
def test_199_parks_the_job(cluster: Cluster, options: tuple[str, ...]) -> None:
    job = cluster.wait_state(cluster.submit(*options), "SPECIAL_EXIT")
    assert (job["JobState"], job["Restarts"], job["Priority"]) == ("SPECIAL_EXIT", "1", "0")


@pytest.mark.parametrize("options", [(), ("--no-requeue",)])
def test_198_puts_the_job_back(cluster: Cluster, options: tuple[str, ...]) -> None:
    job = cluster.submit(*options, plan="exit 198")
    assert cluster.back_in_the_queue(job)


@pytest.mark.parametrize("code", ["0", "1"])
def test_a_starter_that_crashes_gives_the_job_back(cluster: Cluster, code: str) -> None:
    job = cluster.submit(plan=f"crash {code}")
    assert cluster.back_in_the_queue(job)
    assert "without a verdict" in (cluster.scratch / f"out.{job}").read_text()


def test_an_exit_code_that_is_meant_is_the_jobs(cluster: Cluster) -> None:
    job = cluster.wait_state(cluster.submit(plan="meant 7"), "FAILED")
    assert job["ExitCode"] == "7:0"


def test_steps_are_refused_before_any_user_code(cluster: Cluster, preload: str) -> None:
    job = cluster.submit(plan="wait 199")
    cluster.seen(job)
    script = cluster.scratch / "epilogue.sh"
    script.write_text(f"#!/bin/sh\nLD_PRELOAD={preload} /bin/true\n")
    script.chmod(0o755)
    step = ("srun", f"--jobid={job}", "--overlap", f"--task-prolog={script}", f"--task-epilog={script}")
    answer = cluster.command(*step, "hostname", user="alice")
    cluster.go(job)
    assert "Plugin initialization failed" in answer
    assert "h1" not in cluster.user_code_ran_on()
    assert cluster.wait_state(job, "SPECIAL_EXIT")["Restarts"] == "1"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("srun", "hostname"), "use sbatch"),
        (("salloc", "hostname"), "use sbatch"),
        (("sbatch", "-N", "2", "--wrap", "true"), "one node"),
        (("sbatch", "-p", "vwn", "--wrap", "true"), "not for users"),
        (("sbatch", "-p", "batch,vwn", "--wrap", "true"), "not for users"),
    ],
)
def test_refused_at_submission_with_a_remedy(cluster: Cluster, argv: tuple[str, ...], text: str) -> None:
    assert text in cluster.command(*argv, user="alice")


def test_array_tasks_are_told_apart(cluster: Cluster) -> None:
    array = cluster.submit("--array=0-1", "-o", f"{cluster.scratch}/out.%A.%a")
    for task in ("0", "1"):
        assert cluster.wait_state(f"{array}_{task}", "SPECIAL_EXIT")["Restarts"] == "1"
    cluster.command("scontrol", "update", f"JobId={array}_0", "Comment=zero")
    assert cluster.job(f"{array}_0")["Comment"] == "zero"
    assert "Comment" not in cluster.job(f"{array}_1")
    # The last task's own id is the array's id, by which scontrol means all tasks: no starter hears such ids.
    assert cluster.seen(f"{array}_0")["argv"][1:3] == [array, "0"]
    assert cluster.seen(f"{array}_1")["argv"][1:3] == [array, "1"]


@pytest.mark.parametrize(("program", "state", "code"), [("true", "COMPLETED", "0:0"), ("exit 3", "FAILED", "3:0")])
def test_the_moved_job_runs_in_the_vm(cluster: Cluster, preload: str, program: str, state: str, code: str) -> None:
    job = cluster.submit("-C", "debian12", env=f"LD_PRELOAD={preload}", program=f"hostname; {program}")
    cluster.wait_state(job, "SPECIAL_EXIT")
    cluster.move(job)
    ended = cluster.wait_state(job, state)
    assert (ended["ExitCode"], ended["NodeList"], ended["Restarts"]) == (code, "vm1", "1")
    assert (cluster.scratch / f"out.{job}").read_text().split() == ["h2"]
    assert {"h2"} <= cluster.user_code_ran_on() <= {"h2", "head"}


def test_a_user_cannot_take_a_bound_job_elsewhere(cluster: Cluster) -> None:
    job = cluster.submit("-C", "debian12")
    cluster.wait_state(job, "SPECIAL_EXIT")
    assert cluster.command("scontrol", "update", f"JobId={job}", "Partition=vwn", user="alice") != ""
    cluster.command("scontrol", "update", f"JobId={job}", "Partition=vwn", "ReqNodeList=vm1")
    for change in ("Partition=batch", "Features=retired6", "ReqNodeList="):
        assert cluster.command("scontrol", "update", f"JobId={job}", change, user="alice") != ""
    assert (cluster.job(job)["Partition"], cluster.job(job)["Features"]) == ("vwn", "debian12")


def test_an_incomplete_hook_drains_the_bait_and_keeps_the_job(cluster: Cluster) -> None:
    starter = cluster.lab.layout.root / "libexec" / "starter"
    mode = stat.S_IMODE(starter.stat().st_mode)
    starter.chmod(0)
    try:
        job = cluster.submit()
        assert cluster.back_in_the_queue(job)
        assert "Prolog error" in cluster.command("sinfo", "-R")
    finally:
        os.chmod(starter, mode)
        cluster.command("scontrol", "update", "NodeName=bait-h1", "State=RESUME")
