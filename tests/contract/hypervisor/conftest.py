"""Worlds for the contract suite: the fake, libvirt's test driver, and (marked real) QEMU under a libvirtd of ours."""

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from hostmaster.edges.events import EventThread
from tests.contract.hypervisor.worlds import FakeWorld, LibvirtWorld, RealWorld, SessionWorld, UnprivilegedWorld, World
from tests.real_image import image_to_boot


@pytest.fixture(scope="session")
def events() -> Iterator[None]:
    thread = EventThread()
    thread.start()
    yield
    thread.stop()


def real_world() -> RealWorld:
    return RealWorld(image_to_boot())


def session_world() -> SessionWorld:
    return SessionWorld(image_to_boot())


def opened(world: World) -> Iterator[World]:
    try:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.open()))
        yield world
    finally:
        try:
            pytest_twisted.blockon(Deferred.fromCoroutine(world.close()))
        finally:
            world.shut()


REAL = [pytest.param(name, marks=pytest.mark.real) for name in ("real", "session")]


@pytest.fixture(params=["fake", "test", *REAL])
def world(request: pytest.FixtureRequest, events: None) -> Iterator[World]:
    makers = {"fake": FakeWorld, "test": LibvirtWorld, "real": real_world, "session": session_world}
    yield from opened(makers[request.param]())


@pytest.fixture
def real(events: None) -> Iterator[World]:
    yield from opened(real_world())


@pytest.fixture
def unprivileged(events: None) -> Iterator[World]:
    yield from opened(UnprivilegedWorld(image_to_boot()))
