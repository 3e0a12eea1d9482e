"""Worlds for the contract suite: the fake, and (marked real) Slurm in a lab of its own."""

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.contract.lrms.slurm_world import SlurmSite, SlurmWorld, can_run
from tests.contract.lrms.worlds import FakeWorld, World
from tests.turns import in_turn


@pytest.fixture(scope="session")
def site() -> Iterator[SlurmSite]:
    if can_run():
        pytest.skip(can_run())
    site = SlurmSite()
    with in_turn(site.lab.layout):
        try:
            site.up()
            yield site
        finally:
            site.down()


@pytest.fixture(params=["fake", pytest.param("slurm", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world: World = FakeWorld() if request.param == "fake" else SlurmWorld(request.getfixturevalue("site"))
    try:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.open()))
        yield world
    finally:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.close()))


@pytest.fixture
def slurm_world(site: SlurmSite) -> Iterator[SlurmWorld]:
    """For what only Slurm can be asked."""
    world = SlurmWorld(site)
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.close()))
