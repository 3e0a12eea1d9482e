"""The hostmaster that is watched: the real daemon, whose VMs die on demand.

    python -m tests.bench.daemons.host --config FILE

Lines on standard input: `events N PAUSE_S` lets N of its VMs die, one after the other, and answers with the times
from libvirt's deed to the record on disk, as JSON. `ready` is said when it serves.
"""

import json
import sys
import time
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver

from hostmaster.daemon import HostmasterDaemon
from hostmaster.rules.vm import Vm
from protocol.messages import VmPhase
from tests.bench.daemons.common import spread
from wnod.config import load_hostmaster
from wnod.service import run


class Watched(HostmasterDaemon):
    """The daemon, and the moments at which its records changed."""

    died: dict[str, float]
    seen: dict[str, float]

    async def start(self) -> None:
        """As the daemon."""
        self.died, self.seen = {}, {}
        await super().start()
        StandardIO(Lines(self))  # type: ignore[no-untyped-call]
        print("ready", flush=True)

    def changed(self, before: Vm | None, vm: Vm) -> None:
        """As the daemon. The record is on disk."""
        if vm.phase is VmPhase.DESTROYING:
            self.seen.setdefault(vm.uuid, time.perf_counter())
        super().changed(before, vm)

    async def events(self, count: int, pause_s: float) -> None:
        """Let that many VMs die."""
        chosen = [vm.uuid for vm in self.core.keeper.vms.values() if vm.phase is VmPhase.STARTED][:count]
        for uuid in chosen:
            await self.hypervisor._connection.call("die", partial(self._kill, uuid=uuid), 10.0)
            await deferLater(self.reactor, pause_s)
        for _ in range(100):
            if self.seen.keys() >= set(chosen):
                break
            await deferLater(self.reactor, 0.05)
        took = [self.seen[uuid] - self.died[uuid] for uuid in chosen]
        print(json.dumps({"events": count, **spread(took)}), flush=True)

    def _kill(self, connection: Any, uuid: str) -> None:
        domain = connection.lookupByUUIDString(uuid)
        self.died[uuid] = time.perf_counter()
        domain.destroy()


class Lines(LineOnlyReceiver):
    """What it is told."""

    delimiter = b"\n"

    def __init__(self, daemon: Watched) -> None:
        self._daemon = daemon

    def lineReceived(self, line: bytes) -> None:
        verb, *words = line.decode().split()
        if verb == "events":
            Deferred.fromCoroutine(self._daemon.events(int(words[0]), float(words[1])))


if __name__ == "__main__":
    sys.exit(run("hostmaster", load_hostmaster, Watched))
