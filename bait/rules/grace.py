"""How long an LRMS that has just started may not be told to start a job again: the grace. Pure.

An LRMS that died may come back with a state that is some seconds old. What it started in those seconds it has
forgotten, and may start once more: then a bait catches a run whose older self still runs in some other bait's VM. Until
the LRMS' nodes have told it what runs on them, nobody knows of both. So a run is not sent to its VM before the LRMS
has said, after the run was caught, that it has been up for the grace; by then it has had the orphan ended. No clock of
ours comes into it: one that jumps makes no grace shorter.
"""


def left_s(up_for_s: float, grace_s: float) -> float:
    """How long the run has to wait, if the LRMS has just said that it has been up for so long; 0: it may be sent."""
    return max(0.0, grace_s - up_for_s)
