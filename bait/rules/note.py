"""Our note on a job (Slurm: AdminComment): what anybody needs to give the job back when its bait cannot (R12). Pure."""

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from bait.lrms.base import NO_REQUEUE, OUR_NOTE, Home
from bait.rules.lease import Lease

PATIENCE_S = 900.0
"""After so long without its bait a job is given back by another: longer than any boot, registration and silence."""
NODES_LIMIT = 2000
"""Longer lists of required nodes are not in the note: the job's own bait puts them back from its journal, another one
lets the job run anywhere and says so."""
_TOO_LONG = "?"


@dataclass(frozen=True, slots=True)
class Note:
    """A note, read. `until`: when the job counts as left alone, in seconds since 1970."""

    lease: str
    home: Home
    bait: str
    until: float
    nodes_lost: bool = False
    """The job had more required nodes than the note could hold."""


def write(lease: Lease, bait: str, now: float) -> str:
    """The note of a job that is about to be parked, or sent to its VM."""
    home = f"home={lease.partition}:requeue={int(lease.requeue)}"
    nodes = f":nodes={_written(lease.required_nodes)}" if lease.required_nodes else ""
    reserved = f":resv={quote(lease.reservation, safe='')}" if lease.reservation else ""
    vm = "" if lease.vm is None else f":vm={lease.vm}"
    return f"{OUR_NOTE}{lease.lease}:{home}{nodes}{reserved}{vm}:bait={bait}:until={now + PATIENCE_S:.0f}"


def _written(nodes: tuple[str, ...]) -> str:
    """As one word of the note: it has no colon, and a comma only between two."""
    word = ",".join(quote(name, safe="[]") for name in nodes)
    return word if len(word) <= NODES_LIMIT else _TOO_LONG


@lru_cache(maxsize=4096)
def read(note: str) -> Note | None:
    """None if it is not such a note, or not whole. Remembered: the rescue reads the whole cluster's each time."""
    if not note.startswith(OUR_NOTE):
        return None
    words = dict(word.split("=", 1) for word in note.split(":") if "=" in word)
    try:
        nodes = words.get("nodes", "")
        known = tuple(unquote(name) for name in nodes.split(",") if name not in ("", _TOO_LONG))
        reserved = unquote(words.get("resv", ""))
        home = Home(words["home"], words["requeue"] == "1", known, words.get("vm", ""), reserved)
        until = float(words.get("until", "inf"))
        return Note(words["lease"], home, words.get("bait", ""), until, nodes == _TOO_LONG)
    except (KeyError, ValueError):
        return None


def given_back(home: Home, why: str) -> str:
    """The note of a job that is put back into the queue: of our doing only its user's own wish is left on it."""
    return f"wnod: given back: {why}" if home.requeue else f"{NO_REQUEUE}: given back: {why}"


def left_alone(ours: Note) -> str:
    """Why another bait gives the job back."""
    nodes = "; its list of required nodes was too long to be kept" if ours.nodes_lost else ""
    return f"{ours.bait or 'its bait'} did not go on with it{nodes}"


def forbids_requeue(note: str) -> bool:
    """True if the job's user asked for no requeue, and only we, or the site's hook, made it requeueable."""
    known = read(note)
    return note.startswith(NO_REQUEUE) or (known is not None and not known.home.requeue)
