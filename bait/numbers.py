"""The bait's metrics: times taken from the leases as they change, counts when somebody asks."""

from collections import Counter
from collections.abc import Callable, Iterable

from bait.rules.lease import Lease, Phase
from wnod.metrics import STAGES, Metrics

LONG_S = 1800.0
"""A job that has been parked for longer will hardly get its VM by itself."""


class Numbers:
    """Publishes leases by phase, the time of each stage, and what became of the jobs."""

    def __init__(self, metrics: Metrics, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._now = now
        self._leases: Iterable[Lease] = ()
        metrics.before_text(self._publish)
        self._observe = {stage: metrics.expect("wnod_bait_stage_seconds", stage=stage) for stage in STAGES}

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """A lease is on disk and differs from `before`."""
        known = before.stages if before is not None else {}
        begun = lease.stages.get("intercepted", lease.since)
        for stage, at in lease.stages.items():
            if stage not in known and stage in self._observe:
                self._observe[stage](at - begun)
        if lease.phase is Phase.ENDED and (before is None or before.phase is not Phase.ENDED):
            self._metrics.count("wnod_bait_jobs_total", outcome=_outcome(before, lease))

    def count(self, leases: Iterable[Lease]) -> None:
        """From now on publish how many there are when somebody asks; `leases` is the dict's own view of them."""
        self._leases = leases

    def _publish(self) -> None:
        phases = Counter({str(phase): 0 for phase in Phase})
        phases.update(str(lease.phase) for lease in self._leases)
        self._metrics.set_all("wnod_bait_leases", "phase", {phase: float(n) for phase, n in phases.items()})
        latest = self._now() - LONG_S
        long = sum(lease.phase is Phase.PARKED and lease.since < latest for lease in self._leases)
        self._metrics.set("wnod_bait_jobs_parked_long", long)

    def opened(self, is_open: bool) -> None:
        """The bait's node was opened or closed."""
        self._metrics.set("wnod_bait_open", int(is_open))
        self._metrics.count("wnod_bait_opened_total" if is_open else "wnod_bait_closed_total")


def _outcome(before: Lease | None, lease: Lease) -> str:
    if "running" in lease.stages:
        return "ran"
    if before is not None and before.phase in (Phase.RETURNING, Phase.REFUSING):
        return "given-back" if before.phase is Phase.RETURNING else "refused"
    return "left"
