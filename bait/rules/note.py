"""Our note on a job (Slurm: AdminComment): what anybody needs to give the job back when its bait cannot (R12). Pure."""

from dataclasses import dataclass
from functools import lru_cache

from bait.lrms.base import NO_REQUEUE, OUR_NOTE, Home
from bait.rules.lease import Lease

PATIENCE_S = 900.0
"""After so long without its bait a job is given back by another: longer than any boot, registration and silence."""


@dataclass(frozen=True, slots=True)
class Note:
    """A note, read. `until`: when the job counts as left alone, in seconds since 1970."""

    lease: str
    home: Home
    bait: str
    until: float


def write(lease: Lease, bait: str, now: float) -> str:
    """The note of a job that is about to be parked, or sent to its VM."""
    home = f"home={lease.partition}:requeue={int(lease.requeue)}"
    return f"{OUR_NOTE}{lease.lease}:{home}:bait={bait}:until={now + PATIENCE_S:.0f}"


@lru_cache(maxsize=4096)
def read(note: str) -> Note | None:
    """None if it is not such a note, or not whole. Remembered: the rescue reads the whole cluster's each time."""
    if not note.startswith(OUR_NOTE):
        return None
    words = dict(word.split("=", 1) for word in note.split(":") if "=" in word)
    try:
        home = Home(words["home"], words["requeue"] == "1")
        return Note(words["lease"], home, words.get("bait", ""), float(words.get("until", "inf")))
    except (KeyError, ValueError):
        return None


def given_back(home: Home, why: str) -> str:
    """The note of a job that is put back into the queue: of our doing only its user's own wish is left on it."""
    return f"wnod: given back: {why}" if home.requeue else f"{NO_REQUEUE}: given back: {why}"


def forbids_requeue(note: str) -> bool:
    """True if the job's user asked for no requeue, and only we, or the site's hook, made it requeueable."""
    known = read(note)
    return note.startswith(NO_REQUEUE) or (known is not None and not known.home.requeue)
