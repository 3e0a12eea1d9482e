"""The floors of srvmsg: frames of the same sizes, the same window, the same TLS, and nothing else.

    python -m tests.bench.daemons.tls_floor twisted-server|blocking-server DIR
    python -m tests.bench.daemons.tls_floor twisted-client|blocking-client DIR PORT SECONDS

`twisted` is an echo over the transport that the link uses; `blocking` is a loop over two sockets of the ssl module.
"""

import contextlib
import json
import socket
import ssl
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from protocol.tls import Role
from tests.bench.daemons.common import WINDOW, spread
from tests.bench.daemons.srvmsg import BAIT, HOST, sizes, tls

reactor: Any = installed
ASKED, ANSWERED = sizes()


class Meter:
    """Times of answers that come in the order of the questions."""

    def __init__(self, seconds: float) -> None:
        self.asked: deque[float] = deque()
        self.took: list[float] = []
        self.starts = time.perf_counter() + 1.0
        self.ends = self.starts + seconds

    def answered(self) -> bool:
        """One more; False when the time is over."""
        now = time.perf_counter()
        begun = self.asked.popleft()
        if now >= self.starts:
            self.took.append(now - begun)
        return now < self.ends

    def say(self) -> None:
        """The result."""
        rate = len(self.took) / (self.ends - self.starts)
        print(json.dumps({"requests_per_s": round(rate), **spread(self.took)}), flush=True)


class Echo(Protocol):
    """Answers each frame's worth of bytes with a write of its own."""

    held = 0

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.held += len(data)
        while self.held >= ASKED:
            self.held -= ASKED
            self.transport.write(b"a" * ANSWERED)


class Asker(Protocol):
    """Keeps the window full, a write for each frame."""

    held = 0

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def connectionMade(self) -> None:
        for _ in range(WINDOW):
            self.ask()

    def ask(self) -> None:
        assert self.transport is not None
        self.meter.asked.append(time.perf_counter())
        self.transport.write(b"q" * ASKED)

    def dataReceived(self, data: bytes) -> None:
        self.held += len(data)
        while self.held >= ANSWERED and reactor.running:
            self.held -= ANSWERED
            if not self.meter.answered():
                self.meter.say()
                reactor.stop()
                return
            self.ask()


def twisted_server(directory: Path) -> None:
    factory = TLSMemoryBIOFactory(tls(directory, Role.HOST, HOST), False, Factory.forProtocol(Echo))
    print(reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port, flush=True)
    reactor.run()


def twisted_client(directory: Path, port: int, seconds: float) -> None:
    asker = Asker(Meter(seconds))
    factory: Any = Factory()
    factory.buildProtocol = lambda address: asker
    factory.startedConnecting = factory.clientConnectionFailed = factory.clientConnectionLost = lambda *_: None
    reactor.connectTCP("127.0.0.1", port, TLSMemoryBIOFactory(tls(directory, Role.BAIT, BAIT), True, factory))
    reactor.run()


def _context(directory: Path, role: Role, name: str, purpose: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=str(directory / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(directory / f"{role}-{name}.pem", directory / f"{role}-{name}.key")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def blocking_server(directory: Path) -> None:
    context = _context(directory, Role.HOST, HOST, ssl.Purpose.CLIENT_AUTH)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The client leaves when its time is over, with answers under way.
        with contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True) as one:
            held = 0
            while data := one.recv(65536):
                held += len(data)
                frames, held = divmod(held, ASKED)
                for _ in range(frames):
                    one.sendall(b"a" * ANSWERED)


def blocking_client(directory: Path, port: int, seconds: float) -> None:
    context = _context(directory, Role.BAIT, BAIT, ssl.Purpose.SERVER_AUTH)
    meter = Meter(seconds)
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(plain) as one:
        for _ in range(WINDOW):
            _ask(one, meter)
        held = 0
        goes_on = True
        while goes_on:
            held += len(one.recv(65536))
            frames, held = divmod(held, ANSWERED)
            for _ in range(frames):
                goes_on &= meter.answered()
                _ask(one, meter)
    meter.say()


def _ask(one: ssl.SSLSocket, meter: Meter) -> None:
    meter.asked.append(time.perf_counter())
    one.sendall(b"q" * ASKED)


def main() -> None:
    """One end, by its name."""
    words = sys.argv[1:]
    match words[0]:
        case "twisted-server":
            twisted_server(Path(words[1]))
        case "blocking-server":
            blocking_server(Path(words[1]))
        case "twisted-client":
            twisted_client(Path(words[1]), int(words[2]), float(words[3]))
        case "blocking-client":
            blocking_client(Path(words[1]), int(words[2]), float(words[3]))


if __name__ == "__main__":
    main()
