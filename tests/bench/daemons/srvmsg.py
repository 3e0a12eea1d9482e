"""Requests per second over the real link: a bait and a hostmaster, each a process, TLS on loopback.

python -m tests.bench.daemons.srvmsg host DIR
python -m tests.bench.daemons.srvmsg bait DIR PORT SECONDS
"""

import datetime as dt
import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed

from protocol.ids import BaitName, HostName, LeaseId, RequestId
from protocol.link import BaitEnd, HostEnd, Tls
from protocol.messages import Renew, Renewed, SrvMsg
from protocol.session import BaitSession, HostSession
from protocol.tls import Identity, Role
from tests.bench.daemons.common import WINDOW, spread
from wnod import pki

reactor: Any = installed
HOST, BAIT = HostName("h1"), BaitName("bait1")
HEADER = 4


def certificates(directory: Path) -> None:
    """A CA, a hostmaster's certificate and a bait's."""
    now = dt.datetime.now(dt.UTC)
    pki.create_authority(directory, now)
    pki.issue(directory, Identity(Role.HOST, HOST), now)
    pki.issue(directory, Identity(Role.BAIT, BAIT), now)


def tls(directory: Path, role: Role, name: str) -> Tls:
    """That identity's files."""
    return Tls(directory / "ca.pem", directory / f"{role}-{name}.pem", directory / f"{role}-{name}.key")


def request(number: int) -> Renew:
    """What is asked: whether one lease is still known."""
    return Renew(id=RequestId(f"{number:032x}"), leases=(LeaseId(f"{7:032x}"),))


def sizes() -> tuple[int, int]:
    """Bytes of a request and of its answer on the wire, some way into a session: the floors use the same."""
    bait, host = BaitSession("0" * 32, BAIT, 1), HostSession("0" * 32, 1)  # type: ignore[arg-type]
    bait.sent = bait.seen = host.sent = host.seen = 54_321
    bait.send(request(54_321))
    host.send(Renewed(id=RequestId("0" * 32)))
    asked, answered = bait.next_body(), host.next_body()
    assert asked is not None
    assert answered is not None
    return len(asked) + HEADER, len(answered) + HEADER


class Host:
    """Answers. A protocol.link.Listener."""

    def __init__(self, directory: Path) -> None:
        files = tls(directory, Role.HOST, HOST)
        self.link = HostEnd(reactor, files, "127.0.0.1:0", HOST, 1, frozenset({BAIT}), self)
        self.link.start().addCallback(lambda port: print(port, flush=True))

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """Nothing is said before it is asked."""

    def disconnected(self, peer: str) -> None:
        """It will ask again."""

    def received(self, peer: str, message: SrvMsg) -> None:
        """One request."""
        assert isinstance(message, Renew)
        self.link.send(peer, Renewed(id=message.id))


class Bait:
    """Keeps a window of requests under way. A protocol.link.Listener."""

    def __init__(self, directory: Path, port: str, seconds: float) -> None:
        self.seconds = seconds
        self.asked: dict[RequestId, float] = {}
        self.took: list[float] = []
        self.number = 0
        self.begun = self.counted = 0.0
        files = tls(directory, Role.BAIT, BAIT)
        self.link = BaitEnd(reactor, files, f"127.0.0.1:{port}", BAIT, 1, HOST, self)
        self.link.start()

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """Fill the window; what is answered in the first second only warms up."""
        self.begun = time.perf_counter()
        for _ in range(WINDOW):
            self.ask()
        reactor.callLater(1.0, self.count)

    def disconnected(self, peer: str) -> None:
        """While it is measured, what is under way is lost, and the window does not fill again: few answers."""

    def ask(self) -> None:
        """One request more."""
        self.number += 1
        message = request(self.number)
        self.asked[message.id] = time.perf_counter()
        self.link.send(message)

    def received(self, peer: str, message: SrvMsg) -> None:
        """One answer: the next request."""
        assert isinstance(message, Renewed)
        self.took.append(time.perf_counter() - self.asked.pop(message.id))
        self.ask()

    def count(self) -> None:
        """From here on it counts."""
        self.took.clear()
        self.counted, self.cpu = time.perf_counter(), time.process_time()
        reactor.callLater(self.seconds, self.end)

    def end(self) -> None:
        """Say what was measured."""
        elapsed = time.perf_counter() - self.counted
        share = (time.process_time() - self.cpu) / elapsed
        print(json.dumps({"requests_per_s": round(len(self.took) / elapsed), **spread(self.took), "client_cpu": share}))
        sys.stdout.flush()
        reactor.stop()


def main() -> None:
    """One end, by its name."""
    words = sys.argv[1:]
    directory = Path(words[1])
    end = Host(directory) if words[0] == "host" else Bait(directory, words[2], float(words[3]))
    reactor.run()
    del end


if __name__ == "__main__":
    main()
