"""How a lease's record changes: the phases it enters, and what the outcome of a deed means for it. Pure.

`bait.rules.job` decides which of these it is to be.
"""

from msgspec.structs import replace

from bait.lrms.base import JobView
from bait.rules.lease import Deed, Facts, Lease, Phase, Times
from protocol.ids import Run


def enter(lease: Lease, phase: Phase, now: float, stage: str | None = None) -> Lease:
    """In that phase from now on; a stage counts from the first time it was reached."""
    stages = lease.stages if stage is None or stage in lease.stages else {**lease.stages, stage: now}
    return replace(lease, phase=phase, since=now, stages=stages)


def end(lease: Lease, facts: Facts, text: str) -> Lease:
    """It has no more to do with the job; its VM goes."""
    return enter(replace(lease, text=text), Phase.ENDED, facts.now, "ended")


def failed(lease: Lease, facts: Facts, text: str, times: Times) -> Lease:
    """Back to the queue because of the VM: later each time, so that a VM that never boots does not spin the job."""
    delay = min(times.longest_retry_s, times.retry_s * 2 ** min(facts.failures, 16))
    return replace(give_back(lease, facts, text, int(delay)), failed=True)


def give_back(lease: Lease, facts: Facts, text: str, delay_s: int = 0) -> Lease:
    """The job is to go back to the queue, for any bait, and to stay there for so long."""
    return enter(replace(lease, text=text, delay_s=delay_s), Phase.RETURNING, facts.now)


def how_it_ended(job: JobView | None) -> str:
    """In the LRMS's word for it."""
    return "the batch system does not know the job any more" if job is None else job.word


def why_failed(lease: Lease, facts: Facts) -> str:
    """Why the LRMS is told that the VM's node is down."""
    is_new = lease.phase is Phase.PARKED
    return "the VM of the job that it shows is gone" if is_new else f"the VM died: {facts.lost or 'gone'}"


def done(lease: Lease, deed: Deed, now: float) -> Lease:
    """The record after a deed succeeded. Losing it in a crash only means that the deed is done again."""
    match deed:
        case Deed.MAKE_REQUEUEABLE:
            return replace(lease, marked=True)
        case Deed.TELL:
            return replace(lease, told=True)
        case Deed.SEND:
            return enter(replace(lease, failed_node=False), Phase.RELEASED, now, "released")  # it was ready again
        case Deed.GIVE_BACK | Deed.REFUSE:
            return enter(lease, Phase.ENDED, now, "ended")
        case Deed.FAIL_NODE:
            return replace(lease, failed_node=True)
    return lease


def refused(lease: Lease, deed: Deed, now: float) -> Lease:
    """The record after the LRMS has refused a deed."""
    return replace(lease, refused_at=now) if deed is Deed.SEND and lease.refused_at is None else lease


def pause_s(lease: Lease, deed: Deed, now: float, times: Times) -> float:
    """How long to wait after the LRMS has refused a deed: longer each time while a dead VM's node stays busy."""
    shortest = times.poll_s / 2
    if deed is not Deed.REMOVE_NODE:
        return shortest
    return max(shortest, min(times.longest_refused_s, now - lease.since))


def superseded(lease: Lease, newer: Run) -> bool:
    """True if a starter of `newer` proves that this lease's hold on the job is over (R6)."""
    return lease.run.same_job(newer) and newer.restart > lease.run.restart and lease.phase is not Phase.ENDED


def supersede(lease: Lease, newer: Run, now: float) -> Lease:
    """Let go of the job: its newer run is at a bait again, so the older one runs nowhere."""
    return enter(replace(lease, text=f"superseded by {newer}"), Phase.ENDED, now, "ended")
