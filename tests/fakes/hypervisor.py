"""A hypervisor in memory. The contract suite runs on it and on libvirt alike; faults are switched on by tests.

It keeps each domain as the XML that libvirt would be given and reads it back with the real reader, so that a
test over it also proves that what we write down about a VM can be found again.
"""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from hostmaster.edges.domain import domain_xml, read_domain, restored_xml
from hostmaster.world import (
    Accelerator,
    Domain,
    DomainRefused,
    DomainSpec,
    DomainState,
    HypervisorUnavailable,
    Ours,
)

TOO_LATE_S = 60.0


@dataclass
class Kept:
    """One domain that exists."""

    xml: str
    state: DomainState = DomainState.RUNNING
    spec: DomainSpec | None = None
    restored: str = ""
    """The path it was restored from: its guest goes on where it was, instead of booting."""


@dataclass
class FakeHypervisor:
    """hostmaster.world.Hypervisor. Public fields are the test's controls and windows."""

    clock: IReactorTime
    accelerator: Accelerator = Accelerator.TCG
    kept: dict[str, Kept] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    """Every call as "verb uuid", whatever became of it."""
    away: str = ""
    """Not empty: libvirt does not answer, for this reason, and does nothing."""
    refuse: str = ""
    """Not empty: every create is refused with this text."""
    refuse_save: str = ""
    refuse_restore: str = ""
    version: str = "fake-1"
    """What `identity` says."""
    saved: dict[str, Kept] = field(default_factory=dict)
    """Path to what was saved there. Give the same to FakeImages, which removes what it removes."""
    overlays: Collection[str] | None = None
    """The names of those that exist: no domain starts without its own. None: whatever is asked for exists."""
    lose_answers: int = 0
    """So many of the next calls are carried out, but their answer is lost."""
    put_off: bool = False
    """Creates and restores are not answered in time, and are carried out only by `catch_up`."""
    hang: bool = False
    """Calls stay unanswered and undone until `release`."""
    drop_hints: bool = False
    _to_come: list[Callable[[], None]] = field(default_factory=list)
    _hung: list["Deferred[None]"] = field(default_factory=list)
    _hints: list[Callable[[str], None]] = field(default_factory=list)

    # --- hostmaster.world.Hypervisor -------------------------------------------------------------

    async def create(self, spec: DomainSpec) -> None:
        await self._begin(f"create {spec.uuid}")
        await self._bring_up(spec.uuid, lambda: self._created(spec))

    async def destroy(self, uuid: str) -> None:
        await self._begin(f"destroy {uuid}")
        if uuid in self.kept:
            if self._domain(uuid).ours is None:
                raise DomainRefused(f"domain {uuid} is not ours: it is left alone")
            self.vanish(uuid)
        self._answer()

    async def pause(self, uuid: str) -> None:
        await self._bring_to(uuid, "pause", DomainState.PAUSED)

    async def unpause(self, uuid: str) -> None:
        await self._bring_to(uuid, "unpause", DomainState.RUNNING)

    async def save(self, uuid: str, path: str) -> None:
        await self._begin(f"save {uuid}")
        if uuid in self.kept:
            if self.refuse_save:
                raise DomainRefused(self.refuse_save)
            if self._domain(uuid).ours is None:
                raise DomainRefused(f"domain {uuid} is not ours: it is left alone")
            self.saved[path] = self.kept[uuid]
            self.vanish(uuid)
        elif path not in self.saved or self._read(self.saved[path]).uuid != uuid:
            raise DomainRefused(f"no domain {uuid}, and nothing saved of it at {path}")
        self._answer()

    async def restore(self, path: str, spec: DomainSpec) -> None:
        await self._begin(f"restore {spec.uuid}")
        await self._bring_up(spec.uuid, lambda: self._restored(path, spec))

    async def relabel(self, uuid: str, ours: Ours) -> None:
        await self._begin(f"relabel {uuid}")
        if uuid not in self.kept:
            raise DomainRefused(f"no domain {uuid}")
        kept = self.kept[uuid]
        if kept.spec is None:
            raise DomainRefused(f"domain {uuid} is not ours: it is left alone")
        kept.spec = replace(kept.spec, ours=ours)
        kept.xml = domain_xml(kept.spec)
        self._hint(uuid)
        self._answer()

    async def identity(self) -> str:
        await self._begin("identity")
        return self.version

    async def domains(self) -> tuple[Domain, ...]:
        await self._begin("domains")
        found = self._all()
        self._answer()
        return found

    async def probe(self, kernel: str, initrd: str) -> tuple[Accelerator, str]:
        await self._begin("probe")
        return self.accelerator, "the test said so"

    def watch(self, hint: Callable[[str], None]) -> None:
        self._hints.append(hint)

    # --- what tests do to it ---------------------------------------------------------------------

    def vanish(self, uuid: str) -> None:
        """The domain ends: its guest shut down, or somebody destroyed it."""
        del self.kept[uuid]
        self._hint(uuid)

    def stop(self, uuid: str) -> None:
        """The domain is there but executes nothing, as after a crash that is preserved."""
        self.kept[uuid].state = DomainState.STOPPED
        self._hint(uuid)

    def stranger(self, name: str) -> str:
        """A domain that somebody else made; its UUID."""
        uuid = str(uuid4())
        self.kept[uuid] = Kept(f"<domain type='test'><name>{name}</name><uuid>{uuid}</uuid></domain>")
        return uuid

    def release(self) -> None:
        """Let the hanging calls go on."""
        self.hang = False
        hung, self._hung = self._hung, []
        for deferred in hung:
            deferred.callback(None)

    def catch_up(self) -> None:
        """Carry out what was put off, as far as it can still be done."""
        self.put_off = False
        to_come, self._to_come = self._to_come, []
        for bring_up in to_come:
            with contextlib.suppress(DomainRefused):
                bring_up()

    def come_back(self) -> None:
        """libvirt answers again, and says that all may have changed."""
        self.away = ""
        self._hint("")

    # --- inside ----------------------------------------------------------------------------------

    async def _begin(self, call: str) -> None:
        self.calls.append(call)
        if self.hang:
            self._hung.append(Deferred())
            await self._hung[-1]
        if self.away:
            raise HypervisorUnavailable(f"{call}: {self.away}")

    def _answer(self) -> None:
        if self.lose_answers:
            self.lose_answers -= 1
            raise HypervisorUnavailable("the answer was lost")

    async def _bring_up(self, uuid: str, make: Callable[[], Kept]) -> None:
        def bring_up() -> None:
            if uuid not in self.kept:
                self.kept[uuid] = make()
                self._hint(uuid)

        if self.put_off:
            self._to_come.append(bring_up)
            too_late: Deferred[None] = Deferred()
            self.clock.callLater(TOO_LATE_S, too_late.callback, None)
            await too_late
            raise HypervisorUnavailable("no answer in time")
        bring_up()
        self._answer()

    async def _bring_to(self, uuid: str, verb: str, wanted: DomainState) -> None:
        await self._begin(f"{verb} {uuid}")
        if uuid not in self.kept:
            raise DomainRefused(f"no domain {uuid}")
        if self.kept[uuid].state is not wanted:
            self.kept[uuid].state = wanted
            self._hint(uuid)
        self._answer()

    def _created(self, spec: DomainSpec) -> Kept:
        if self.refuse:
            raise DomainRefused(self.refuse)
        self._refuse_what_cannot_start(spec)
        return Kept(domain_xml(spec), spec=spec)

    def _refuse_what_cannot_start(self, spec: DomainSpec) -> None:
        if self.overlays is not None and PurePath(spec.overlay).name not in self.overlays:
            raise DomainRefused(f"cannot open {spec.overlay}")
        for domain in self._all():
            if domain.name == spec.ours.slot:
                raise DomainRefused(f"domain '{domain.name}' already exists with uuid {domain.uuid}")

    def _restored(self, path: str, spec: DomainSpec) -> Kept:
        if self.refuse_restore:
            raise DomainRefused(self.refuse_restore)
        if path not in self.saved:
            raise DomainRefused(f"cannot read {path}")
        self._refuse_what_cannot_start(spec)
        try:
            xml = restored_xml(self.saved[path].xml, spec)
        except ValueError as e:
            raise DomainRefused(str(e)) from e
        return Kept(xml, spec=spec, restored=path)

    def _all(self) -> tuple[Domain, ...]:
        return tuple(self._domain(uuid) for uuid in self.kept)

    def _domain(self, uuid: str) -> Domain:
        return self._read(self.kept[uuid])

    @staticmethod
    def _read(kept: Kept) -> Domain:
        return read_domain(kept.xml, kept.state)

    def _hint(self, uuid: str) -> None:
        # Later, as with libvirt, whose events come from another thread.
        for hint in () if self.drop_hints else self._hints:
            self.clock.callLater(0, hint, uuid)
