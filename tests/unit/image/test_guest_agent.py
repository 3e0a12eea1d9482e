"""The agent under the shell that a guest has: what the hostmaster gives, and what it never can give."""

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.unit.image.guest import GUEST, NAME, Guest, shells

OWNER = os.getuid() or 1001


@pytest.fixture(params=shells())
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    with Guest(tmp_path, request.param) as guest:
        yield guest


def account(line: str) -> str:
    return "account " + quote(line, safe="")


def test_says_hello_until_it_is_told_to_go_then_ready(guest: Guest) -> None:
    hello = f"hello 1 {guest.boot_id} {NAME}"
    assert guest.line("hello") == hello
    assert guest.line("hello") == hello, "again after a second, because a port knows no connect"
    guest.send("welcome 1 7", "set lrms none", "go")
    assert guest.line("ready") == f"ready {guest.boot_id}"


def test_says_ready_again_to_a_hostmaster_that_greets_it_again(guest: Guest) -> None:
    guest.send("go")
    guest.line("ready")
    guest.send("welcome 1 7")
    guest.line("ready")
    guest.send("go")
    guest.line("ready")


def test_an_agent_that_is_started_again_hears_all_that_it_is_told(guest: Guest) -> None:
    """What an agent that had died left behind took some of the port's bytes."""
    guest.settle()
    for lives in range(2, 4):
        guest.kill_agent()
        while guest.said().count(" agent\n") < lives:
            guest.line("hello")
    for _ in range(30):
        guest.send("welcome 1 1")
        guest.line("ready", patience=3)


def test_an_lrms_that_is_not_in_the_image_is_a_failure_with_its_stage(guest: Guest) -> None:
    guest.send("set lrms htcondor", "go")
    line = guest.line("failed")
    assert line == f"failed {guest.boot_id} lrms this%20image%20has%20no%20LRMS%20named%20htcondor"
    guest.send("welcome 1 8")
    assert guest.line("failed") == line, "told again to a new hostmaster"


def test_a_failed_start_may_be_tried_again_with_better_words(guest: Guest) -> None:
    guest.send("set lrms htcondor", "go")
    guest.line("failed")
    guest.send("set lrms none", "go")
    guest.line("ready")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "rubbish",
        "set",
        "set colour blue",
        "go now",
        "allow",
        "allow x",
        "allow 99",
        "deny 1 a b c",
        "host 1.2.3.4 a/b",
        "credential ../x 0400 QQ==",
        "credential munge.key 0666 QQ==",
        "* ? [a-z]",
        "x" * 8000,
    ],
)
def test_lines_that_make_no_sense_change_nothing(guest: Guest, line: str) -> None:
    guest.send(line)
    guest.settle()
    assert not list((guest.run / "credential").iterdir())
    assert (guest.etc / "hosts").read_text().count("\n") == 3


def test_hosts_are_written_once_and_added_to_later(guest: Guest) -> None:
    guest.send("host 10.0.0.1 ctl", "host 10.0.0.1 ctl")
    guest.settle()
    guest.send("host 10.0.0.2 nfs", "welcome 1 1")
    guest.line("ready")
    lines = (guest.etc / "hosts").read_text().splitlines()
    assert lines == ["127.0.0.1 localhost", f"127.0.1.1 {NAME}", "10.0.0.1 ctl", "127.0.0.9 settled", "10.0.0.2 nfs"]


def test_the_owners_account_is_added_once_and_may_use_the_gate(guest: Guest) -> None:
    line = f"alice:x:{OWNER}:{OWNER}:Alice, of the lab:/home/alice:/bin/bash"
    guest.send(account(line), account(line), "group " + quote(f"alice:x:{OWNER}:", safe=""))
    guest.settle()
    assert (guest.etc / "passwd").read_text().splitlines()[2:] == [line]
    assert (guest.etc / "group").read_text().splitlines()[2:] == [f"alice:x:{OWNER}:"]
    status = (guest.run / "ask").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (OWNER, 0o600)
    assert stat.S_IMODE((guest.run / "inbox").stat().st_mode) == 0o600
    assert (guest.run / "inbox").stat().st_uid == os.getuid()


def test_an_owner_whose_name_has_a_domain_is_taken(guest: Guest) -> None:
    line = f"alice@ad.example:x:{OWNER}:{OWNER}::/home/alice:/bin/sh"
    guest.send(account(line))
    guest.settle()
    assert (guest.etc / "passwd").read_text().splitlines()[-1] == line


@pytest.mark.parametrize(
    "line",
    [
        "alice:x:0:100::/home/alice:/bin/sh",
        "alice:x:000:100::/home/alice:/bin/sh",
        "alice:x:1001:0::/home/alice:/bin/sh",
        "root:x:1001:1001::/home/alice:/bin/sh",
        "munge:x:1001:1001::/home/alice:/bin/sh",
        "alice:x:100:1001::/home/alice:/bin/sh",
        "alice::1001:1001::/home/alice:/bin/sh",
        "alice:x:1001:1001::/home/alice:/bin/sh\nevil:x:0:0::/:/bin/sh",
        "alice:x:-1:1001::/home/alice:/bin/sh",
        "alice:x:1001",
        "../x:x:1001:1001::/home/alice:/bin/sh",
        "",
    ],
)
def test_no_account_can_be_root_or_one_of_the_systems(guest: Guest, line: str) -> None:
    before = (guest.etc / "passwd").read_text()
    guest.send(account(line))
    guest.settle()
    assert (guest.etc / "passwd").read_text() == before
    assert (guest.run / "ask").stat().st_uid == os.getuid()


def test_the_credential_is_readable_by_its_daemon_only(guest: Guest) -> None:
    secret = bytes(range(256)) * 4
    guest.send("credential munge.key 0400 " + base64.b64encode(secret).decode())
    guest.settle()
    key = guest.run / "credential/munge.key"
    assert key.read_bytes() == secret
    assert stat.S_IMODE(key.stat().st_mode) == 0o400
    assert "AAECAw" not in guest.said()


# --- standby -----------------------------------------------------------------------------------------

SEED = "seed " + base64.b64encode(bytes(range(32))).decode()


def test_standby_is_said_once_all_is_done_and_again_to_whoever_greets(guest: Guest) -> None:
    guest.send("set lrms none", "standby")
    assert guest.line("standby") == f"standby {guest.boot_id}"
    guest.send("welcome 1 7")
    guest.line("standby")
    guest.send("standby")
    guest.line("standby")


def test_a_guest_at_standby_goes_with_a_seed_and_a_time_that_came_after_it(guest: Guest) -> None:
    guest.send("set lrms none", guest.time(), SEED, "standby")
    guest.line("standby")
    guest.send(guest.time(), SEED, "go")
    assert guest.line("ready") == f"ready {guest.boot_id}"
    assert guest.random.read_bytes() == bytes(range(32)) * 2, "each seed is mixed in, also the same one after standby"


@pytest.mark.parametrize(("given", "stage"), [([], "credential"), ([SEED], "clock")])
def test_what_was_given_before_standby_is_too_old_to_go_with(guest: Guest, given: list[str], stage: str) -> None:
    guest.send("set lrms none", guest.time(), SEED, "standby")
    guest.line("standby")
    guest.send(*given, "go")
    assert guest.line("failed").split(" ")[2] == stage
    guest.send(guest.time(), SEED, "go")
    guest.line("ready")


def test_go_that_arrives_while_standby_is_being_prepared_is_not_lost(guest: Guest) -> None:
    guest.send("set lrms none", "standby", "go")
    guest.line("ready")


def test_hosts_that_are_given_at_standby_are_written_when_it_goes(guest: Guest) -> None:
    guest.send("set lrms none", "host 10.0.0.1 ctl", "standby")
    guest.line("standby")
    guest.send("host 10.0.0.2 nfs", guest.time(), SEED, "go")
    guest.line("ready")
    assert (guest.etc / "hosts").read_text().splitlines()[2:] == ["10.0.0.1 ctl", "10.0.0.2 nfs"]


def test_mounts_are_tried_and_undone_at_standby_and_made_when_it_goes(guest: Guest) -> None:
    target = f"/tmp/wnod-test-{os.getpid()}"  # the guest takes plain words only: no underscore, as tmp_path has
    guest.send("set lrms none", f"mount nfs4 10.0.0.1%3A%2Fhome {quote(target, safe='')} vers%3D4.2", "standby")
    guest.line("standby")
    made = ["mount", "umount"]
    assert [line.split(" ")[0] for line in guest.mounting.read_text().splitlines()] == made
    guest.send(guest.time(), SEED, "go")
    guest.line("ready")
    guest.wait_mounted()
    Path(target).rmdir()
    lines = guest.mounting.read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == [*made, "mount"]
    assert lines[0] == lines[2]
    assert lines[0].endswith(f"-t nfs4 -o nosuid,nodev,vers=4.2,addr=10.0.0.1 10.0.0.1:/home {target}")


@pytest.mark.parametrize(
    ("source", "options", "as_mounted"),
    [
        ("10.0.0.1:/home", "%20", "-t nfs4 -o nosuid,nodev,addr=10.0.0.1 10.0.0.1:/home"),
        ("10.0.0.1:/a_b/c+d~", "ro", "-t nfs4 -o nosuid,nodev,ro,addr=10.0.0.1 10.0.0.1:/a_b/c+d~"),
        ("[fd00::1]:/x", "addr=x", "-t nfs4 -o nosuid,nodev,addr=x [fd00::1]:/x"),
    ],
)
def test_mounts_as_sites_have_them_are_made(guest: Guest, source: str, options: str, as_mounted: str) -> None:
    target = f"/tmp/wnod_test+{os.getpid()}"
    words = f"{quote(source, safe='')} {quote(target, safe='')} {options if options == '%20' else quote(options)}"
    guest.send("set lrms none", f"mount nfs4 {words}", "go")
    guest.line("ready")
    guest.wait_mounted()
    Path(target).rmdir()
    assert guest.mounting.read_text() == f"mount -i {as_mounted} {target}\n"


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("mount nfs4 a%20b %2Fhome x", "mount"),
        ("mount nfs4 a:/b relative x", "mount"),
        ("mount nfs4 a:/b %2Fa%2F..%2Fetc x", "mount"),
        ("mount nfs4 a:/b %2Fhome a%24b", "mount"),
        ("set cpus many", "set"),
        ("set features a%3Bb", "set"),
        ("set address %0a", "set"),
        ("account bob:x:0:0:Bob:/home/bob:/bin/sh", "account"),
    ],
)
@pytest.mark.parametrize("word", ["go", "standby"])
def test_a_guest_that_cannot_take_what_its_site_says_does_not_serve_without_it(
    guest: Guest, line: str, stage: str, word: str
) -> None:
    guest.send("welcome 1 7", "set lrms none", line, word)
    assert guest.line("failed", "ready", "standby").split(" ")[::2][:2] == ["failed", stage]
    guest.send("welcome 1 7", "set lrms none", word)
    guest.line("ready" if word == "go" else "standby")


def test_a_mount_that_fails_when_the_vm_is_a_node_is_told_and_no_job_begins(guest: Guest) -> None:
    target = f"/tmp/wnod-test-{os.getpid()}"
    Path(f"{guest.mounts}.fail").touch()
    guest.send("set lrms none", f"mount nfs4 10.0.0.1%3A%2Fhome {quote(target, safe='')} vers%3D4.2", "go")
    guest.line("ready")
    line = guest.line("failed")
    assert line.split(" ")[2] == "mount"
    Path(target).rmdir()
    assert guest.prolog() == 1
    guest.send("welcome 1 8")
    assert guest.line("failed", "ready") == line


def test_a_clock_that_does_not_follow_what_was_given_is_a_failure_with_its_stage(guest: Guest) -> None:
    guest.send("set lrms none", "time 1700000000.000", "go")  # the test's `date` sets no clock
    words = guest.line("failed").split(" ")
    assert words[2] == "clock"
    assert "hundredths%20of%20a%20second%20off" in words[3]
    guest.send(guest.time(), "go")
    guest.line("ready")


@pytest.mark.parametrize("ahead", [0.5, 1.9, -0.5, -1.9, 3600.0])
def test_a_clock_within_a_second_of_what_was_given_is_right(guest: Guest, ahead: float) -> None:
    guest.send("set lrms none", guest.time(ahead), "go")
    # A shell without fractions of a second may forgive up to one more.
    words = ("ready", "failed")
    expected = words if 1 < abs(ahead) < 2 and guest.shell == ["dash"] else words[abs(ahead) > 1 :][:1]
    assert guest.line(*words).split(" ")[0] in expected


@pytest.mark.parametrize("seed", ["", "QQ==", "A" * 43, "A" * 92, "!" * 44, "../etc/passwd" * 4])
def test_what_is_no_seed_is_not_mixed_in_and_not_shown(guest: Guest, seed: str) -> None:
    guest.send(f"seed {seed}")
    guest.settle()
    assert not guest.random.read_bytes()
    assert seed == "" or seed not in guest.said()


def test_a_seed_is_in_no_log_and_the_generator_is_told_to_start_anew(guest: Guest) -> None:
    guest.send(SEED, SEED)
    guest.settle()
    assert guest.random.read_bytes() == bytes(range(32)), "twice the same line is one seed"
    assert "AAECAw" not in guest.said()
    assert "cannot be told to start anew" in guest.said(), "a file is no generator, and the guest goes on"


def test_no_line_is_sent_in_a_way_that_a_childs_end_can_lose() -> None:
    """Shown by strace: busybox's printf takes a write that a signal interrupted for done, its echo repeats it."""
    for script in GUEST.iterdir():
        lines = script.read_text().splitlines()
        assert not [line for line in lines if "printf" in line and ">&3" in line], script
