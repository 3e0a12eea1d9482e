"""`wnod explain JOB`: where a job is, and why, step by step."""

import argparse
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from wnod.ask import DaemonUnreachable, ask
from wnod.commands import OK, PROBLEM, UNREACHABLE
from wnod.commands.daemons import REMEDY, Local, add_asking_arguments, local_daemons, question
from wnod.commands.text import complain, plain, print_json

_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+\[\]-]{0,63}\Z")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod explain`."""
    parser.add_argument(
        "job", type=job_id, metavar="JOB", help="the LRMS's job id, as in 12 or, for an array task, 12_3"
    )
    add_asking_arguments(parser)


def job_id(text: str) -> str:
    """A job id as users write it; ValueError kin for anything else, before a daemon is bothered with it."""
    if not _JOB.match(text):
        raise argparse.ArgumentTypeError(f"{plain(text, 40)!r} is not a job id: write it as 12 or 12_3")
    return text


@question
def run(args: argparse.Namespace) -> int:
    """Tell the job's story; exit code 1 if nobody here has met it, 3 if a daemon that may have does not answer."""
    daemons = local_daemons(args.etc)
    answers, silent = _ask_all(daemons, args.job)
    if answers:
        _show(told(answers), args.json)
    for error in silent:
        complain(f"{error}\n{REMEDY}")
    if answers or silent:
        return UNREACHABLE if silent else OK
    complain(
        f"{' and '.join(daemon.name for daemon in daemons)} have never met job {args.job}: it waits in the LRMS "
        "(squeue says why), runs on an ordinary node, or came to another bait"
    )
    return PROBLEM


def _ask_all(daemons: Sequence[Local], job: str) -> tuple[dict[Local, dict[str, Any]], list[DaemonUnreachable]]:
    answers: dict[Local, dict[str, Any]] = {}
    silent: list[DaemonUnreachable] = []
    for daemon in daemons:
        try:
            answer = ask(daemon.socket, "/explain", job=job)
        except DaemonUnreachable as error:
            silent.append(error)
        else:
            answers.update({daemon: answer} if isinstance(answer, dict) else {})
    return answers, silent


def told(answers: Mapping[Local, Mapping[str, Any]]) -> dict[str, Any]:
    """One story of what the daemons tell: the bait's summary, since it follows the job, and all steps by time."""
    summary = min(answers, key=lambda daemon: daemon.role)
    steps = [{**step, "who": daemon.role} for daemon, answer in answers.items() for step in answer.get("steps", [])]
    return {**answers[summary], "steps": sorted(steps, key=lambda step: float(step.get("at", 0)))}


def _show(story: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(story)
        return
    print(f"job {plain(story.get('job'))}: {plain(story.get('text'), 1024)}")
    print_steps(story["steps"])


def print_steps(steps: Sequence[Mapping[str, Any]]) -> None:
    """Each step with its local time and what passed since the step before."""
    before: float | None = None
    for step in steps:
        at = float(step.get("at", 0))
        clock = datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        passed = "" if before is None else f"+{at - before:.2f} s"
        print(f"  {clock}  {passed:>10}  {plain(step.get('who')):<10}  {plain(step.get('text'), 1024)}")
        before = at
