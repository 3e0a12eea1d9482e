"""job_submit.lua run by a Lua interpreter with a stand-in for Slurm's own module."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from deploy.lab.slurmconf import FRAGMENT

LUA = shutil.which("lua5.1") or shutil.which("lua5.3") or shutil.which("lua")
DRIVER = """
said = ""
slurm = { SUCCESS = 0, ERROR = -1, ESLURM_ACCESS_DENIED = 2002, log_user = function(text) said = text end }
slurm.log_info = function(...) logged = string.format(...) end
dofile(arg[1])
wnod_slurm_uid = 64030
"""
DENIED = "2002"
PARTITIONS = "{ batch = { flag_default = 1 }, vwn = { flag_default = 0 }, plain = { flag_default = 0 } }"

pytestmark = pytest.mark.skipif(LUA is None, reason="no Lua interpreter (apt-get install lua5.3)")


def lua(program: str) -> list[str]:
    """Runs `program` after job_submit.lua; returns the lines it printed."""
    assert LUA is not None
    script = f"{DRIVER}\n{program}"
    argv = [LUA, "-e", f"arg = {{ {json.dumps(str(FRAGMENT / 'job_submit.lua'))} }}\n{script}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def submit(desc: str, uid: int = 7701) -> list[str]:
    return lua(f"print(slurm_job_submit({desc}, {PARTITIONS}, {uid})) print(said)")


def modify(desc: str, job: str, uid: int = 7701) -> str:
    return lua(f"print(slurm_job_modify({desc}, {job}, {PARTITIONS}, {uid}))")[0]


@pytest.mark.parametrize(
    "desc",
    [
        '{ script = "#!/bin/sh" }',
        '{ script = "#!/bin/sh", min_nodes = 1 }',
        '{ script = "#!/bin/sh", min_nodes = 0xfffffffe }',
        '{ partition = "plain", min_nodes = 4 }',
        '{ script = "#!/bin/sh", dependency = "afterok:3:4,afterany:5" }',
    ],
)
def test_accepts(desc: str) -> None:
    assert submit(desc)[0] == "0"


@pytest.mark.parametrize(
    ("desc", "remedy"),
    [
        ('{ script = "x", partition = "vwn" }', "name an environment with -C"),
        ('{ script = "x", partition = "batch,vwn" }', "name an environment with -C"),
        ('{ partition = "batch" }', "use sbatch"),
        ("{}", "use sbatch"),
        ("{}", "heterogeneous"),
        ('{ script = "x", min_nodes = 2 }', "-N 1"),
        ('{ script = "x", dependency = "afterok:3?afternotok:3" }', "afterany"),
    ],
)
def test_refuses_with_a_remedy(desc: str, remedy: str) -> None:
    code, said = submit(desc)
    assert code == "-1"
    assert remedy in said


@pytest.mark.parametrize("uid", [0, 64030])
def test_the_bait_may_use_the_vm_partition(uid: int) -> None:
    assert submit('{ script = "x", partition = "vwn" }', uid)[0] == "0"
    assert modify('{ partition = "vwn" }', '{ partition = "batch" }', uid) == "0"


def test_a_bait_with_an_account_of_its_own_may_use_the_vm_partition_when_the_site_says_so() -> None:
    """With slurmdbd baits need not run as SlurmUser (docs/install.md), and slurmctld asks this script all the same."""
    send, bound = '{ partition = "vwn", req_nodes = "vm1" }', '{ partition = "vwn" }'
    for uids, code in (("{ 995 }", "0"), ("{ 7, 995 }", "0"), ("{}", "2002"), ("{ 994 }", "2002")):
        for job in ('{ partition = "batch" }', bound):
            call = f"slurm_job_modify({send}, {job}, {PARTITIONS}, 995)"
            assert lua(f"wnod_trusted_uids = {uids} print({call})") == [code]


def test_login_environment_waits_for_the_vm() -> None:
    environment = '{ SLURM_GET_USER_ENV = "1", HOME = "/home/alice" }'
    printed = lua(
        f'd = {{ script = "x", environment = {environment} }} slurm_job_submit(d, {PARTITIONS}, 7701)'
        "print(d.environment.SLURM_GET_USER_ENV, d.environment.WNOD_GET_USER_ENV, d.environment.HOME)"
    )
    assert printed[0].split() == ["0", "1", "/home/alice"]


def test_a_job_submitted_inside_a_job_does_not_inherit_its_restart_count() -> None:
    """The starter reads it there, and the bait hands back a run that Slurm does not have: two minutes for nothing."""
    printed = lua(
        f'd = {{ script = "x", environment = {{ SLURM_RESTART_COUNT = "1" }} }} slurm_job_submit(d, {PARTITIONS}, 7701)'
        f'e = {{ script = "x", environment = {{}} }} slurm_job_submit(e, {PARTITIONS}, 7701)'
        "print(d.environment.SLURM_RESTART_COUNT, e.environment.SLURM_RESTART_COUNT)"
    )
    assert printed[0].split() == ["0", "nil"]


@pytest.mark.parametrize("change", ['partition = "batch"', 'req_nodes = ""', 'features = "x"', 'exc_nodes = "vm1"'])
def test_a_bound_job_keeps_its_place(change: str) -> None:
    assert modify(f"{{ {change} }}", '{ partition = "vwn" }') == DENIED


def test_why_a_change_is_refused_is_in_slurmctlds_log() -> None:
    """Slurm sends scontrol no text of ours; "Unspecified error" told its user not even that it was not allowed."""
    program = f'print(slurm_job_modify({{ partition = "vwn" }}, {{ partition = "batch" }}, {PARTITIONS}, 7701), logged)'
    assert lua(program)[0].split(None, 1) == [
        DENIED,
        "wnod: a user's change of a job is refused: partition vwn is not for users",
    ]


@pytest.mark.parametrize("change", ['comment = "mine"', "time_limit = 5", "priority = 0"])
def test_a_bound_job_may_change_otherwise(change: str) -> None:
    assert modify(f"{{ {change} }}", '{ partition = "vwn" }') == "0"


def test_an_unbound_job_may_change_its_features() -> None:
    assert modify('{ features = "debian12-sci" }', '{ partition = "batch" }') == "0"


def test_a_job_cannot_be_made_to_wait_for_a_failure_later() -> None:
    """A parked job is in SPECIAL_EXIT, which Slurm counts as failed: afternotok would be fulfilled at once."""
    assert modify('{ dependency = "afternotok:3" }', '{ partition = "batch" }') == DENIED
    assert modify('{ dependency = "afterok:3" }', '{ partition = "batch" }') == "0"


def test_a_job_that_submit_never_looked_at_cannot_come_to_a_bait() -> None:
    """Submitted elsewhere with --export=NONE and moved, it had its user's login shell run on the bait."""
    assert modify('{ partition = "batch" }', '{ partition = "plain" }') == DENIED
    assert modify('{ partition = "plain,batch" }', '{ partition = "plain" }') == DENIED
    assert modify('{ partition = "batch" }', '{ partition = "batch" }') == "0"
    assert modify('{ partition = "plain" }', '{ partition = "batch" }') == "0"
    assert modify('{ partition = "batch" }', '{ partition = "plain" }', 0) == "0"


PARKED = 'priority = 0, admin_comment = "wnod:lease=1f:home=batch"'


@pytest.mark.parametrize(
    ("change", "job", "comment"),
    [
        ("priority = 0", f"{PARKED}", "[wnod-hold]"),
        ("priority = 0", f'{PARKED}, comment = "mine"', "[wnod-hold] mine"),
        ("priority = 0", f'{PARKED}, comment = "[wnod-hold] mine"', "[wnod-hold] mine"),
        ("priority = 0xffffffff", f'{PARKED}, comment = "[wnod-hold] mine"', "mine"),
        ("priority = 0xffffffff", 'priority = 0, comment = "[wnod-hold]"', ""),
        ("priority = 0xffffffff", f'{PARKED}, comment = "mine"', "nil"),
        ("priority = 0xfffffffe", f'{PARKED}, comment = "mine"', "nil"),
        ("priority = 0", 'priority = 9, admin_comment = "wnod:lease=1f"', "nil"),
        ("priority = 0", "priority = 0", "nil"),
    ],
)
@pytest.mark.parametrize("uid", [7701, 0])
def test_a_hold_on_a_parked_job_is_marked_until_somebody_releases_it(
    change: str, job: str, comment: str, uid: int
) -> None:
    program = f"d = {{ {change} }} slurm_job_modify(d, {{ {job} }}, {PARTITIONS}, {uid}) print(d.comment)"
    assert lua(program) == [comment]


def test_a_parked_job_cannot_be_put_off() -> None:
    """The bait, which has to say when it may start, would overwrite it without a word."""
    assert modify("{ begin_time = 1796056104 }", f"{{ {PARKED} }}") == DENIED
    assert modify("{ begin_time = 0, time_limit = 5 }", f"{{ {PARKED} }}") == "0"
    assert modify("{ begin_time = 1796056104 }", '{ partition = "batch", priority = 9 }') == "0"
