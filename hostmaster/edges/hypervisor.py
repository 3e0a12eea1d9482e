"""libvirt behind hostmaster.world.Hypervisor: the only user of the blocking calls in libvirt_calls.

Every call runs on a pool of the connection's own, under a time limit; a call that does not come back in time means
"unknown", never "failed". docs/decisions/0003 has the reasons.
"""

import os
import uuid as uuids
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import libvirt
from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from hostmaster.edges import libvirt_calls as calls
from hostmaster.edges.capabilities import offered_accelerators, qemu_ids
from hostmaster.edges.domain import ProbeSpec, domain_xml, is_probe, probe_xml
from hostmaster.edges.events import Connection, Happening, Limits
from hostmaster.edges.probe import find_accelerator
from hostmaster.world import (
    Accelerator,
    Domain,
    DomainRefused,
    DomainSpec,
    DomainState,
    HypervisorUnavailable,
    Ours,
)

T = TypeVar("T")

_NOBODY_KNOWS = frozenset({libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_NO_MEMORY})


class LibvirtHypervisor:
    """hostmaster.world.Hypervisor over one libvirt. An EventThread must run before `start`."""

    def __init__(self, reactor: Any, uri: str, limits: Limits | None = None, emulator: str | None = None) -> None:
        self._limits = limits or Limits()
        self._reactor = reactor
        self._emulator = emulator
        self._hints: list[Callable[[str], None]] = []
        self._ends: dict[str, Deferred[Happening]] = {}
        self._described: calls.Described = {}
        self._labels = 0
        """How often a living domain's label was changed, as far as this process knows."""
        self._log = Logger("hostmaster.edges.hypervisor")
        self._connection = Connection(reactor, uri, self._limits)
        self._connection.changed = partial(self._hint, "")
        self._connection.happened = self._happened

    def start(self) -> None:
        """Begin to connect. Until `hint("")` every call raises HypervisorUnavailable with the reason."""
        self._connection.start()

    async def stop(self) -> None:
        """Close the connection; domains stay as they are."""
        await self._connection.stop()

    @property
    def trouble(self) -> str:
        """Empty while connected, else why not."""
        return self._connection.trouble

    @property
    def qemu_user(self) -> tuple[int, int]:
        """(uid, gid) of the QEMU processes: as libvirt says, else our own (qemu:///session)."""
        return self._ids or (os.geteuid(), os.getegid())

    @property
    def _ids(self) -> tuple[int, int] | None:
        return qemu_ids(self._connection.capabilities or "<capabilities/>")

    @property
    def _has_owners(self) -> bool:
        return self._ids is not None

    def watch(self, hint: Callable[[str], None]) -> None:
        """See hostmaster.world.Hypervisor."""
        self._hints.append(hint)

    async def create(self, spec: DomainSpec) -> None:
        """See hostmaster.world.Hypervisor."""
        work = partial(calls.create, xml=domain_xml(spec, self._has_owners), uuid=spec.uuid, console=spec.console)
        await self._ask(f"create {spec.ours.slot}", work, self._limits.create)

    async def destroy(self, uuid: str) -> None:
        """See hostmaster.world.Hypervisor. DomainRefused for a domain that is not ours."""
        await self._ask(f"destroy {uuid}", partial(calls.destroy, uuid=uuid, is_ours=calls.is_ours))

    async def pause(self, uuid: str) -> None:
        """See hostmaster.world.Hypervisor. DomainRefused if there is no such domain."""
        await self._ask(f"pause {uuid}", partial(calls.bring_to, uuid=uuid, wanted=DomainState.PAUSED))

    async def unpause(self, uuid: str) -> None:
        """See hostmaster.world.Hypervisor. DomainRefused if there is no such domain."""
        await self._ask(f"unpause {uuid}", partial(calls.bring_to, uuid=uuid, wanted=DomainState.RUNNING))

    async def save(self, uuid: str, path: str) -> None:
        """See hostmaster.world.Hypervisor. libvirt itself writes the file: it must be able to reach `path`."""
        await self._ask(f"save {uuid}", partial(calls.save, uuid=uuid, path=path), self._limits.save)

    async def restore(self, path: str, spec: DomainSpec) -> None:
        """See hostmaster.world.Hypervisor."""
        await self._ask(f"restore {spec.ours.slot}", partial(calls.restore, path=path, spec=spec), self._limits.create)

    async def relabel(self, uuid: str, ours: Ours) -> None:
        """See hostmaster.world.Hypervisor. DomainRefused also for a domain that is not ours."""
        try:
            await self._ask(f"relabel {uuid}", partial(calls.relabel, uuid=uuid, ours=ours))
        finally:
            self._labels += 1
            self._described = {}

    async def identity(self) -> str:
        """See hostmaster.world.Hypervisor."""
        try:
            return await self._ask("identify", partial(calls.identity, emulator=self._emulator))
        except DomainRefused as e:
            raise HypervisorUnavailable(str(e)) from e

    async def domains(self) -> tuple[Domain, ...]:
        """See hostmaster.world.Hypervisor."""
        labels = self._labels
        try:
            domains, described = await self._ask("list domains", partial(calls.list_all, known=self._described))
        except DomainRefused as e:
            raise HypervisorUnavailable(str(e)) from e
        if labels == self._labels:  # or it may have been read before a domain got another label
            self._described = described
        return domains

    async def probe(self, kernel: str, initrd: str) -> tuple[Accelerator, str]:
        """See hostmaster.world.Hypervisor. DomainRefused if no accelerator boots a guest."""
        capabilities = await self._ask("read capabilities", lambda c: str(c.getCapabilities()))
        await self._ask("remove old probes", calls.remove_probes)
        boot = partial(self._boot_probe, kernel, initrd)
        return await find_accelerator(offered_accelerators(capabilities), boot)

    async def _boot_probe(self, kernel: str, initrd: str, accelerator: Accelerator) -> str:
        spec = ProbeSpec(str(uuids.uuid4()), accelerator, kernel, initrd, self._emulator)
        limit_s = self._limits.probe_kvm if accelerator is Accelerator.KVM else self._limits.probe_tcg
        ended = self._ends[spec.uuid] = Deferred()
        try:
            await self._ask(
                "start a probe", partial(calls.start, xml=probe_xml(spec, self._has_owners)), self._limits.create
            )
            happening = await ended.addTimeout(limit_s, self._reactor)
        except TimeoutError:
            return f"a probe guest did not end within {limit_s:g} s"
        except DomainRefused as e:
            return str(e)
        finally:
            del self._ends[spec.uuid]
            await self._ask("remove a probe", partial(calls.destroy, uuid=spec.uuid, is_ours=is_probe))
        return "" if happening is Happening.ENDED_ITSELF else "a probe guest ended without shutting itself down"

    async def _ask(self, what: str, work: Callable[[Any], T], limit_s: float | None = None) -> T:
        try:
            return await self._connection.call(what, work, limit_s or self._limits.call)
        except libvirt.libvirtError as e:
            if e.get_error_code() in _NOBODY_KNOWS:
                raise HypervisorUnavailable(f"{what}: {e}") from e
            raise DomainRefused(f"{what}: {e}") from e

    def _happened(self, uuid: str, happening: Happening) -> None:
        waiting = self._ends.get(uuid)
        if waiting is not None and happening is not Happening.CHANGED and not waiting.called:
            waiting.callback(happening)
        self._hint(uuid)

    def _hint(self, uuid: str) -> None:
        for hint in tuple(self._hints):
            try:
                hint(uuid)
            except Exception:  # the others are told all the same: one of them gets the host ready
                self._log.failure("a hint of {uuid} was not taken", uuid=uuid or "all")
