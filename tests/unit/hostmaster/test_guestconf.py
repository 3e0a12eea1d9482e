"""What a guest is told: complete, in order, and no more than its owner's secrets."""

import base64
from dataclasses import replace

from hostmaster.rules.guestconf import PART, Account, Mount, Site, lines, standby_lines
from protocol.guest import MAX_LINE
from tests.unit.hostmaster.records import a_spare, a_vm

ACCOUNT = Account("alice:x:1000:1000:Alice A:/home/alice:/bin/sh", ("alice:x:1000:alice", "phys:x:2000:alice"))
SITE = Site(
    lrms="slurm",
    controller="ctl:6817",
    features=("vwn", "site"),
    hosts={"10.0.0.1": "ctl"},
    mounts=(Mount("nfs4", "ctl:/home", "/home", "vers=4.2"),),
    gateway="10.0.0.254",
)


def told(site: Site = SITE, overhead_mib: int = 0, tags: tuple[str, ...] = ()) -> list[str]:
    content = lines(a_vm(), site, "10.0.0.11/24", ACCOUNT, {"munge.key": b"\0secret"}, 12.5, overhead_mib, tags)
    return content.decode("ascii").splitlines()


def test_a_guest_is_told_everything_between_welcome_and_go() -> None:
    assert told() == [
        "welcome 1 1",
        "time 12.500",
        "set address 10.0.0.11%2F24",
        "set lrms slurm",
        "set controller ctl%3A6817",
        "set features vwn%2Csite%2Cdebian12",
        "set cpus 1",
        "set memory_mib 512",
        "set disk_mib 128",
        "set gateway 10.0.0.254",
        "host 10.0.0.1 ctl",
        "mount nfs4 ctl%3A%2Fhome %2Fhome vers%3D4.2",
        "account alice%3Ax%3A1000%3A1000%3AAlice%20A%3A%2Fhome%2Falice%3A%2Fbin%2Fsh",
        "group alice%3Ax%3A1000%3Aalice",
        "group phys%3Ax%3A2000%3Aalice",
        "credential munge.key 0400 AHNlY3JldA==",
        "go",
    ]


def test_the_node_offers_what_the_job_asked_for_and_not_the_guests_own_memory() -> None:
    assert "set memory_mib 448" in told(overhead_mib=64)


def test_the_node_carries_the_environments_software_as_features() -> None:
    assert "set features vwn%2Csite%2Cdebian12%2Cnumpy" in told(tags=("numpy",))


def test_what_the_site_does_not_say_is_not_told() -> None:
    words = {line.split(" ")[1] for line in told(Site("slurm", "ctl:6817", (), {}, ())) if line.startswith("set")}
    assert words == {"address", "lrms", "controller", "features", "cpus", "memory_mib", "disk_mib"}


def test_no_text_of_a_user_can_break_a_line() -> None:
    nasty = Account("a:x:1:1:one\ntwo go\r:/:/bin/sh")
    content = lines(a_vm(), SITE, "10.0.0.11/24", nasty, {}, 0.0)
    assert content.count(b"\n") == len([line for line in content.split(b"\n") if line])
    assert all(len(line) < MAX_LINE for line in content.split(b"\n"))
    assert b"\ngo\n" in content
    assert content.count(b"\ngo") == 1


FILES = {"plugstack.conf": b"", "slurm.conf": bytes(range(256)) * 60}


def test_a_guest_at_standby_is_given_the_lrms_files_in_parts_that_fit_a_line() -> None:
    content = standby_lines(a_spare(), replace(SITE, files=FILES), "10.0.0.11/24", 12.5)
    words = [line.split(" ") for line in content.decode("ascii").splitlines() if line.startswith("file ")]
    parts = -(-len(FILES["slurm.conf"]) // PART)
    assert [w[1:4] for w in words[:2]] == [["plugstack.conf", "1", "1"], ["slurm.conf", "1", str(parts)]]
    assert words[0][4] == "-"
    assert b"".join(base64.b64decode(w[4]) for w in words[1:]) == FILES["slurm.conf"]
    assert all(len(line) <= MAX_LINE for line in content.splitlines(keepends=True))


def test_only_a_guest_at_standby_is_given_files() -> None:
    assert told(replace(SITE, files=FILES)) == told()
