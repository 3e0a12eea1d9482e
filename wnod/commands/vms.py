"""`wnod vms`: every VM of this host."""

import argparse
import time
from collections.abc import Mapping
from typing import Any

from wnod.ask import ask
from wnod.commands import OK
from wnod.commands.daemons import add_asking_arguments, one_daemon, question
from wnod.commands.text import age, print_json, print_table, shape, user_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod vms`."""
    add_asking_arguments(parser)


@question
def run(args: argparse.Namespace) -> int:
    """Show the hostmaster's VMs."""
    vms = ask(one_daemon(args.etc, "hostmaster").socket, "/vms") or []
    if args.json:
        print_json(vms)
        return OK
    now = time.time()
    rows = [
        (
            vm.get("vm"),
            vm.get("generation"),
            vm.get("phase"),
            age(vm.get("since"), now),
            vm.get("environment"),
            shape(vm.get("shape")),
            user_name(vm.get("owner")),
            vm.get("run"),
            vm.get("lease"),
            _note(vm, now),
        )
        for vm in vms
    ]
    print_table(("VM", "GEN", "PHASE", "FOR", "ENVIRONMENT", "SHAPE", "OWNER", "RUN", "LEASE", "NOTE"), rows)
    return OK


def _note(vm: Mapping[str, Any], now: float) -> str:
    """What is to be known of it beside its phase."""
    paused, text = vm.get("paused") or {}, str(vm.get("text") or "")
    left = f", {max(0.0, paused['until'] - now):.0f} s more" if "until" in paused else ""
    return f"{text}{left}"
