"""The bait of the host that is watched: it holds all leases, renews them, and vouches for them as a bait does.

    python -m tests.bench.daemons.host_bait TLS_DIR PORT LEASES FIRST

Says `inventory N` whenever it has been told of N VMs and that these are all.
"""

import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.task import LoopingCall

from bait.core import RENEW_EVERY_S
from bait.rules.lease import Times
from protocol.ids import LeaseId, RequestId
from protocol.link import BaitEnd
from protocol.messages import BaitInventory, HostInventory, Renew, SrvMsg
from protocol.tls import Role
from tests.bench.daemons.srvmsg import BAIT, HOST, tls

reactor: Any = installed


class Bait:
    """A protocol.link.Listener."""

    def __init__(self, directory: Path, port: str, leases: int, first: int) -> None:
        self.leases = tuple(LeaseId(f"{first + n:032x}") for n in range(leases))
        files = tls(directory, Role.BAIT, BAIT)
        self.link = BaitEnd(reactor, files, f"127.0.0.1:{port}", BAIT, 1, HOST, self)
        self.link.start()
        LoopingCall(self.renew).start(RENEW_EVERY_S, now=False)
        LoopingCall(self.vouch).start(Times().running_s, now=False)

    def renew(self) -> None:
        """As bait.core does."""
        self.link.send(BaitInventory(leases=self.leases))

    def vouch(self) -> None:
        """As bait.vouching does."""
        self.link.send(Renew(id=RequestId("0" * 32), leases=self.leases))

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """As bait.core does."""
        self.renew()
        self.vouch()

    def disconnected(self, peer: str) -> None:
        """It connects again by itself."""

    def received(self, peer: str, message: SrvMsg) -> None:
        """One message of the host."""
        if isinstance(message, HostInventory) and message.complete:
            print("inventory", len(message.vms), flush=True)


def main() -> None:
    """Until it is ended."""
    directory, port, leases, first = sys.argv[1:5]
    bait = Bait(Path(directory), port, int(leases), int(first))
    reactor.run()
    del bait


if __name__ == "__main__":
    main()
