"""When to look again: on a beat that all leases of a bait share, and that differs from bait to bait. Pure."""

import math
import zlib


def phase(bait: str) -> float:
    """The share of a beat by which this bait's are late: 500 baits do not ask the LRMS in the same moment."""
    return zlib.crc32(bait.encode()) / 2**32


def wait_s(now: float, delay_s: float, beat_s: float, late: float) -> float:
    """Seconds from `now` to the beat that is nearest to the delay, so that many leases' looks become one query."""
    since_s = now - late * beat_s
    return max(0.001, math.ceil((since_s + delay_s) / beat_s - 0.5) * beat_s - since_s)
