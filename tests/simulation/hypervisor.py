"""One host's libvirt: the faithful fake with time, hanging, lost events, and one queue that goes on after a hang."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from hostmaster.world import Accelerator, Domain, DomainSpec, HypervisorUnavailable, Ours
from tests.fakes.hypervisor import FakeHypervisor, Kept
from tests.fakes.images import Disk, FakeImages
from tests.simulation.clock import Life, World, at_once

TOOK_S = {"destroy": 0.2, "pause": 0.02, "unpause": 0.02}
LIMITS_S = {
    "create": 60.0, "destroy": 30.0, "domains": 10.0, "pause": 10.0, "unpause": 10.0, "save": 120.0, "restore": 60.0,
    "relabel": 10.0,
}  # fmt: skip
LATE_S = 8.0
"""How late at most a VM is made when nobody waits for it any more, by a libvirt that answers all else meanwhile."""


class Libvirtd(FakeHypervisor):
    """What there is on one host. Outlives the hostmaster; `hang_until` stops it as a whole."""

    def __init__(
        self, world: World, rng: random.Random, whim: random.Random, trace: Callable[[str, str], None]
    ) -> None:
        """`whim` decides what a hang is of, so that `rng` stays what it was."""
        super().__init__(world, accelerator=Accelerator.NONE)
        self.world = world
        self.rng = rng
        self.trace = trace
        self.hang_until = 0.0
        self.late_until = 0.0
        """What is to be made before then is made too late."""
        self.whim = whim
        self.starts = 0
        """How often the machine has gone down: what libvirt was asked before is lost with it."""
        self.changed: Callable[[str], None] = lambda uuid: None
        """Called at once when a domain has come, gone or changed its state."""
        self._known: dict[str, tuple[str, Domain]] = {}
        """By UUID the text of each domain that there is, and what it says."""
        self.touched: Callable[[str, str], None] = lambda verb, uuid: None
        self.images = FakeImages()
        """The same host's."""
        self.opened: dict[str, Disk] = {}
        """The overlay that each domain had open last, by UUID."""
        self.known: dict[str, Disk] = {}
        """The overlay that each saved memory knows, by path."""
        self.mixed: set[str] = set()
        """Domains that have started on an overlay that others have written to, or that their memory does not know."""

    def _created(self, spec: DomainSpec) -> Kept:
        return self._open(spec, "", super()._created)

    def _restored(self, path: str, spec: DomainSpec) -> Kept:
        name = PurePath(path).parent.name
        kept = self._open(spec, name, partial(super()._restored, path))
        if self.images.frozen.get(name) is not self.known.get(path):
            self.mixed.add(spec.uuid)
        return kept

    def _open(self, spec: DomainSpec, golden: str, start: Callable[[DomainSpec], Kept]) -> Kept:
        """libvirt does not ask what is on a disk."""
        kept = start(spec)
        disk = self.images.disks[PurePath(spec.overlay).name]
        self.mixed.discard(spec.uuid)
        if disk.used or disk.of != golden:
            self.mixed.add(spec.uuid)
        disk.used, self.opened[spec.uuid] = True, disk
        return kept

    async def save(self, uuid: str, path: str) -> None:
        lived = uuid in self.kept
        try:
            await super().save(uuid, path)
        finally:  # whatever became of the answer
            if lived and uuid not in self.kept:
                self.known[path] = self.opened[uuid]

    def _domain(self, uuid: str) -> Domain:
        kept = self.kept[uuid]
        text, known = self._known.get(uuid, ("", None))
        if known is None or text is not kept.xml:  # a UUID comes again with each restore, a spare's facts are replaced
            known = super()._domain(uuid)
            self._known[uuid] = kept.xml, known
        elif known.state is not kept.state:
            known = replace(known, state=kept.state)
            self._known[uuid] = text, known
        return known

    def _hint(self, uuid: str) -> None:
        if uuid:
            if uuid not in self.kept:
                self._known.pop(uuid, None)
            self.changed(uuid)
        super()._hint(uuid)

    def leave(self, hint: Callable[[str], None]) -> None:
        """That hostmaster is gone."""
        if hint in self._hints:
            self._hints.remove(hint)

    def restarted(self) -> None:
        """libvirtd is back: whoever is connected is told that all may have changed."""
        self.away = ""
        self._hint("")

    def end(self) -> None:
        """No more trouble."""
        self.hang_until, self.late_until, self.lose_answers, self.refuse, self.drop_hints = 0.0, 0.0, 0, "", False
        if self.away:
            self.restarted()


class Connection:
    """hostmaster.world.Hypervisor for one life of a hostmaster."""

    def __init__(self, daemon: Libvirtd, life: Life) -> None:
        self._daemon = daemon
        self._life = life
        self._hint: Callable[[str], None] = lambda uuid: None

    async def _call(self, verb: str, what: str, call: Callable[[], Any], took_s: float) -> Any:
        life, daemon = self._life, self._daemon
        life.point("before-libvirt")
        answer: Deferred[Any] = Deferred(lambda d: None)
        wait = max(0.0, daemon.hang_until - life.world.now) + took_s * (0.5 + daemon.rng.random())
        # Carried out by libvirtd, whether or not the one who asked still waits or lives.
        then = partial(self._carry_out, call, answer, daemon.starts)
        if verb in ("create", "restore") and life.world.now < daemon.late_until:
            self._put_off(answer, then)
        else:
            daemon.world.callLater(wait, then)
        limit = life.callLater(LIMITS_S[verb], self._too_late, verb, answer)
        try:
            result = await answer
        finally:
            if limit.active():
                limit.cancel()
        if verb != "domains":
            daemon.trace("", f"{life.name}: {what}")
            life.point("after-libvirt")
        return result

    def _put_off(self, answer: "Deferred[Any]", then: Callable[[], None]) -> None:
        world = self._daemon.world
        if answer.called or self._life.dead:
            world.callLater(LATE_S * self._daemon.whim.random(), then)
        else:
            world.callLater(1.0, self._put_off, answer, then)

    def _carry_out(self, call: Callable[[], Any], answer: "Deferred[Any]", starts: int) -> None:
        if starts != self._daemon.starts:
            return
        try:
            result = at_once(call())
        except Exception as error:
            result = Failure(error)  # type: ignore[no-untyped-call]
        if not answer.called and not self._life.dead:
            answer.callback(result)

    @staticmethod
    def _too_late(verb: str, answer: "Deferred[Any]") -> None:
        if not answer.called:
            answer.errback(HypervisorUnavailable(f"{verb}: no answer in time"))

    def _touch(self, verb: str, uuid: str, call: Callable[[], Any]) -> Any:
        self._daemon.touched(verb, uuid)
        return self._call(verb, f"{verb} {uuid[-4:]}", call, TOOK_S[verb])

    async def create(self, spec: DomainSpec) -> None:
        await self._call("create", f"created {spec.ours.slot}", lambda: self._daemon.create(spec), 0.3)

    async def destroy(self, uuid: str) -> None:
        await self._touch("destroy", uuid, lambda: self._daemon.destroy(uuid))

    async def pause(self, uuid: str) -> None:
        await self._touch("pause", uuid, lambda: self._daemon.pause(uuid))

    async def unpause(self, uuid: str) -> None:
        await self._touch("unpause", uuid, lambda: self._daemon.unpause(uuid))

    async def save(self, uuid: str, path: str) -> None:
        await self._call("save", f"saved {uuid[-4:]}", lambda: self._daemon.save(uuid, path), 1.4)

    async def restore(self, path: str, spec: DomainSpec) -> None:
        await self._call("restore", f"restored {spec.ours.slot}", lambda: self._daemon.restore(path, spec), 0.45)

    async def relabel(self, uuid: str, ours: Ours) -> None:
        await self._call("relabel", f"relabelled {uuid[-4:]}", lambda: self._daemon.relabel(uuid, ours), 0.01)

    async def identity(self) -> str:
        return self._daemon.version

    async def domains(self) -> tuple[Domain, ...]:
        found: tuple[Domain, ...] = await self._call("domains", "", self._daemon.domains, 0.003)
        return found

    async def probe(self, kernel: str, initrd: str) -> tuple[Accelerator, str]:
        return Accelerator.NONE, "the simulation said so"

    def watch(self, hint: Callable[[str], None]) -> None:
        def told(uuid: str) -> None:
            if not self._life.dead:
                hint(uuid)

        self._hints = [*getattr(self, "_hints", []), told]
        self._daemon.watch(told)

    def leave(self) -> None:
        """The hostmaster is gone."""
        for hint in getattr(self, "_hints", []):
            self._daemon.leave(hint)


class Files(FakeImages):
    """Images and overlays of one host, through the eyes of one life of its hostmaster."""

    def __init__(self, disk: FakeImages, life: Life) -> None:
        super().__init__(
            disk.catalogue, disk.altered, disk.full, disk.made, moved=disk.moved, golden=disk.golden, saved=disk.saved,
            disks=disk.disks, frozen=disk.frozen,
        )  # fmt: skip
        self._life = life

    async def make_overlay(self, name: str, disk_mib: int) -> str:
        self._life.point("before-overlay")
        return await super().make_overlay(name, disk_mib)

    async def remove_overlay(self, name: str) -> None:
        self._life.point("before-overlay")
        await super().remove_overlay(name)

    async def freeze(self, name: str, overlay: str) -> None:
        self._life.point("before-overlay")
        await super().freeze(name, overlay)

    async def thaw(self, name: str, overlay: str) -> str:
        self._life.point("before-overlay")
        return await super().thaw(name, overlay)

    async def remove_golden(self, name: str) -> None:
        self._life.point("before-overlay")
        await super().remove_golden(name)
