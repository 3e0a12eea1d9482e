"""Which daemons this machine has, and what they answer: the first step of every command that asks them."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from wnod.ask import DaemonUnreachable, ask, socket_path
from wnod.commands.text import complain
from wnod.config import BaitConfig, ConfigMistakes, HostmasterConfig, load_bait, load_hostmaster

ETC = "/etc/wnod"
Role = Literal["hostmaster", "bait"]


@dataclass(frozen=True, slots=True)
class Local:
    """A daemon of this machine, known by its configuration file."""

    role: Role
    name: str
    runtime: str

    @property
    def socket(self) -> str:
        """Where it answers."""
        return socket_path(self.runtime)


class NoDaemonsHere(Exception):
    """There is nothing to ask. The text says where was looked."""


def add_asking_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that asks daemons."""
    parser.add_argument("--etc", default=ETC, metavar="DIR", help="where the configuration is (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def local_daemons(etc: str) -> list[Local]:
    """The daemons whose configuration is there. Raises NoDaemonsHere, or ConfigMistakes for a file that is wrong."""
    found: list[Local] = []
    hostmaster, bait = f"{etc}/hostmaster.yaml", f"{etc}/bait.yaml"
    if _exists(hostmaster):
        found.append(_hostmaster(load_hostmaster(hostmaster)))
    if _exists(bait):
        found.append(_bait(load_bait(bait)))
    if not found:
        raise NoDaemonsHere(f"neither hostmaster.yaml nor bait.yaml is in {etc!r}: name their directory with --etc")
    return found


def _exists(path: str) -> bool:
    return "\0" not in path and os.path.lexists(path)


def _hostmaster(config: HostmasterConfig) -> Local:
    return Local("hostmaster", config.host, config.runtime)


def _bait(config: BaitConfig) -> Local:
    return Local("bait", config.bait, config.runtime)


def one_daemon(etc: str, role: Role) -> Local:
    """This machine's daemon of that role. Raises NoDaemonsHere or ConfigMistakes."""
    for daemon in local_daemons(etc):
        if daemon.role == role:
            return daemon
    raise NoDaemonsHere(f"no {role}.yaml is in {etc!r}: this command asks the {role}; name its directory with --etc")


def question(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Word the errors all asking commands share: exit code 1 for configuration, 2 for nobody to ask, 3 unreachable."""

    def run(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except ConfigMistakes as mistakes:
            complain(str(mistakes))
            return 1
        except NoDaemonsHere as error:
            complain(str(error))
            return 2
        except DaemonUnreachable as error:
            complain(f"{error}\n{REMEDY}")
            return 3

    return run


REMEDY = "try: systemctl status wnod-hostmaster wnod-bait; journalctl -u wnod-hostmaster -u wnod-bait -n 50"


def snapshot(daemon: Local) -> dict[str, Any]:
    """The daemon's whole status. Raises DaemonUnreachable."""
    answer = ask(daemon.socket, "/status")
    if not isinstance(answer, dict):
        raise DaemonUnreachable(f"{daemon.socket}: answered something else than a status: is it another version?")
    return answer
