"""Every name of a crash point, made from what the daemons are made of; and those that cannot be reached, and why."""

from bait.rules.lease import Deed as BaitDeed
from bait.rules.lease import Phase
from hostmaster.rules.lifecycle import Deed as HostDeed
from hostmaster.rules.spare import Deed as SpareDeed
from hostmaster.rules.spare import SparePhase
from protocol.messages import VmPhase

SAID = ("host.say.granted", "host.say.bound", "host.say.released", "host.say.allow")
AHEAD = ("host.commit.taken", "host.commit.golden", "host.forget-spare", "host.forget-golden", "host.sweep")
OTHER = ("bait.forget", "bait.rescue", "host.forget", *SAID, *AHEAD)
UNUSED = {
    "host.commit.ready": "a VM is bound while it boots (0006), so it is bound when it is ready",
}


def places() -> tuple[str, ...]:
    """Every place that can be reached; each has a point before and one after."""
    names = [f"bait.commit.{phase}" for phase in Phase]
    names += [f"bait.deed.{deed.value}" for deed in BaitDeed]
    names += [f"host.commit.{phase}" for phase in VmPhase]
    names += [f"host.deed.{deed.value}" for deed in HostDeed]
    names += [f"host.commit.spare-{phase}" for phase in SparePhase]
    names += [f"host.deed.spare-{deed.value}" for deed in SpareDeed]
    return tuple(name for name in (*names, *OTHER) if name not in UNUSED)


def points() -> tuple[str, ...]:
    """Every crash point."""
    return tuple(f"{place}.{when}" for place in places() for when in ("before", "after"))
