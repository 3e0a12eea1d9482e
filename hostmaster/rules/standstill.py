"""Records of a VM whose vCPUs we have stopped: by whom, for how long, and since when the LRMS cannot have heard of it.

The LRMS asks every node for a sign of life in intervals of a third of the time after which it gives a silent one up
(Slurm: SlurmdTimeout), and at the third question it no longer waits. So a VM must answer one of the two questions
before: it may stand still for less than one interval at a time (wnod.config: pause_limit_s), and must then run for
longer than one.
"""

import msgspec

REST = 0.4
"""How long a VM must run before it may stand still again, as a part of the give-up time: a question surely comes."""
LONGEST_REST_S = 400.0
"""... but no longer than this where the fence is configured never to strike (ADR 0008)."""


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The administrator's wish that a VM stands still. Times are seconds since 1970."""

    at: float
    until: float
    """It goes on then at the latest."""
    by: str
    """Who wished it, for people."""
    ended_by: str = ""
    """Who wished that it goes on before its time, for people."""

    def holds(self, now: float) -> bool:
        """True while the VM is to stand still. A clock that was set back ends it: better early than late."""
        return self.at <= now < self.until


class Standstill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last time that we held a VM's vCPUs, for whatever reason. Seconds since 1970."""

    at: float
    until: float


def rest_s(gives_up_s: float) -> float:
    """For how many seconds a VM must run between two standstills."""
    return min(REST * gives_up_s, LONGEST_REST_S)


def silent_since(stood: Standstill | None, silence: float, gives_up_s: float) -> float:
    """Since when the LRMS may have heard nothing of a VM whose host's silence began at `silence`."""
    if stood is None or silence >= stood.until + rest_s(gives_up_s):
        return silence
    return min(stood.at, silence)
