"""Can the bait talk to Slurm, and is Slurm set up as the move needs it?"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence

from wnod.config import BaitLrms, HostmasterConfig
from wnod.config.hostmaster import PAUSE_PART
from wnod.doctor.finding import CommandFailed, Finding, Verdict, output_of

COMMANDS = ("scontrol", "squeue", "sinfo")
MOVE_CODE, BACK_CODE = 199, 198
"""The starter's exit codes by which Slurm requeues a job held, and not held."""
CRED_EXPIRE_S = 120.0
"""As Slurm is shipped."""
Ask = Callable[[Sequence[str]], str]


def check_commands(config: BaitLrms) -> Iterator[Finding]:
    """The commands are where the configuration says."""
    path = config.commands or os.environ.get("PATH", "")
    missing = [name for name in COMMANDS if not shutil.which(name, path=path)]
    if missing:
        remedy = "apt-get install slurm-client, or set lrms.commands to their directory"
        yield Finding("slurm commands", Verdict.BAD, f"not found in {path}: {', '.join(missing)}", remedy)
    else:
        yield Finding("slurm commands", Verdict.OK, "found")


def check_settings(config: BaitLrms, ask: Ask = output_of) -> Iterator[Finding]:
    """The controller answers and its configuration allows the move of a job into a VM."""
    try:
        settings = parse_settings(ask([_scontrol(config), "show", "config"]))
    except CommandFailed as error:
        remedy = "is slurmctld up? is munged running here with the cluster's key?"
        yield Finding("slurm", Verdict.BAD, f"the controller does not answer: {error}", remedy)
        return
    problems = list(wrong_settings(settings, config))
    yield from problems or [Finding("slurm", Verdict.OK, f"cluster {settings.get('ClusterName')} is set up for moves")]


def check_fence(host: HostmasterConfig, config: BaitLrms, ask: Ask = output_of) -> Iterator[Finding]:
    """A VM that lost the controller stands still before Slurm starts its job elsewhere (docs/decisions/0008)."""
    try:
        words = parse_settings(ask([_scontrol(config), "show", "config"])).get("SlurmdTimeout", "").split()
    except CommandFailed:
        return  # check_settings says so
    times, limit = host.times, float(words[0]) if words and words[0].isdigit() else 0.0
    if limit == 0.0:
        yield Finding("fence", Verdict.OK, "SlurmdTimeout is off: Slurm gives no silent node up")
    elif times.lrms_gives_up_s < limit or times.fence_resume_s > limit * 2 / 3:
        text = (
            f"SlurmdTimeout is {limit:.0f} s; times.lrms_gives_up_s is {times.lrms_gives_up_s:g}, "
            f"times.fence_resume_s is {times.fence_resume_s:g}: a job could run twice when this host is cut off"
        )
        remedy = f"lrms_gives_up_s: {limit:.0f}, fence_resume_s at most {limit * 2 / 3:.0f}, fence_pause_s below that"
        yield Finding("fence", Verdict.BAD, text, remedy)
    elif times.longest_pause_s > PAUSE_PART * limit:
        text = f"SlurmdTimeout is {limit:.0f} s: `wnod vm pause` for {times.longest_pause_s:g} s may cost a job"
        yield Finding("fence", Verdict.WARN, text, f"times.pause_limit_s: {PAUSE_PART * limit:.0f}")
    else:
        yield Finding("fence", Verdict.OK, f"paused after {times.fence_pause_s:g} s, SlurmdTimeout is {limit:.0f} s")


def check_spread(bait: str, config: BaitLrms, ask: Ask = output_of) -> Iterator[Finding]:
    """Jobs that come together go to different hosts, each of which makes one VM, and not all to the first."""
    try:
        node = ask([_scontrol(config), "-o", "show", "node", bait])
        partitions = ask([_scontrol(config), "-o", "show", "partition"])
        settings = parse_settings(ask([_scontrol(config), "show", "config"]))
    except CommandFailed:
        return  # check_settings says so, or that the node is not there
    found = [dict(_WORD.findall(line)) for line in partitions.splitlines()]
    of_bait = dict(_WORD.findall(node)).get("Partitions", "").split(",")
    packed = [one["PartitionName"] for one in found if one.get("PartitionName") in of_bait and _is_packed(one)]
    if packed and "CR_LLN" not in settings.get("SelectTypeParameters", "").split(","):
        text = f"partition {', '.join(packed)} fills one bait before the next: jobs are handed back by full hosts"
        yield Finding("spread", Verdict.WARN, text, "LLN=YES in the partition's line of slurm.conf")
    else:
        yield Finding("spread", Verdict.OK, "jobs that come together go to different baits")


_WORD = re.compile(r"(\w+)=(\S*)")


def _is_packed(partition: dict[str, str]) -> bool:
    return partition.get("LLN") == "NO" and partition.get("TotalNodes") != "1"


def _scontrol(config: BaitLrms) -> str:
    return f"{config.commands}/scontrol" if config.commands else "scontrol"


def parse_settings(text: str) -> dict[str, str]:
    """`scontrol show config` as name to value."""
    return {name: value.strip() for name, value in re.findall(r"^(\w+)\s+= (.*)$", text, re.MULTILINE)}


def wrong_settings(settings: dict[str, str], config: BaitLrms) -> Iterator[Finding]:
    """What keeps jobs from moving."""
    if settings.get("ClusterName") != config.cluster:
        text = f"the controller's cluster is {settings.get('ClusterName')!r}, lrms.cluster is {config.cluster!r}"
        yield Finding("slurm", Verdict.BAD, text, "set lrms.cluster to the ClusterName of slurm.conf")
    for name, code, what in (("RequeueExitHold", MOVE_CODE, "parked"), ("RequeueExit", BACK_CODE, "given back")):
        if not _has_code(settings.get(name, ""), code):
            text = f"{name} is {settings.get(name)!r}: jobs that are {what} would fail instead"
            yield Finding("slurm", Verdict.BAD, text, f"{name}={code} in slurm.conf, then scontrol reconfigure")
    if settings.get("MaxNodeCount", "0") in ("", "0", "1"):
        text = f"MaxNodeCount is {settings.get('MaxNodeCount')!r}: VMs cannot join as dynamic nodes"
        yield Finding("slurm", Verdict.BAD, text, "MaxNodeCount=1024 in slurm.conf and restart slurmctld")
    yield from _guards(settings)
    yield from _pace(settings, config)


def _guards(settings: dict[str, str]) -> Iterator[Finding]:
    """What moves work without, until somebody does what they keep from happening."""
    if "lua" not in settings.get("JobSubmitPlugins", "").replace("job_submit/", "").split(","):
        text = f"JobSubmitPlugins is {settings.get('JobSubmitPlugins')!r}: users' login shells could run on this host"
        yield Finding("slurm", Verdict.WARN, text, "JobSubmitPlugins=lua, with job_submit.lua beside slurm.conf")
    if "nohold_on_prolog_fail" not in settings.get("SchedulerParameters", "").split(","):
        text = "a prolog that fails, in a VM whose file systems do not mount, would leave its job held"
        yield Finding("slurm", Verdict.WARN, text, "add nohold_on_prolog_fail to SchedulerParameters in slurm.conf")


def _pace(settings: dict[str, str], config: BaitLrms) -> Iterator[Finding]:
    """A job that Slurm takes off a VM which it does not reach must wait until its bait has seen that (0012)."""
    found = re.search(r"cred_expire=(\d+)", settings.get("AuthInfo", ""))
    waits_s, longest_s = float(found[1]) if found else CRED_EXPIRE_S, config.running_s * 1.5
    if waits_s <= longest_s:
        text = (
            f"AuthInfo has cred_expire={waits_s:.0f}, which is how long a requeued job waits; its bait looks up to "
            f"{longest_s:g} s apart: it could start elsewhere while it still runs in a VM that was cut off"
        )
        remedy = f"lrms.running_s at most {waits_s / 2:g}, or a longer cred_expire in slurm.conf"
        yield Finding("slurm", Verdict.WARN, text, remedy)


def _has_code(codes: str, wanted: int) -> bool:
    """Exit codes as slurm.conf has them: `1,190-199`."""
    for part in re.split(r"[,\s]+", codes):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit() and int(first) <= wanted <= int(last or first):
            return True
    return False
