"""The floor of hook: Twisted's Unix socket, a line in, a line out, and nothing else.

python -m tests.bench.daemons.hook_floor SOCKET
"""

import sys
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

reactor: Any = installed


class Answer(LineOnlyReceiver):
    """Every line is answered, and that is all."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b'{"answer":"park","text":""}\n')
        self.transport.loseConnection()


if __name__ == "__main__":
    factory = Factory.forProtocol(Answer)
    factory.noisy = False
    reactor.listenUNIX(sys.argv[1], factory, backlog=1024)
    print("ready", flush=True)
    reactor.run()
