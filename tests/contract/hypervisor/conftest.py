"""Worlds for the contract suite: the fake, libvirt's test driver, and (marked real) QEMU under a libvirtd of ours."""

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from hostmaster.events import EventThread
from tests.contract.hypervisor.worlds import FakeWorld, LibvirtWorld, RealWorld, World
from tests.real_image import image_to_boot


@pytest.fixture(scope="session")
def events() -> Iterator[None]:
    thread = EventThread()
    thread.start()
    yield
    thread.stop()


def real_world() -> RealWorld:
    return RealWorld(image_to_boot())


def opened(world: World) -> Iterator[World]:
    try:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.open()))
        yield world
    finally:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.close()))


@pytest.fixture(params=["fake", "test", pytest.param("real", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest, events: None) -> Iterator[World]:
    makers = {"fake": FakeWorld, "test": LibvirtWorld, "real": real_world}
    yield from opened(makers[request.param]())


@pytest.fixture
def real(events: None) -> Iterator[World]:
    yield from opened(real_world())
