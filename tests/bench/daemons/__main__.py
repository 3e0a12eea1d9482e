"""How fast the daemons are, beside what the same machine can do without them.

python -m tests.bench.daemons [--rounds N] [--seconds S] [--only PART ...] [--realtime] [--out FILE]

`--realtime` takes the processor from everybody else while a part runs (root; SCHED_FIFO): for a machine that others
use at the same time. The result says which it was.
"""

import argparse
import json
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.daemons import commits, hook, host_site, restart, thousand
from tests.bench.daemons.common import ROOT, machine, median, peer, result_of
from tests.bench.daemons.srvmsg import certificates
from tests.bench.daemons.verdicts import table

VMS = 1000
OPEN_FILES = 16384
"""As the systemd units give the daemons."""


def srvmsg(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The link, and its two floors, in turns."""
    certificates(directory / "tls")
    ways = {
        "srvmsg": ("tests.bench.daemons.srvmsg", "host", "bait"),
        "twisted_tls": ("tests.bench.daemons.tls_floor", "twisted-server", "twisted-client"),
        "blocking_tls": ("tests.bench.daemons.tls_floor", "blocking-server", "blocking-client"),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, (module, server, client) in ways.items():
            with peer(module, server, str(directory / "tls")) as listening:
                port = listening.line()
                runs[name].append(result_of(module, client, str(directory / "tls"), port, str(args.seconds)))
    return {
        name: {"requests_per_s": median([one["requests_per_s"] for one in results]),
               "p99_ms": median([one["p99_ms"] for one in results]), "runs": results}
        for name, results in runs.items()
    }  # fmt: skip


def interceptions(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Five hundred at once."""
    return hook.run(args.rounds, directory / "hook")


def thousand_vms(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A host with many VMs."""
    port = _free_port()
    config = host_site.lay_out(directory, VMS + 1, port)
    return thousand.run(config, VMS + 1, port, args.idle)


def restarts(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """kill -9 with a thousand leases."""
    return restart.run(host_site.lay_out(directory, VMS + 1, _free_port()), VMS, args.rounds)


def journal(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Commits."""
    return commits.run(directory)


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "journal": journal,
    "srvmsg": srvmsg,
    "interceptions": interceptions,
    "thousand_vms": thousand_vms,
    "restart": restarts,
}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.daemons", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of requests per second")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds in which nothing happens to the 1 000 VMs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/daemons.json")
    return parser.parse_args()


def main() -> None:
    """Run, write, show. Parts that are not run keep their earlier figures, with their own machine's facts."""
    args = _arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    for name in args.only:
        facts = machine()
        directory = Path(tempfile.mkdtemp(prefix="daemons-", dir=args.out.parent))  # the disk that builds use, no tmpfs
        try:
            results[name] = {**PARTS[name](directory, args), "machine": facts}
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
