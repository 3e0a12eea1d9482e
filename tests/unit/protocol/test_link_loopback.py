"""The link over real sockets: that the network in memory of the other tests is not a world of its own."""

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater

from protocol.ids import BaitName, HostName
from protocol.link import BaitEnd, HostEnd
from tests.unit.protocol.link_case import renew, renewed
from tests.unit.protocol.memory_net import Heard, authority

BAITS = frozenset({"bait-h1"})


def make_host(heard: Heard, port: int = 0, epoch: int = 1) -> HostEnd:
    return HostEnd(reactor, authority().host(), f"127.0.0.1:{port}", HostName("h1"), epoch, BAITS, heard)


def make_bait(heard: Heard, port: int) -> BaitEnd:
    bait = BaitName("bait-h1")
    return BaitEnd(reactor, authority().bait(), f"127.0.0.1:{port}", bait, 1, HostName("h1"), heard)


async def until(true: Callable[[], bool]) -> None:
    """Let the reactor run until it is true, for at most 20 s."""
    for _ in range(4000):
        if true():
            return
        pause: Deferred[Any] = deferLater(reactor, 0.005)  # type: ignore[arg-type]
        await pause
    raise AssertionError("it never came true")


@pytest_twisted.ensureDeferred
async def test_messages_both_ways_and_a_restart_of_the_host() -> None:
    at_host, at_bait = Heard(), Heard()
    host = make_host(at_host)
    port = await host.start()
    bait = make_bait(at_bait, port)
    bait.start()
    await until(lambda: len(at_bait.events) == 1)
    for i in range(500):
        bait.send(renew(i))
        host.send("bait-h1", renewed(i))
    await until(lambda: len(at_bait.messages) == 500 and len(at_host.messages) == 500)
    assert [message for _, message in at_bait.messages] == [renewed(i) for i in range(500)]
    assert [message for _, message in at_host.messages] == [renew(i) for i in range(500)]

    await host.stop()
    again = make_host(at_host, port, epoch=2)
    await again.start()
    await until(lambda: len(at_bait.events) == 3)
    assert at_bait.events == [("connected", "h1", 1, False), ("disconnected", "h1"), ("connected", "h1", 2, False)]

    await bait.stop()
    await again.stop()
    assert at_host.events[-2:] == [("connected", "bait-h1", 1, False), ("disconnected", "bait-h1")]


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_said_at_once() -> None:
    host = make_host(Heard())
    port = await host.start()
    with pytest.raises(CannotListenError, match=str(port)):
        await make_host(Heard(), port).start()
    await host.stop()
