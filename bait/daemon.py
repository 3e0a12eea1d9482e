"""The bait daemon: builds the parts, starts them in order, and answers what people ask of it."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from bait.follower import Follower
from bait.hearing import hear
from bait.hookserver import Answer, HookCall, HookServer
from bait.hostview import HostView
from bait.interception import Interception
from bait.lease import Lease, Times
from bait.lrms.base import Lrms
from bait.lrms.slurm import slurm
from bait.numbers import Numbers
from bait.opening import Opening
from bait.rescue import LOOK_EVERY_S, Rescue
from protocol.ids import RequestId
from protocol.link import BaitEnd, Tls
from protocol.messages import BaitInventory, Renew, SrvMsg
from wnod.config import BaitConfig
from wnod.journal import Journal
from wnod.metrics import Metrics, serve_metrics
from wnod.service import Context
from wnod.status import StatusServer

RENEW_EVERY_S = 30.0
VOUCH_EVERY_S = 10.0
PUBLISH_EVERY_S = 5.0


def new_id() -> str:
    """128 random bits for a lease or a request."""
    return secrets.token_hex(16)


class BaitDaemon:
    """One bait. `start` returns when starters can ask. A `protocol.link.Listener` and a follower's observer."""

    def __init__(self, context: Context, config: BaitConfig) -> None:
        reactor = self.reactor = context.reactor
        self.config = config
        self.log = Logger("bait")
        self._context = context
        os.makedirs(config.state, mode=0o700, exist_ok=True)
        self.metrics = Metrics("bait", config.bait)
        self.numbers = Numbers(self.metrics)
        path = f"{config.state}/journal.sqlite"
        self.journal = Journal(path, "bait", config.bait, committed=self.metrics.committed)
        settings = config.lrms
        self.lrms: Lrms = slurm(reactor, settings.cluster, settings.vm_partition, settings.commands, settings.timeout_s)
        self.view = HostView()
        self._build()

    def _build(self) -> None:
        config, reactor = self.config, self.reactor
        times = Times(
            poll_s=config.lrms.poll_s,
            answer_s=config.hook.limit_s * 2 / 3,
            retry_s=config.retry.delay_s,
            longest_retry_s=config.retry.longest_s,
        )
        self.follower = Follower(
            clock=reactor,
            bait=config.bait,
            journal=self.journal,
            lrms=self.lrms,
            view=self.view,
            times=times,
            new_id=new_id,
            observer=self,
        )
        tls = Tls(config.tls.ca, config.tls.certificate, config.tls.key)
        peer = config.hostmaster
        self.link = BaitEnd(reactor, tls, peer.address, config.bait, self.journal.epoch, peer.name, self)
        self.follower.link = self.link
        self.opening = Opening(reactor, config.bait, self.lrms, self.view, config.gate, self.numbers.opened)
        self.interception = Interception(
            reactor, config.lrms.cluster, config.bait, self.lrms, self.follower, config.defaults, new_id
        )
        self.rescue = Rescue(reactor, self.lrms, self.follower)
        self.hooks = HookServer(reactor, config.hook.socket, self._intercepted, config.hook.limit_s)
        self.status = StatusServer(reactor, config.runtime, self.snapshot, self.explain, self.metrics)

    # --- service.Daemon ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the journal, resume every lease, and begin to listen."""
        self.metrics.set("wnod_epoch", self.journal.epoch)
        await self.status.start()
        if self.config.metrics is not None:
            await serve_metrics(self.reactor, self.config.metrics, self.metrics)
        self.follower.load()
        self.link.start()
        await self.hooks.start()
        self.opening.kick()
        self._every(RENEW_EVERY_S, self._renew)
        self._every(VOUCH_EVERY_S, self._vouch)
        self._every(LOOK_EVERY_S, self.rescue.look)
        self._every(PUBLISH_EVERY_S, self._publish)

    async def stop(self) -> None:
        """Close the bait and stop. Jobs in VMs run on: the next start finds them."""
        await self.hooks.stop()
        await self.opening.close()
        await self.follower.duties.stop()
        await self.link.stop()
        await self.status.stop()
        self.journal.close()

    def reload(self) -> None:
        """Certificates are read anew at the next connection; the rest needs a restart."""

    def _every(self, seconds: float, call: Any) -> None:
        loop = LoopingCall(call)
        loop.clock = self.reactor
        loop.start(seconds, now=False).addErrback(lambda f: self._context.fatal(f.getErrorMessage()))

    def _publish(self) -> None:
        self.metrics.set("wnod_bait_lrms_up", int(self.opening.up))
        self.metrics.set("wnod_bait_open", int(self.opening.is_open))

    def _vouch(self) -> None:
        """Say which runs the LRMS was just seen to have in their VMs; without that word they may be paused."""
        leases = self.follower.vouched()
        if leases:
            self.link.send(Renew(id=RequestId(new_id()), leases=leases))

    def _renew(self) -> None:
        self.link.send(BaitInventory(leases=tuple(self.follower.leases)))

    async def _intercepted(self, call: HookCall) -> Answer:
        begun = self.reactor.seconds()
        try:
            return await self.interception.intercepted(call)
        finally:
            self.metrics.observe("wnod_bait_hook_seconds", self.reactor.seconds() - begun)

    # --- protocol.link.Listener ------------------------------------------------------------------------

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """Say what leases there are; the host answers with what it has."""
        self.view.connected(resumed)
        self.metrics.set("wnod_link_connected", 1, peer=peer)
        self._renew()
        self.follower.kick_all()
        self.opening.kick()

    def disconnected(self, peer: str) -> None:
        """Jobs in VMs need no link; the bait closes until it is back."""
        self.view.disconnected()
        self.metrics.set("wnod_link_connected", 0, peer=peer)
        self.follower.kick_all()
        self.opening.kick()

    def received(self, peer: str, message: SrvMsg) -> None:
        """One message of the hostmaster."""
        hear(message, self.follower, self.opening, self.lrms)

    # --- follower.Observer -------------------------------------------------------------------------------

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """Count it."""
        self.numbers.changed(before, lease)
        self.numbers.count(self.follower.leases.values())

    def forgotten(self, lease: Lease) -> None:
        """Count it."""
        self.numbers.count(self.follower.leases.values())

    # --- people's questions --------------------------------------------------------------------------------

    def snapshot(self) -> Mapping[str, Any]:
        """What `wnod status` and `wnod jobs` show."""
        return {
            "role": "bait",
            "bait": self.config.bait,
            "epoch": self.journal.epoch,
            "host": self.config.hostmaster.name,
            "link": self.view.linked,
            "open": self.opening.is_open,
            "reason": self.opening.reason,
            "lrms": "ok" if self.opening.up else "away",
            "jobs": [_row(lease) for lease in self.follower.leases.values()],
            "past": [_row(lease) for lease in self.follower.past],
        }

    def explain(self, job: str) -> Mapping[str, Any] | None:
        """Where a job is and why, step by step. `job` is `12`, or `12_3` for an array task."""
        steps = self.journal.read_history(job.split("_", maxsplit=1)[0]) if job else ()
        mine = [step for step in steps if "_" not in job or f"/{job}." in step.text]
        if not mine:
            return None
        return {"job": job, "text": mine[-1].text, "steps": [{"at": s.at, "text": s.text} for s in mine]}


def _row(lease: Lease) -> dict[str, Any]:
    return {
        "job": lease.run.key,
        "run": str(lease.run),
        "user": lease.user,
        "environment": lease.environment,
        "phase": lease.phase,
        "vm": lease.vm,
        "generation": lease.generation,
        "since": lease.since,
        "text": lease.text,
        "stages": lease.stages,
    }
