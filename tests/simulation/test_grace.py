"""A batch system that forgets a start: the grace after its own start keeps it from starting that job twice at once."""

import functools

import pytest

from bait.rules.lease import Times
from tests.simulation.cluster import Cluster
from tests.simulation.judge import Judge
from tests.simulation.play import stand_ins, watched
from tests.simulation.site import ENVIRONMENTS, USERS

FIRST, OTHER = "bait2", "bait1"
REGISTERS_S = 4.5
"""When Slurm's nodes have registered at the latest, after slurmctld's start."""


def forgotten_start(judge: Judge, node_known: bool) -> None:
    """A job runs in a VM of one host when the LRMS comes back that knows it as waiting; now only the other host's
    bait is open. `node_known`: the LRMS still knows the VM's node (Slurm saves jobs and nodes in two files), and the
    first bait cannot see the LRMS. Otherwise nobody but that bait can know of the job's run.
    """
    cluster = Cluster(1, 2, judge)
    lrms = cluster.lrms
    lrms.drain(OTHER, "by hand")
    cluster.run(cluster.world.now + 60.5)  # there are spares: a VM is ready within a second or two
    name, uid = next(iter(USERS.items()))
    job = lrms.submit(owner=uid, user=name, wishes=ENVIRONMENTS[0], cpus=1)
    cluster.run_s[job] = 40.0
    saved, since = lrms.save(), cluster.world.now
    cluster.run(cluster.world.now + 60.0, stop=lambda: judge.started > 0)
    assert judge.runs[job][0].end == ""
    cluster.run(cluster.world.now + 0.9)
    jobs, nodes, *rest = saved
    lrms.go_back((jobs, lrms.save()[1] if node_known else nodes, *rest))
    judge.forgets(job, since)
    lrms.undrain(OTHER)
    lrms.drain(FIRST, "by hand")
    cluster.sites[1].trouble.away = node_known
    for node in tuple(lrms.all_nodes):
        cluster.world.callLater(REGISTERS_S, cluster.register_again, node)
    cluster.run(cluster.world.now + 120.0)
    cluster.dispose()


def judged(node_known: bool = True) -> Judge:
    judge = Judge()
    with stand_ins(), watched(judge, logs=False):
        forgotten_start(judge, node_known)
    return judge


@pytest.mark.parametrize("node_known", [True, False])
def test_a_job_whose_start_the_lrms_has_forgotten_is_not_sent_elsewhere_before_the_orphan_has_been_ended(
    node_known: bool,
) -> None:
    judge = judged(node_known)
    assert judge.breaches == [], judge.history("1")
    orphan, again = judge.runs["1"]
    assert (orphan.end == "an orphan in the batch system's eyes") == node_known
    assert (again.end, again.key[:3]) == ("done", "vm1")
    assert orphan.ended_at < again.at


def test_without_the_grace_that_job_would_run_twice_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.daemons.BaitTimes", functools.partial(Times, restart_grace_s=0.0))
    assert [breach.rule for breach in judged().breaches] == ["I2"]
