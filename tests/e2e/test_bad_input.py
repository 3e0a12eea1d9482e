"""What users, administrators and attackers get wrong: each is told, and nothing else suffers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.demo.judge import Job
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

ODD_NAMES = (
    """it's "quoted" `id` $(id) %s %n""",
    "two\nlines\ttab and Грүße-作業-🦊",
    "../../../../etc/passwd",
    "x" * 1024,  # Slurm itself refuses longer ones
)


def is_told(world: World, job: Job) -> bool:
    """True once the job is held and its user can read why."""
    return world.is_held(job) and "[wnod:" in (world.row(job)["comment"] or "")


def test_a_job_that_no_host_can_hold_is_held_once_and_runs_when_corrected(world: World) -> None:
    wide = world.sbatch("too-wide", "true", "--cpus-per-task=2", "--mem=3000")
    large = world.sbatch("too-large", "true", "--mem=4000", user="bob")
    for job in (wide, large):
        world.until(lambda job=job: is_told(world, job), 30, f"job {job.id} is held")  # type: ignore[misc]
    counts = {job.id: world.row(job)["restart_cnt"] for job in (wide, large)}
    assert set(counts.values()) == {1}
    code, shown = world.try_as("bob", "scontrol", "show", "job", large.id)
    assert code == 0
    assert "4000" in shown
    assert "1024" in shown  # what it may ask for
    assert "3000" in (world.row(wide)["comment"] or "")

    world.command("bob", "scontrol", "update", f"jobid={large.id}", "minmemorynode=512", "starttime=now+10")
    world.command("bob", "scontrol", "release", large.id)
    world.over([large])
    assert (large.state, len(world.starts(large))) == ("COMPLETED", 1)
    # The other has stayed where it was all that time.
    assert world.row(wide)["restart_cnt"] == counts[wide.id]
    assert is_told(world, wide)
    world.command("alice", "scancel", wide.id)
    world.over([wide])
    assert world.starts(wide) == []


@contextmanager
def altered(path: Path) -> Iterator[None]:
    """A byte more than there was."""
    size, mode = path.stat().st_size, path.stat().st_mode
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"!")
    yield
    with path.open("ab") as file:
        file.truncate(size)
    path.chmod(mode & 0o7777)


def environments(world: World, host: str) -> dict[str, tuple[bool, str]]:
    """Every environment of a host: can it be had, and what is said of it."""
    _, rows = world.wnod_exit(host, "env", "list")
    return {row["name"]: (row["available"], row["text"]) for row in rows}


def reload(world: World) -> None:
    """What `systemctl reload wnod-hostmaster` does, on every host."""
    for host in world.lab.hosts:
        world.lab.kill(host, "hostmaster", signal.SIGHUP, wait=0)


def test_an_altered_image_is_refused_with_a_reason_and_the_other_environment_works(world: World) -> None:
    image = world.site.images["debian12-sci"]
    with altered(image / "root.squashfs"):
        reload(world)
        for host in world.lab.hosts:
            world.until(lambda host=host: not environments(world, host)["debian12-sci"][0], 30,  # type: ignore[misc]
                        "the altered image is refused")  # fmt: skip
            offered = environments(world, host)
            assert "root.squashfs" in offered["debian12-sci"][1]
            assert offered["debian12"] == (True, "")
        job = world.sbatch("other-image", "true")
        world.over([job])
        assert (job.state, len(world.starts(job))) == ("COMPLETED", 1)
    reload(world)
    for host in world.lab.hosts:
        world.until(lambda host=host: environments(world, host)["debian12-sci"] == (True, ""), 30,  # type: ignore[misc]
                    "the image that is whole again is offered")  # fmt: skip


def test_jobs_with_odd_names_run_like_any_other(world: World) -> None:
    jobs = [
        world.sbatch(
            f"odd-{n}",
            "true",
            f"--job-name={name}",
            "--comment=" + (name + "[wnod: no" * 120).encode()[:1020].decode(errors="ignore"),
            "--output=odd-%A.out",
            user=("alice", "bob")[n % 2],
        )
        for n, name in enumerate(ODD_NAMES)
    ]
    world.over(jobs)
    assert [(job.state, len(world.starts(job))) for job in jobs] == [("COMPLETED", 1)] * len(jobs)
    for job in jobs:
        code, story = world.wnod_exit(*explained(world, job))
        assert (code, story["job"]) == (0, job.id)


def explained(world: World, job: Job) -> tuple[str, str, str]:
    """The host and words of the command that explains a job."""
    host = world.starts(job)[0].hostname.split("-")[1]
    return host, "explain", job.id


def test_a_script_that_exits_with_a_reserved_code_runs_once_and_its_user_is_told(world: World) -> None:
    jobs = [world.sbatch(f"exits-{code}", f"exit {code}") for code in (198, 199)]
    for job in jobs:
        world.until(lambda job=job: is_told(world, job), 60, f"job {job.id} is held after its run")  # type: ignore[misc]
    world.until(lambda: not world.leases(), 30, "the baits have let go of them")
    for job in jobs:
        assert "reserve" in world.row(job)["comment"]
        assert len(world.starts(job)) == 1
        assert world.row(job)["restart_cnt"] == 2
        world.command("alice", "scancel", job.id)
    world.over(jobs)
    assert [len(world.starts(job)) for job in jobs] == [1, 1]
