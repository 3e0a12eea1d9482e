"""The bait's own starter under real Slurm: plugin, starter, socket, exit code, requeue."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from bait.hookserver import Answer, HookCall, HookServer, Word
from bait.lrms.base import JobState
from deploy.lab.layout import USERS
from protocol.ids import Run
from tests.contract.lrms.slurm_world import SlurmSite, SlurmWorld
from tests.contract.lrms.worlds import seen

pytestmark = pytest.mark.real


@pytest.fixture
def hook(site: SlurmSite) -> Iterator[Path]:
    yield site.real_starter()
    site.test_starter()


class Bait:
    """Gives every starter the same answer."""

    def __init__(self, path: Path, word: Word) -> None:
        self.calls: list[HookCall] = []
        self.server = HookServer(reactor, str(path), self._intercepted)
        self._word = word

    async def _intercepted(self, call: HookCall) -> Answer:
        self.calls.append(call)
        return Answer(self._word, "because")


@pytest_twisted.ensureDeferred
async def test_a_job_is_parked_and_the_kernel_names_its_user(slurm_world: SlurmWorld, hook: Path) -> None:
    bait = Bait(hook, "park")
    await bait.server.start()
    try:
        job = slurm_world.submit()
        array = slurm_world.submit(tasks=(7,))
        view = await seen(slurm_world, job, state=JobState.PENDING, held=True)
        await seen(slurm_world, f"{array}_7", state=JobState.PENDING, held=True)
    finally:
        await bait.server.stop()
    assert view.run.restart == 1
    claims = {(call.job, call.task, call.restart, call.uid) for call in bait.calls}
    assert claims == {(job, None, 0, USERS[0].uid), (array, 7, 0, USERS[0].uid)}


@pytest_twisted.ensureDeferred
async def test_with_no_bait_daemon_the_job_goes_back_to_the_queue(slurm_world: SlurmWorld, hook: Path) -> None:
    job = slurm_world.submit()
    view = await seen(slurm_world, job, run=Run(cluster="wnod", job=job, restart=1))
    assert (view.state, view.held) == (JobState.PENDING, False)
