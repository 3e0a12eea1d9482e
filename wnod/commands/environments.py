"""`wnod env list`: the environments of this host, and whether they can be had."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from wnod.ask import DaemonUnreachable, ask
from wnod.commands import OK, UNREACHABLE
from wnod.commands.daemons import REMEDY, add_asking_arguments, one_daemon, question
from wnod.commands.text import complain, print_json, print_table, shape
from wnod.config import load_catalogue, load_hostmaster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod env`."""
    actions = parser.add_subparsers(dest="env_action", required=True, metavar="ACTION")
    add_asking_arguments(actions.add_parser("list", help="every environment, with its largest shape"))


@question
def run(args: argparse.Namespace) -> int:
    """Show what the hostmaster offers; when it does not answer, what its catalogue says."""
    daemon = one_daemon(args.etc, "hostmaster")
    try:
        _show(ask(daemon.socket, "/environments") or [], args.json)
        return OK
    except DaemonUnreachable as error:
        _show(_from_catalogue(args.etc), args.json)
        complain(f"this is the catalogue; whether its images are good is not known: {error}\n{REMEDY}")
        return UNREACHABLE


def _show(environments: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(environments)
        return
    words = {True: "available", False: "refused", None: "unknown"}
    rows = [
        (
            e.get("name"),
            words.get(e.get("available"), "unknown"),
            shape(e.get("largest")),
            str(e.get("image") or "")[:12],
            e.get("text"),
        )
        for e in environments
    ]
    print_table(("ENVIRONMENT", "STATE", "LARGEST", "IMAGE", "WHY"), rows)


def _from_catalogue(etc: str) -> list[dict[str, Any]]:
    catalogue = load_catalogue(load_hostmaster(f"{etc}/hostmaster.yaml").catalogue)
    return [
        {
            "name": name,
            "available": None,
            "image": environment.sha256,
            "text": "",
            "largest": {
                "cpus": environment.largest.cpus,
                "memory_mib": environment.largest.memory_mib,
                "disk_mib": environment.largest.disk_mib,
            },
        }
        for name, environment in catalogue.environments.items()
    ]
