"""A real guest at standby, saved and started again twice from one state: what the copies share, and what they do not.

QEMU's own migration to and from a file, which is what libvirt's save and restore are made of.
"""

import base64
import os
import time
from pathlib import Path

import pytest

from tests.contract.guest.vm import ACCOUNT, RealGuest
from tests.real_image import image_to_boot
from wnod.image import manifest
from wnod.image.manifest import Image

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="boots a guest: run as root, as `make test` does"),
]
# The kernel's generator starts anew by itself after half its uptime, as long as that is young: at 10 s it has just
# done so when it was asked, and what a copy draws within the next seconds its twin draws too, but for the seed.
STAND_IN = """
numbers() { head -c 16 /dev/urandom | base64; }
prepare_lrms() {
    echo "user program: at standby: $(ls "$RUN/credential" | wc -l) credentials"
    until read -r up _ </proc/uptime && [ "${up%.*}" -ge 10 ]; do sleep 0.1; done
    numbers >/dev/null
}
start_lrms() {
    echo "user program: random $(numbers) $(numbers) $(numbers) $(numbers)"
    echo "user program: clock $(date +%s)"
    serve
}
"""


@pytest.fixture(scope="module")
def image() -> Image:
    image = manifest.load(image_to_boot())
    manifest.verify(image)
    return image


@pytest.fixture
def saved(image: Image, tmp_path: Path) -> Path:
    """The directory of a guest that was saved at standby."""
    with RealGuest(image, tmp_path, {"lrms-slurm.sh": STAND_IN}, save=True) as guest:
        guest.line("hello")
        guest.send("welcome 1 7", "set lrms slurm", f"time {time.time():.3f}", "standby")
        assert guest.line("standby")[1:]
        guest.save(tmp_path / "memory")
    return tmp_path


def seed() -> str:
    return "seed " + base64.b64encode(os.urandom(32)).decode()


def completed(image: Image, saved: Path, number: int, *lines: str) -> list[str]:
    """What a copy of the saved guest says on its console, once it is ready."""
    directory = saved / str(number)
    directory.mkdir()
    with RealGuest(image, directory, disk=saved / "vdb.img", memory=saved / "memory") as guest:
        guest.send("welcome 1 8", *lines, ACCOUNT, "credential munge.key 0400 c2VjcmV0", "go")
        guest.line("ready")
        console = guest.wait_for("user program: clock")
    return [line.strip() for line in console.splitlines() if line.startswith("user program:")]


def test_two_copies_of_one_saved_guest_have_different_random_numbers_and_the_right_time(
    image: Image, saved: Path
) -> None:
    numbers = []
    for number in range(2):
        begin = time.time()
        random, clock = completed(image, saved, number, f"time {begin:.3f}", seed())
        numbers += random.split(" ")[3:]
        assert begin - 2 < int(clock.split(" ")[-1]) < time.time() + 2
    assert len(set(numbers)) == 8


def test_nothing_secret_is_in_a_guest_at_standby(saved: Path) -> None:
    console = (saved / "console").read_text(errors="replace")
    assert "user program: at standby: 0 credentials" in console


def test_a_copy_without_a_seed_of_its_own_does_not_go(image: Image, saved: Path) -> None:
    directory = saved / "copy"
    directory.mkdir()
    with RealGuest(image, directory, disk=saved / "vdb.img", memory=saved / "memory") as guest:
        guest.send("welcome 1 8", f"time {time.time():.3f}", "go")
        assert guest.line("failed")[2] == "credential"


def test_a_guest_that_stood_still_goes_on_when_it_is_told_to(image: Image, tmp_path: Path) -> None:
    with RealGuest(image, tmp_path, {"lrms-slurm.sh": STAND_IN}, save=True) as guest:
        guest.line("hello")
        guest.send("welcome 1 7", "set lrms slurm", f"time {time.time():.3f}", "standby")
        boot_id = guest.line("standby")[1]
        guest.pause()
        guest.send("welcome 1 8", f"time {time.time():.3f}", seed(), "go")  # waits in its port
        guest.unpause()
        assert guest.line("ready") == ["ready", boot_id]


SLURM_CONF = """ClusterName=wnod
SlurmctldHost=ctl(10.0.2.99)
AuthType=auth/munge
SlurmdSpoolDir=/var/spool/slurmd
MpiDefault=none
SlurmUser=root
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MaxNodeCount=8
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
"""


def test_the_real_slurmd_is_up_at_standby_without_a_key_and_is_given_up_where_no_controller_answers(
    image: Image, tmp_path: Path
) -> None:
    file = base64.b64encode(SLURM_CONF.encode()).decode()
    cgroup = base64.b64encode(b"CgroupPlugin=autodetect\nIgnoreSystemd=yes\n").decode()
    network = ["-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0"]
    with RealGuest(image, tmp_path, more=network, save=True) as guest:
        guest.line("hello")
        slurm = ["set lrms slurm", "set address 10.0.2.15%2F24", "set controller 10.0.2.99%3A6817", "set cpus 1"]
        files = [f"file slurm.conf 1 1 {file}", f"file cgroup.conf 1 1 {cgroup}", "file plugstack.conf 1 1 -"]
        guest.send("welcome 1 7", f"time {time.time():.3f}", *slurm, *files, "standby")
        guest.line("standby")
        assert "stage slurmd" in guest.said()
        assert "error" not in guest.said()
        guest.send(
            "welcome 1 8", f"time {time.time():.3f}", seed(), "credential munge.key 0400 " + "c2VjcmV0" * 8, "go"
        )
        guest.wait_for("slurmd of standby: late")
        guest.wait_for("failed to fetch remote configs")  # by another slurmd
