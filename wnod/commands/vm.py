"""`wnod vm`: let the VM of a running job stand still and go on, and have a VM kept for somebody to look at."""

import argparse
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from wnod.ask import ActRefused, act, ask
from wnod.commands import OK, PROBLEM
from wnod.commands.daemons import add_asking_arguments, one_daemon, question
from wnod.commands.text import age, complain, mib, plain, print_json, print_table, user_name

SEEN_WITHIN_S = 10.0
LOOK_EVERY_S = 0.1

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|m|min|h)?\Z")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PAUSE = (
    "Stop the vCPUs of the VM in which a job runs, for instance while something urgent needs the machine. For the LRMS "
    "the job goes on running, as does its time limit. The VM goes on by itself after DURATION, which the hostmaster "
    "(times.pause_limit_s) bounds so that the LRMS does not take the node for dead. For root and the hostmaster's user."
)
_KEEP = (
    "Put the VM into quarantine when it ends, instead of destroying it: memory (if it can be saved) and disk stay in "
    "the hostmaster's state directory until `wnod vm drop` or quarantine.keep_days. The job itself is not touched: to "
    "end it now, cancel it in the LRMS. For root and the hostmaster's user."
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
    keep = actions.add_parser("keep", help="keep it when it ends, to be looked at", description=_KEEP)
    keep.add_argument("--why", required=True, metavar="TEXT", help="for whoever finds it, as in 'ticket 4711'")
    for action in (pause, resume, keep):
        action.add_argument("vm", metavar="VM|JOB", help="a VM's name, or a job's id as in 12 or 12_3")
    kept = actions.add_parser("kept", help="what is in quarantine")
    drop = actions.add_parser("drop", help="remove one from quarantine, for good")
    drop.add_argument("name", metavar="NAME", help="as `wnod vm kept` shows it")
    for action in (pause, resume, keep, kept, drop):
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
    """Do what is asked; exit code 1 if the daemon will not."""
    socket = one_daemon(args.etc, "hostmaster").socket
    actions = {"pause": _hold, "resume": _hold, "keep": _keep, "kept": _kept, "drop": _drop}
    try:
        return actions[args.vm_action](socket, args)
    except ActRefused as error:
        complain(str(error))
        return PROBLEM


def _keep(socket: str, args: argparse.Namespace) -> int:
    wish = {"vm": args.vm, "why": args.why}
    return _done(socket, "/keep", wish, args, "{vm} ({run}) goes into quarantine when it ends")


def _kept(socket: str, args: argparse.Namespace) -> int:
    rows = ask(socket, "/quarantine") or []
    if args.json:
        print_json(rows)
        return OK
    now = time.time()
    cells = [
        (one.get("name"), one.get("run"), user_name(one.get("owner")), one.get("environment"), age(one.get("at"), now),
         age(now, float(one.get("until") or now)), mib(one.get("mib")), one.get("by"), one.get("why"))
        for one in rows
    ]  # fmt: skip
    print_table(("NAME", "RUN", "OWNER", "ENVIRONMENT", "SINCE", "GOES IN", "SIZE", "BY", "WHY"), cells)
    return OK


def _drop(socket: str, args: argparse.Namespace) -> int:
    return _done(socket, "/drop", {"name": args.name}, args, "{name} is dropped")


def _done(socket: str, deed: str, arguments: dict[str, str], args: argparse.Namespace, sentence: str) -> int:
    """Have it done; the sentence's words in braces are the answer's."""
    answer = act(socket, deed, arguments)
    words = defaultdict(lambda: plain(None), {word: plain(value) for word, value in answer.items()})
    return _say(args, answer, sentence.format_map(words))


def _say(args: argparse.Namespace, answer: Mapping[str, Any], sentence: str, code: int = OK) -> int:
    """What was done: the daemon's answer as it is, or a sentence."""
    if args.json:
        print_json(answer)
    else:
        print(sentence)
    return code


def _hold(socket: str, args: argparse.Namespace) -> int:
    """Ask for it, and wait until it is seen to be so."""
    pausing = args.vm_action == "pause"
    arguments = {"vm": args.vm}
    if pausing and args.seconds is not None:
        arguments["for"] = str(args.seconds)
    answer = act(socket, f"/{args.vm_action}", arguments)
    state = _wait(lambda: _state(socket, answer), "paused" if pausing else "running")
    reached = state == ("paused" if pausing else "running")
    return _say(args, {**answer, "state": state}, _sentence(answer, state, reached), OK if reached else PROBLEM)


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


def _sentence(answer: Mapping[str, Any], state: str, reached: bool) -> str:
    name = plain(f"{answer.get('vm')} ({answer.get('run')})")
    if not reached:
        return f"{name}: {plain(state)}; look again with: wnod vms"
    if state == "paused":
        until = datetime.fromtimestamp(float(answer["until"])).astimezone().strftime("%H:%M:%S")
        return f"{name} is paused and goes on by itself at {until}"
    return f"{name} goes on"
