"""`wnod vm pause|resume VM|JOB`: let the VM of a running job stand still for a while, and go on."""

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from wnod.ask import ActRefused, act, ask
from wnod.commands import OK, PROBLEM
from wnod.commands.daemons import add_asking_arguments, one_daemon, question
from wnod.commands.text import complain, plain, print_json

SEEN_WITHIN_S = 10.0
LOOK_EVERY_S = 0.1

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|m|min|h)?\Z")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PAUSE = (
    "Stop the vCPUs of the VM in which a job runs, for instance while something urgent needs the machine. For the LRMS "
    "the job goes on running, as does its time limit. The VM goes on by itself after DURATION, which the hostmaster "
    "(times.pause_limit_s) bounds so that the LRMS does not take the node for dead. For root and the hostmaster's user."
)
_RESUME = "Let a paused VM go on before its time. A VM that wnod itself paused for want of contact cannot be."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod vm`."""
    actions = parser.add_subparsers(dest="vm_action", required=True, metavar="ACTION")
    pause = actions.add_parser("pause", help="stop a running job's VM for a while", description=_PAUSE)
    pause.add_argument(
        "--for", dest="seconds", type=duration, metavar="DURATION",
        help="as in 45, 45s or 1m (default: as long as the hostmaster's times.pause_limit_s lets it)",
    )  # fmt: skip
    resume = actions.add_parser("resume", help="let it go on before its time", description=_RESUME)
    for action in (pause, resume):
        action.add_argument("vm", metavar="VM|JOB", help="a VM's name, or a job's id as in 12 or 12_3")
        add_asking_arguments(action)


def duration(text: str) -> float:
    """Seconds, as people write them."""
    match = _DURATION.match(text)
    seconds = float(match[1]) * _UNITS[match[2] or ""] if match else math.nan
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{plain(text, 40)!r} is not a duration above 0: write it as 45, 45s or 1m")
    return seconds


@question
def run(args: argparse.Namespace) -> int:
    """Ask for it, and wait until it is seen to be so; exit code 1 if it is refused or not seen in time."""
    socket = one_daemon(args.etc, "hostmaster").socket
    pausing = args.vm_action == "pause"
    arguments = {"vm": args.vm}
    if pausing and args.seconds is not None:
        arguments["for"] = str(args.seconds)
    try:
        answer = act(socket, f"/{args.vm_action}", arguments)
    except ActRefused as error:
        complain(str(error))
        return PROBLEM
    state = _wait(lambda: _state(socket, answer), "paused" if pausing else "running")
    if args.json:
        print_json({**answer, "state": state})
    else:
        print(_sentence(answer, state))
    return OK if state == ("paused" if pausing else "running") else PROBLEM


def _wait(look: Callable[[], str], wanted: str) -> str:
    end = time.monotonic() + SEEN_WITHIN_S
    while (state := look()) != wanted and time.monotonic() < end:
        time.sleep(LOOK_EVERY_S)
    return state


def _state(socket: str, answer: Mapping[str, Any]) -> str:
    vms = ask(socket, "/vms") or []
    vm = next((vm for vm in vms if vm.get("generation") == answer.get("generation")), None)
    if vm is None:
        return "gone"
    wished, seen = vm.get("paused") is not None, str(vm.get("domain") or "unknown")
    return seen if seen != "running" or not wished else "not yet paused"


def _sentence(answer: Mapping[str, Any], state: str) -> str:
    name = plain(f"{answer.get('vm')} ({answer.get('run')})")
    if state == "paused":
        until = datetime.fromtimestamp(float(answer["until"])).astimezone().strftime("%H:%M:%S")
        return f"{name} is paused and goes on by itself at {until}"
    return f"{name} goes on" if state == "running" else f"{name}: {plain(state)}; look again with: wnod vms"
