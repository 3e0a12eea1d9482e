"""Whether the bait attracts jobs. Pure: open or closed from what the host has left, with hysteresis.

Closing is at once, because each job that arrives in vain costs its user a trip through the queue; opening
waits until there has been room for a while and a little more of it than closing asks for.
"""

from dataclasses import dataclass

from protocol.ids import Room, Shape
from protocol.messages import Capacity

REASON = "wnod:"
"""Every reason of ours starts with this: a node closed for another reason was closed by a human."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Close when a VM of `close_below` does not fit any more, open when one of `open_above` does again."""

    close_below: Shape
    open_above: Shape
    hold_s: float


@dataclass(frozen=True, slots=True)
class Gate:
    """What the bait is to be, since when (seconds since 1970), and why. `room_since`: when room came back."""

    open: bool
    since: float
    reason: str
    room_since: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The next gate, and when to look again if nothing happens."""

    gate: Gate
    wake_at: float | None = None


def choose(gate: Gate, capacity: Capacity | None, limits: Limits, now: float) -> Choice:
    """Open or closed now? `capacity` None: the hostmaster cannot be reached."""
    obstacle = _obstacle(capacity, limits.close_below if gate.open else limits.open_above)
    if obstacle:
        if gate.open:
            return Choice(Gate(False, now, obstacle))
        return Choice(Gate(False, gate.since, obstacle))
    if gate.open:
        return Choice(gate)
    room_since = now if gate.room_since is None else gate.room_since
    if now - room_since >= limits.hold_s:
        return Choice(Gate(True, now, ""))
    return Choice(Gate(False, gate.since, gate.reason, room_since), room_since + limits.hold_s)


def _obstacle(capacity: Capacity | None, needed: Shape) -> str:
    if capacity is None:
        return f"{REASON} the hostmaster of this host does not answer"
    if not capacity.serving:
        return f"{REASON} {capacity.text or 'the hostmaster is not ready'}"[:200]
    if not any(offer.available for offer in capacity.offers):
        return f"{REASON} no environment can be offered"
    if capacity.free_slots == 0:
        return f"{REASON} all {capacity.slots} VM slots are taken"
    if not needed.fits(capacity.free):
        return f"{REASON} no room for a VM of {_words(needed)} (free: {_words(capacity.free)})"
    return ""


def _words(what: Shape | Room) -> str:
    return f"{what.cpus} cpus, {what.memory_mib} MiB, {what.disk_mib} MiB disk"
