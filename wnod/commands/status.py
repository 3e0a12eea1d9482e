"""`wnod status`: both daemons of this machine at a glance."""

import argparse
from collections.abc import Mapping
from typing import Any

from wnod.ask import DaemonUnreachable
from wnod.commands import OK, UNREACHABLE
from wnod.commands.daemons import REMEDY, Local, add_asking_arguments, local_daemons, question, snapshot
from wnod.commands.text import complain, mib, print_facts, print_json, tally


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod status`."""
    add_asking_arguments(parser)


@question
def run(args: argparse.Namespace) -> int:
    """Show every daemon that is configured here; exit code 3 if one of them does not answer."""
    answers = {daemon: _ask(daemon) for daemon in local_daemons(args.etc)}
    if args.json:
        print_json({daemon.role: answer for daemon, answer in answers.items()})
    else:
        for daemon, answer in answers.items():
            _show(daemon, answer)
    unreachable = [answer for answer in answers.values() if "error" in answer]
    if unreachable:
        complain(REMEDY)
    return UNREACHABLE if unreachable else OK


def _ask(daemon: Local) -> dict[str, Any]:
    try:
        return snapshot(daemon)
    except DaemonUnreachable as error:
        return {"role": daemon.role, "name": daemon.name, "error": str(error)}


def _show(daemon: Local, answer: Mapping[str, Any]) -> None:
    title = f"{daemon.role} {daemon.name}"
    if "error" in answer:
        print_facts(title, [("unreachable", answer["error"])])
    else:
        print_facts(title, _hostmaster(answer) if daemon.role == "hostmaster" else _bait(answer))


def _hostmaster(answer: Mapping[str, Any]) -> list[tuple[str, object]]:
    capacity = answer.get("capacity", {})
    vms = answer.get("vms", [])
    paused = ", ".join(str(vm.get("vm")) for vm in vms if str(vm.get("text") or "").startswith("paused"))
    refused = [e.get("name") for e in answer.get("environments", []) if not e.get("available")]
    offered = [e.get("name") for e in answer.get("environments", []) if e.get("available")]
    return [
        ("hypervisor", f"{answer.get('hypervisor')}, {answer.get('accelerator')}: {answer.get('accelerator_reason')}"),
        ("capacity", _rooms(capacity.get("free", {}), capacity.get("total", {}))),
        ("slots", answer.get("slots")),
        ("VMs", tally([str(vm.get("phase")) for vm in vms])),
        *([("paused", f"{paused} (wnod vms says why)")] if paused else []),
        *_ahead(answer),
        ("environments", ", ".join(map(str, offered)) or "none available"),
        *([("refused", f"{', '.join(map(str, refused))} (wnod env list says why)")] if refused else []),
        ("epoch", answer.get("epoch")),
    ]


def _ahead(answer: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What is made in advance, if anything is."""
    spares, golden = answer.get("spares") or [], answer.get("golden") or []
    size = mib(sum(int(state.get("mib") or 0) for state in golden))
    return [
        *([("spares", tally([str(spare.get("phase")) for spare in spares]))] if spares else []),
        *([("golden", f"{len(golden)} states, {size} of disk")] if golden else []),
    ]


def _rooms(free: Mapping[str, Any], total: Mapping[str, Any]) -> str:
    cpus = f"{free.get('cpus')} of {total.get('cpus')} cpus"
    memory = f"{mib(free.get('memory_mib'))} of {mib(total.get('memory_mib'))} memory"
    disk = f"{mib(free.get('disk_mib'))} of {mib(total.get('disk_mib'))} disk"
    return f"free: {cpus}, {memory}, {disk}"


def _bait(answer: Mapping[str, Any]) -> list[tuple[str, object]]:
    reason = f": {answer['reason']}" if answer.get("reason") else ""
    return [
        ("bait", f"{'open' if answer.get('open') else 'closed'}{reason}"),
        ("hostmaster", f"{answer.get('host')} {'connected' if answer.get('link') else 'not connected'}"),
        ("LRMS", "does not answer" if answer.get("lrms") == "away" else answer.get("lrms")),
        ("jobs", tally([str(job.get("phase")) for job in answer.get("jobs", [])])),
        ("epoch", answer.get("epoch")),
    ]
