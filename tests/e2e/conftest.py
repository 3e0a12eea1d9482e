"""One lab for all end-to-end tests: two hosts with real VMs. Whatever happens, nothing of it is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from deploy.lab.lab import Lab
from deploy.lab.layout import Layout
from tests.e2e.world import LOGS, World
from tests.turns import in_turn

LAYOUT = Layout(Path("/var/lib/wnod-lab-e2e"), Path("/run/wne"), hosts=2)
KEEP = "WNOD_E2E_KEEP"
"""Set while working on the tests: the lab is left up, and used again if it is up already."""


def say(text: str) -> None:
    """For whoever watches with -s."""
    print(f"-- {text}", file=sys.stderr, flush=True)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def _turn() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("the lab needs root: namespaces, mounts and a bridge of its own")
    with in_turn(LAYOUT):
        yield


@pytest.fixture(scope="session")
def _lab(request: pytest.FixtureRequest, _turn: None) -> Iterator[World]:
    # The reactor that other tests use takes the signals for itself when it starts: ours must come after it.
    pytest_twisted.blockon(deferLater(reactor, 0))
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    world = World(Lab(LAYOUT), say)
    shutil.rmtree(LOGS, ignore_errors=True)
    done = False
    try:
        world.take_over() if os.environ.get(KEEP) and world.lab.status()["up"] else world.up()
        yield world
        done = not request.session.testsfailed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if not os.environ.get(KEEP):
            world.down(None if done else LOGS)


@pytest.fixture
def world(_lab: World) -> Iterator[World]:
    """The lab with nothing in it; a test that leaves something behind has failed."""
    if not _lab.is_clean():
        _lab.restore()
    yield _lab
    _lab.clean()
