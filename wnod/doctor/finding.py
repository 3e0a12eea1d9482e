"""One result of a check."""

import enum
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # works, but look at it
    BAD = "bad"  # does not work
    SKIP = "skip"  # could not be found out


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `remedy` is empty only where there is nothing to do."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


class CommandFailed(Exception):
    """The command is not there, hung, or ended badly; the text says which."""


def output_of(argv: Sequence[str], limit_s: float = 20.0) -> str:
    """Standard output of a command that succeeded within the limit. Raises CommandFailed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)
    except FileNotFoundError as error:
        raise CommandFailed(f"{argv[0]}: not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{argv[0]}: no answer in {limit_s:.0f} s") from error
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise CommandFailed(f"{argv[0]}: exit code {done.returncode}: {last[:300]}")
    return done.stdout
