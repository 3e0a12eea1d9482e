"""The contract of a guest, kept by a real one: a built image under QEMU, this test in the hostmaster's place.

Slurm is the one thing replaced where a test needs a job without a cluster: STAND_IN takes the place of
lrms-slurm.sh and does what slurmd does with the gate. (With a real slurmctld: tests/e2e.)
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.guest.vm import ACCOUNT, NAME, RealGuest, probe
from tests.real_image import image_to_boot
from wnod.image import manifest
from wnod.image.manifest import Image

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="boots a guest: run as root, as `make test` does"),
]
RESULT = "user program:"
# Runs three starts as the job's user, one after the other, and the epilog: what slurmd would do.
STAND_IN = """
start_lrms() {
    echo "configured ready" >"$RUN/inbox"
    gate() { /usr/bin/setpriv --reuid 1001 --regid 1001 --clear-groups "$LIB/starter" "$@"; echo "exit $?"; }
    gate batch 41 7 1 1001 -- sh -c 'echo "user program: $(id -u) $(hostname) $*"; exit 3' - a "b c"
    gate batch 41 7 1 1001 -- echo "user program: twice"
    gate step 41 4294967294 0 1001 -- echo "user program: step"
    SLURM_JOB_ID=41 SLURM_JOB_EXIT_CODE=768 "$LIB/epilog"
    gate batch 42 - 0 1001 -- echo "user program: denied"
    /usr/bin/setpriv --reuid 1001 --regid 1001 --clear-groups sh -c '
        for secret in /run/wnod/credential/munge.key /run/wnod/inbox /dev/vport*p1 /dev/vda /dev/vdb /dev/mem; do
            [ -r "$secret" ] || [ -w "$secret" ] && echo "user program: can open $secret"
        done
        find / -xdev -type f -perm /6000 2>/dev/null | while read -r file; do echo "user program: set-uid $file"; done'
    echo "stand-in done"
}
"""


@pytest.fixture(scope="module")
def image() -> Image:
    image = manifest.load(image_to_boot())
    manifest.verify(image)
    return image


@pytest.fixture
def guest(image: Image, tmp_path: Path) -> Iterator[RealGuest]:
    with RealGuest(image, tmp_path, {"lrms-slurm.sh": STAND_IN}) as guest:
        yield guest


def test_a_probe_says_so_and_powers_off_without_any_disk(image: Image) -> None:
    status, console = probe(image)
    assert status == 0
    assert "wnod-probe-ok" in console


def test_a_job_passes_the_gate_once_and_its_end_is_told(guest: RealGuest) -> None:
    hello = guest.line("hello")
    assert hello[1:2] + hello[3:] == ["1", NAME]
    boot_id = hello[2]
    guest.send(
        "welcome 1 7",
        "rubbish",
        "set lrms slurm",
        "credential munge.key 0400 c2VjcmV0",
        ACCOUNT,
        f"time {time.time():.3f}",
        "go",
    )
    assert guest.line("ready") == ["ready", boot_id]
    assert guest.line("may-start") == ["may-start", boot_id, "1", "41", "7", "1", "1001"]
    guest.send("allow 1")
    assert guest.line("finished") == ["finished", boot_id, "41", "7", "1", "3"]
    assert guest.line("may-start")[2:] == ["2", "42", "-", "0", "1001"]
    guest.send("deny 2 not%20yours")
    console = guest.wait_for("stand-in done")
    results = [line.strip() for line in console.splitlines() if line.startswith((RESULT, "exit "))]
    assert results == [f"{RESULT} 1001 {NAME} a b c", "exit 3", "exit 199", f"{RESULT} step", "exit 0", "exit 199"]


def test_a_hostmaster_that_comes_back_is_greeted_at_once_and_told_what_it_missed(guest: RealGuest) -> None:
    guest.line("hello")
    guest.send("welcome 1 7", "set lrms none", "go")
    boot_id = guest.line("ready")[1]
    guest.restart_hostmaster()
    assert guest.line("hello")[2] == boot_id
    guest.send("welcome 1 8")
    assert guest.line("ready") == ["ready", boot_id]


def test_a_network_that_is_not_there_is_a_failure_with_its_stage(guest: RealGuest) -> None:
    guest.line("hello")
    guest.send("welcome 1 7", "set address 10.0.2.15%2F24", "set lrms none", "go")
    assert guest.line("failed")[2] == "network"


def test_without_its_credential_slurm_does_not_start(image: Image, tmp_path: Path) -> None:
    with RealGuest(image, tmp_path) as guest:
        guest.line("hello")
        guest.send("welcome 1 7", "set lrms slurm", "set controller 10.0.2.2%3A1", "go")
        assert guest.line("failed")[2] == "credential"


def test_without_a_controller_the_guest_says_that_slurm_failed(image: Image, tmp_path: Path) -> None:
    net = ["-netdev", "user,id=n,restrict=on", "-device", "virtio-net-pci,netdev=n,romfile="]
    with RealGuest(image, tmp_path, more=net) as guest:
        guest.line("hello")
        guest.send("welcome 1 7", "set lrms slurm", "set address 10.0.2.15%2F24", "set controller 10.0.2.2%3A1")
        guest.send("credential munge.key 0400 " + "QUJD" * 400, "go")
        failed = guest.line("failed")
        assert failed[2] == "lrms"
        assert failed[3].startswith("slurmd%20ended")
