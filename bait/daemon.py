"""The bait daemon: puts the core on Slurm, a socket and TLS, and answers what people ask of it."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from bait.core import BaitCore
from bait.lrms.base import Lrms
from bait.lrms.slurm import slurm
from bait.numbers import Numbers
from bait.rules.lease import Lease, Times
from protocol.link import BaitEnd, Tls
from protocol.messages import SrvMsg
from wnod.config import BaitConfig
from wnod.journal import Journal
from wnod.metrics import Metrics, serve_metrics
from wnod.service import Context
from wnod.status import StatusServer

PUBLISH_EVERY_S = 5.0


def new_id() -> str:
    """128 random bits for a lease or a request."""
    return secrets.token_hex(16)


class BaitDaemon:
    """One bait. `start` returns when starters can ask. A `protocol.link.Listener` and a follower's observer."""

    def __init__(self, context: Context, config: BaitConfig) -> None:
        reactor = self.reactor = context.reactor
        self.config = config
        os.makedirs(config.state, mode=0o700, exist_ok=True)
        self.metrics = Metrics("bait", config.bait)
        self.numbers = Numbers(self.metrics, reactor.seconds)
        path = f"{config.state}/journal.sqlite"
        self.journal = Journal(path, "bait", config.bait, committed=self.metrics.committed)
        settings = config.lrms
        lrms: Lrms = slurm(reactor, settings.cluster, settings.vm_partition, settings.commands, settings.timeout_s)
        core = self.core = BaitCore(
            clock=reactor,
            bait=config.bait,
            cluster=settings.cluster,
            journal=self.journal,
            lrms=lrms,
            times=_times(config),
            gate=config.gate,
            rules=config.defaults,
            hook=config.hook,
            new_id=new_id,
            observer=self,
            broken=lambda failure: context.fatal(failure.getErrorMessage()),
            opened=self.numbers.opened,
            answered=lambda seconds: self.metrics.observe("wnod_bait_hook_seconds", seconds),
        )
        tls = Tls(config.tls.ca, config.tls.certificate, config.tls.key)
        peer = config.hostmaster
        self.link = BaitEnd(reactor, tls, peer.address, config.bait, self.journal.epoch, peer.name, self)
        self.metrics.set("wnod_link_connected", 0, peer=peer.name)  # a host that never comes is missing, not unknown
        core.join(self.link)
        self.numbers.count(core.follower.leases.values())
        self.status = StatusServer(reactor, config.runtime, self.snapshot, self.explain, self.metrics)

    # --- service.Daemon ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the journal, resume every lease, and begin to listen."""
        self.metrics.set("wnod_epoch", self.journal.epoch)
        await self.status.start()
        if self.config.metrics is not None:
            await serve_metrics(self.reactor, self.config.metrics, self.metrics)
        self.core.load()
        self.link.start()
        await self.core.hooks.start()
        self.core.start()
        self.core.every(PUBLISH_EVERY_S, self._publish)

    async def stop(self) -> None:
        """Close the bait and stop. Jobs in VMs run on: the next start finds them."""
        await self.core.stop()
        await self.link.stop()
        await self.status.stop()
        self.journal.close()

    def reload(self) -> None:
        """Certificates are read anew at the next connection; the rest needs a restart."""

    def _publish(self) -> None:
        self.metrics.set("wnod_bait_lrms_up", int(self.core.opening.up))
        self.metrics.set("wnod_bait_open", int(self.core.opening.is_open))

    # --- protocol.link.Listener ------------------------------------------------------------------------

    def connected(self, peer: str, epoch: int, resumed: bool) -> None:
        """Publish it, and tell the core."""
        self.metrics.set("wnod_link_connected", 1, peer=peer)
        self.core.connected(peer, epoch, resumed)

    def disconnected(self, peer: str) -> None:
        """Publish it, and tell the core."""
        self.metrics.set("wnod_link_connected", 0, peer=peer)
        self.core.disconnected(peer)

    def received(self, peer: str, message: SrvMsg) -> None:
        """One message of the hostmaster."""
        self.core.received(peer, message)

    # --- follower.Observer -------------------------------------------------------------------------------

    def changed(self, before: Lease | None, lease: Lease) -> None:
        """Count it."""
        self.numbers.changed(before, lease)

    def forgotten(self, lease: Lease) -> None:
        """Nothing: what is there is counted when somebody asks."""

    # --- people's questions --------------------------------------------------------------------------------

    def snapshot(self) -> Mapping[str, Any]:
        """What `wnod status` and `wnod jobs` show."""
        core = self.core
        return {
            "role": "bait",
            "bait": self.config.bait,
            "epoch": self.journal.epoch,
            "host": self.config.hostmaster.name,
            "link": core.view.linked,
            "open": core.opening.is_open,
            "reason": core.opening.reason,
            "lrms": "ok" if core.opening.up else "away",
            "jobs": [_row(lease) for lease in core.follower.leases.values()],
            "past": [_row(lease) for lease in core.follower.past],
        }

    def explain(self, job: str) -> Mapping[str, Any] | None:
        """Where a job is and why, step by step. `job` is `12`, or `12_3` for an array task."""
        steps = self.journal.read_history(job.split("_", maxsplit=1)[0]) if job else ()
        mine = [step for step in steps if "_" not in job or f"/{job}." in step.text]
        if not mine:
            return None
        return {"job": job, "text": mine[-1].text, "steps": [{"at": s.at, "text": s.text} for s in mine]}


def _times(config: BaitConfig) -> Times:
    return Times(
        poll_s=config.lrms.poll_s,
        running_s=max(config.lrms.running_s, config.lrms.poll_s),
        answer_s=config.hook.limit_s * 2 / 3,
        retry_s=config.retry.delay_s,
        longest_retry_s=config.retry.longest_s,
        restart_grace_s=config.lrms.restart_grace_s,
    )


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
