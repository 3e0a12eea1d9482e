"""How long an LRMS that has just started may not be told to start a job again: the grace. Pure.

An LRMS that died may come back with a state that is some seconds old. What it started in those seconds it has
forgotten, and may start once more: then a bait catches a run whose older self still runs in some other bait's VM. Until
the LRMS' nodes have told it what runs on them, nobody knows of both. So a run that was caught after such a start is
not sent to its VM before the LRMS has been up for the grace; by then it has had the orphan ended.
"""


def not_before(caught: float, up_since: float, grace_s: float) -> float:
    """The earliest time to send a run that was caught at `caught` to its VM.

    An LRMS that came up after that is one whose own interception this lease is; but it may hide an earlier start of
    the LRMS, so nothing is waited for but the grace from the interception on.
    """
    return min(up_since, caught) + grace_s
