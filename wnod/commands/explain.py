"""`wnod explain JOB`: where a job is, and why, step by step."""

import argparse
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from wnod.commands import OK, PROBLEM
from wnod.commands.daemons import add_asking_arguments, one_daemon, question
from wnod.commands.text import complain, plain, print_json
from wnod.status import ask

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
    """Tell the job's story; exit code 1 if the bait here has never met it."""
    bait = one_daemon(args.etc, "bait")
    answer = ask(bait.socket, "/explain", job=args.job)
    if answer is None:
        complain(
            f"bait {bait.name} has never met job {args.job}: it waits in the LRMS (squeue says why), "
            "runs on an ordinary node, or came to another bait"
        )
        return PROBLEM
    if args.json:
        print_json(answer)
    else:
        print(f"job {plain(answer.get('job'))}: {plain(answer.get('text'), 1024)}")
        print_steps(answer.get("steps", []))
    return OK


def print_steps(steps: Sequence[Mapping[str, Any]]) -> None:
    """Each step with its local time and what passed since the step before."""
    before: float | None = None
    for step in steps:
        at = float(step.get("at", 0))
        clock = datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        passed = "" if before is None else f"+{at - before:.2f} s"
        print(f"  {clock}  {passed:>10}  {plain(step.get('text'), 1024)}")
        before = at
