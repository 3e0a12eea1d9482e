"""Stops offering an environment whose VMs keep failing to come up, so that this host does not eat jobs. Pure."""

from dataclasses import dataclass, replace

LIMIT = 3
"""VMs that fail to come up one after the other."""
PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """How many VMs of an environment in a row never came up, and until when no more are made (seconds since 1970)."""

    failures: int = 0
    until: float = 0.0
    text: str = ""

    def failed(self, why: str, now: float) -> "Breaker":
        """A VM did not come up. After LIMIT in a row it rests; then one more failure makes it rest again."""
        failures = self.failures + 1
        if failures < LIMIT:
            return replace(self, failures=failures)
        text = f"the last {failures} VMs did not come up ({why}); the next is tried after {PAUSE_S:.0f} s"
        return Breaker(failures, now + PAUSE_S, text)

    def obstacle(self, now: float) -> str:
        """Why no VM is made now; empty if one may be."""
        return self.text if now < self.until else ""
