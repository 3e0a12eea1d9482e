"""What the tests of the link share: a hostmaster, baits, and a client that says what it likes."""

import random
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from protocol.framing import Frames, frame
from protocol.ids import BaitName, HostName, RequestId, SessionId
from protocol.link import BaitEnd, HostEnd, Tls
from protocol.messages import Code, Error, Hello, Renew, Renewed
from protocol.session import opening_body, read_answer
from tests.unit.protocol.memory_net import Heard, Net, authority

NEW, AGAIN = False, True


def renew(i: int) -> Renew:
    return Renew(id=RequestId(f"{i:032x}"), leases=())


def renewed(i: int) -> Renewed:
    return Renewed(id=RequestId(f"{i:032x}"))


class Raw(Protocol):
    """A client that says what a test tells it to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.lost: Any = None
        self._frames = Frames()

    def dataReceived(self, data: bytes) -> None:
        self.bodies += self._frames.feed(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class LinkCase(SynchronousTestCase):
    """One hostmaster and the means to make baits."""

    def setUp(self) -> None:
        self.net = Net()
        self.at_host = Heard()
        self.host = self.make_host(epoch=1)
        self.log = EventLoggingObserver()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)

    def make_host(self, epoch: int) -> HostEnd:
        host = HostEnd(
            self.net.reactor, authority().host(), "127.0.0.1:9610", HostName("h1"), epoch,
            frozenset({"bait-h1", "bait-h2"}), self.at_host,
        )  # fmt: skip
        self.successResultOf(host.start())
        return host

    def make_bait(
        self, name: str = "bait-h1", epoch: int = 1, tls: Tls | None = None, host: str = "h1"
    ) -> tuple[BaitEnd, Heard]:
        heard = Heard()
        bait = BaitEnd(
            self.net.reactor, tls or authority().bait(name), "127.0.0.1:9610", BaitName(name), epoch, HostName(host),
            heard, rng=random.Random(f"{name}{epoch}{len(self.net.pipes)}"),
        )  # fmt: skip
        bait.start()
        self.net.settle()
        return bait, heard

    def raw(self, tls: Tls | None = None) -> Raw:
        """A client with a good certificate and free speech."""
        client = Raw()
        factory = TLSMemoryBIOFactory(
            tls or authority().bait(), True, Giving(client), clock=self.net.reactor
        )  # fmt: skip
        self.net.open(factory.buildProtocol(None))
        self.net.settle()
        return client

    def hello(self, **other: Any) -> bytes:
        facts: dict[str, Any] = {
            "versions": (1,), "name": "bait-h1", "epoch": 1, "session": SessionId("5" * 32)
        }  # fmt: skip
        return frame(opening_body(Hello(**(facts | other))))

    def stopped(self, deferred: Any) -> None:
        """Let an end's stop() come to its end."""
        self.net.advance(6)
        self.successResultOf(deferred)

    def refusal(self, client: Raw) -> Code:
        """What the host answered instead of Welcome; the connection must be closed too."""
        self.net.advance(6)
        assert client.lost is not None
        answer = read_answer(client.bodies[0])
        assert isinstance(answer, Error), answer
        return answer.code

    def warnings(self) -> list[str]:
        return [str(e.get("why")) for e in self.log if e.get("log_namespace") == "protocol.link" and "why" in e]


class Giving:
    """A factory for the one protocol it was given."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        return self._protocol

    def doStart(self) -> None: ...

    def doStop(self) -> None: ...
