"""`wnod jobs`: every job this host's bait follows."""

import argparse
import time

from wnod.ask import ask
from wnod.commands import OK
from wnod.commands.daemons import add_asking_arguments, one_daemon, question
from wnod.commands.text import age, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod jobs`."""
    add_asking_arguments(parser)
    parser.add_argument("--all", action="store_true", help="also the last jobs that are over")


@question
def run(args: argparse.Namespace) -> int:
    """Show the bait's jobs."""
    socket = one_daemon(args.etc, "bait").socket
    jobs = ask(socket, "/jobs") or []
    if args.all:
        jobs = [*(ask(socket, "/past") or []), *jobs]
    if args.json:
        print_json(jobs)
        return OK
    now = time.time()
    rows = [
        (
            job.get("job"),
            job.get("user"),
            job.get("environment"),
            job.get("phase"),
            age(job.get("since"), now),
            job.get("vm"),
            job.get("generation"),
            job.get("text"),
        )
        for job in jobs
    ]
    print_table(("JOB", "USER", "ENVIRONMENT", "PHASE", "FOR", "VM", "GEN", "WHY"), rows)
    return OK
