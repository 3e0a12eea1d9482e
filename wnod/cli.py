"""The command `wnod`: what administrators and users type. Every subcommand is a module that is imported when named."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from wnod import wnod_version
from wnod.commands.text import plain

COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("wnod.commands.status", "both daemons of this machine at a glance"),
    "vms": ("wnod.commands.vms", "every VM of this host"),
    "vm": ("wnod.commands.vm", "pause the VM of a running job for a while, resume it, or have it kept"),
    "jobs": ("wnod.commands.jobs", "every job this host's bait follows"),
    "explain": ("wnod.commands.explain", "where a job is, and why, step by step"),
    "env": ("wnod.commands.environments", "the environments, and whether they can be had"),
    "check-config": ("wnod.commands.checkconfig", "say everything that is wrong with configuration files"),
    "doctor": ("wnod.commands.doctor", "look for what is wrong on this machine, with remedies"),
    "pki": ("wnod.pki", "make the site's certificates"),
    "image": ("wnod.image.cli", "build and verify images"),
}
_CODES = "exit codes: 0 fine, 1 a problem was found, 2 wrong usage, 3 a daemon does not answer"


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one printable line, whatever was typed, and whose help tells the exit codes.

    So are the parsers of its subcommands, and of theirs.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"epilog": _CODES, **given})

    def error(self, message: str) -> NoReturn:
        """Print and exit with code 2."""
        self.exit(2, f"{self.prog}: {plain(message, 300)}\nTry '{self.prog} --help'.\n")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that reads a file."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"wnod {wnod_version()}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Wrong usage and --help raise SystemExit, as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `wnod jobs | head` ends quietly
    args = _parser(words).parse_args(words)
    try:
        code = importlib.import_module(COMMANDS[args.command][0]).run(args)
    except KeyboardInterrupt:
        return 130
    return int(code)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the options of the one subcommand that is named: the others stay unimported."""
    parser = _Parser(prog="wnod", description="Worker Nodes on Demand.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    actions = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = next((word for word in words if not word.startswith("-")), "")
    for name, (module, text) in COMMANDS.items():
        action = actions.add_parser(name, help=text, description=text)
        if name == named:
            importlib.import_module(module).add_arguments(action)
    return parser


if __name__ == "__main__":
    sys.exit(main())
