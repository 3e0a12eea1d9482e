"""What an administrator sees: the command line and the Prometheus endpoints, on a host at work and at rest."""

from __future__ import annotations

import pytest

from deploy.demo.stage import METRICS
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.real]

NAMES = {
    "hostmaster": (
        "wnod_hostmaster_vms", "wnod_hostmaster_capacity_cpus", "wnod_hostmaster_capacity_memory_bytes",
        "wnod_hostmaster_capacity_disk_bytes", "wnod_hostmaster_create_seconds_bucket",
        "wnod_hostmaster_boot_seconds_bucket", "wnod_hostmaster_ready_seconds_bucket",
        "wnod_hostmaster_destroy_seconds_bucket", "wnod_journal_commit_seconds_bucket", "wnod_build_info",
    ),
    "bait": (
        "wnod_bait_leases", "wnod_bait_open", "wnod_bait_closed_total", "wnod_bait_opened_total",
        "wnod_bait_stage_seconds_bucket", "wnod_journal_commit_seconds_bucket", "wnod_link_connected",
        "wnod_build_info",
    ),
}  # fmt: skip


def scraped(world: World, host: str, daemon: str) -> dict[str, float]:
    """Every sample of a daemon's endpoint, as a Prometheus on that host reads it."""
    port = {"hostmaster": 9611, "bait": 9612}[daemon]
    argv = [world.site.python, "-c", METRICS, f"http://127.0.0.1:{port}/metrics"]
    lines = world.lab.run(host, argv, check=True).stdout.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def of(samples: dict[str, float], name: str, *labels: str) -> float:
    """The sum of a metric's samples that have all these labels."""
    return sum(v for key, v in samples.items() if key.split("{")[0] == name and all(x in key for x in labels))


def test_numbers_and_answers_tell_what_happens_while_and_after_a_job_runs(world: World) -> None:
    world.command("root", "scontrol", "update", "nodename=bait-h2", "state=drain", "reason=only h1 is looked at")
    before = {daemon: scraped(world, "h1", daemon) for daemon in NAMES}
    for daemon, names in NAMES.items():
        missing = [name for name in names if not any(key.split("{")[0] == name for key in before[daemon])]
        assert missing == [], daemon
    job = world.sbatch("watched", "sleep 6", "--cpus-per-task=2")
    world.started(job)
    vm = world.vm_in(job, "started")[1]

    busy = {daemon: scraped(world, "h1", daemon) for daemon in NAMES}
    assert of(busy["hostmaster"], "wnod_hostmaster_vms", 'phase="started"') == 1
    assert of(busy["hostmaster"], "wnod_hostmaster_capacity_cpus", 'kind="total"') == 3
    assert of(busy["hostmaster"], "wnod_hostmaster_capacity_cpus", 'kind="free"') == 1
    assert of(busy["bait"], "wnod_bait_leases", 'phase="started"') == 1
    assert of(busy["bait"], "wnod_link_connected") == 1

    code, status = world.wnod_exit("h1", "status")
    assert (code, set(status)) == (0, {"hostmaster", "bait"})
    assert status["hostmaster"]["hypervisor"] == "ok"
    code, vms = world.wnod_exit("h1", "vms")
    assert (code, [(row["vm"], row["owner"], row["phase"]) for row in vms]) == (0, [(vm["vm"], 7701, "started")])
    code, jobs = world.wnod_exit("h1", "jobs")
    assert (code, [(row["job"], row["user"], row["vm"]) for row in jobs]) == (0, [(job.id, "alice", vm["vm"])])

    world.over([job])
    world.until(lambda: not world.leases() and not world.vms(), 30, "the VM is gone")
    after = {daemon: scraped(world, "h1", daemon) for daemon in NAMES}
    for name in ("create", "boot", "ready", "destroy"):
        count, total = f"wnod_hostmaster_{name}_seconds_count", f"wnod_hostmaster_{name}_seconds_sum"
        assert of(after["hostmaster"], count) == of(before["hostmaster"], count) + 1, name
        assert 0.005 < of(after["hostmaster"], total) - of(before["hostmaster"], total) < 60, name
    assert of(after["hostmaster"], "wnod_hostmaster_capacity_cpus", 'kind="free"') == 3
    for stage in ("granted", "parked", "ready", "released", "running", "ended"):
        count = "wnod_bait_stage_seconds_count"
        label = f'stage="{stage}"'
        assert of(after["bait"], count, label) == of(before["bait"], count, label) + 1, stage

    code, story = world.wnod_exit("h1", "explain", job.id)
    assert code == 0
    assert story["job"] == job.id
    assert {step["who"] for step in story["steps"]} == {"bait", "hostmaster"}
    assert vm["vm"] in str(story["steps"])
    assert world.row(job)["job_state"] == "COMPLETED"
    world.command("root", "scontrol", "update", "nodename=bait-h2", "state=resume")


def test_commands_on_a_host_at_rest_answer_in_json_with_the_right_exit_codes(world: World) -> None:
    code, environments = world.wnod_exit("h1", "env", "list")
    assert (code, {row["name"]: row["available"] for row in environments}) == (
        0, {"debian12": True, "debian12-sci": True},
    )  # fmt: skip
    files = [f"/etc/wnod/{name}.yaml" for name in ("hostmaster", "bait", "catalogue")]
    assert world.wnod_exit("h1", "check-config", *files)[0] == 0
    code, findings = world.wnod_exit("h1", "doctor", "--quick")
    bad = [finding for finding in findings if finding["verdict"] == "bad"]
    assert (code, bad) == (0, [])

    world.lab.kill("h1", "bait")
    try:
        code, status = world.wnod_exit("h1", "status")
        assert code == 3
        assert "error" in status["bait"]
        assert "error" not in status["hostmaster"]
        assert world.asked_exit("h1", "jobs") == 3
    finally:
        world.site.start_daemon("h1", "bait")
    world.until(lambda: world.site.daemon_status("h1", "bait"), 15, "the bait answers")
    assert world.asked_exit("h1", "explain", "424242") == 1
    assert world.asked_exit("h1", "vms", "--etc", "/nowhere") == 2
