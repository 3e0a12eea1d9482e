"""`wnod vms`: every VM of this host, and the spares that wait for a lease."""

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
    socket = one_daemon(args.etc, "hostmaster").socket
    vms = ask(socket, "/vms") or []
    if args.json:
        print_json(vms)
        return OK
    now = time.time()
    rows = [
        (
            vm.get("vm"),
            vm.get("generation"),
            vm.get("phase"),
            vm.get("way"),
            age(vm.get("since"), now),
            vm.get("environment"),
            shape(vm.get("shape")),
            user_name(vm.get("owner")),
            vm.get("run"),
            vm.get("lease"),
            _note(vm, now),
        )
        for vm in [*vms, *(_spare(spare) for spare in ask(socket, "/spares") or [])]
    ]
    print_table(("VM", "GEN", "PHASE", "WAY", "FOR", "ENVIRONMENT", "SHAPE", "OWNER", "RUN", "LEASE", "NOTE"), rows)
    return OK


def _spare(spare: Mapping[str, Any]) -> dict[str, Any]:
    """A spare as a row of the same table: it has no owner, no run and no lease."""
    why = "becomes a golden state" if spare.get("purpose") == "golden" else "waits for a lease"
    return {**spare, "owner": "", "phase": f"spare, {spare.get('phase')}", "text": spare.get("text") or why}


def _note(vm: Mapping[str, Any], now: float) -> str:
    """What is to be known of it beside its phase."""
    paused, text = vm.get("paused") or {}, str(vm.get("text") or "")
    left = f", {max(0.0, paused['until'] - now):.0f} s more" if "until" in paused else ""
    return f"{text}{left}"
