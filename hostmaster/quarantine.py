"""VMs that are kept when they end, for somebody to look at: their disk, their memory and what they were.

`STATE/quarantine/KEY/` holds `facts.json`, `overlay` and, if the VM could be saved, `memory` (`virsh restore` and
the tools that read saved guests understand it). The directory is the record: what is in it is kept. Each has a day
on which it goes by itself, and there are never more than so many: the earlier ones stay, since whoever misbehaves
must not be able to push out what he left before.
"""

import contextlib
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hostmaster.rules.vm import Vm
from hostmaster.world import DomainRefused, Hypervisor, Images

DAY_S = 86_400.0
EXPIRE_EVERY_S = 600.0
FACTS = "facts.json"

_log = Logger("hostmaster.quarantine")


class NotKept(Exception):
    """The VM cannot be kept; the text says why, and what would help."""


class Kept(msgspec.Struct, frozen=True):
    """One VM in quarantine. Times are seconds since 1970."""

    name: str
    vm: str
    run: str
    owner: int
    environment: str
    image: str
    bait: str
    lease: str
    by: str
    """Who wished it."""
    why: str
    at: float
    until: float
    """It goes then."""


@dataclass
class Quarantine:
    """All that this host keeps. Without `at_most` nothing is."""

    clock: IReactorTime
    directory: Path
    hypervisor: Hypervisor
    images: Images
    at_most: int
    keep_s: float
    run: Callable[[Callable[[], Any]], Awaitable[Any]]
    """Does blocking file work elsewhere."""
    kept: tuple[Kept, ...] = ()
    """As of the last change."""
    _coming: set[str] = field(default_factory=set)
    """Names of those that are just being put in."""

    def start(self) -> None:
        """Make the directory and read it. Guests' memory is in it: for nobody but us and libvirt."""
        if self.at_most:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(0o700)
        self._read()

    def why_not(self, name: str = "") -> str:
        """Why one more (or this one, if it is not there yet) cannot be kept; empty if it can."""
        if not self.at_most:
            return "this host keeps no VMs: set quarantine.at_most in hostmaster.yaml"
        others = {one.name for one in self.kept} | self._coming - {name}
        if len(others) >= self.at_most and not self.has(name):
            return f"the quarantine is full with {len(others)} (quarantine.at_most): wnod vm kept, wnod vm drop NAME"
        return ""

    async def keep(self, vm: Vm) -> Kept:
        """End the VM and keep it; to be repeated after a crash. NotKept: its disk is where it was.

        Its memory is lost if the hypervisor cannot save it; its disk never is. Raises HypervisorUnavailable.
        """
        if why := self.why_not(vm.key):
            raise NotKept(why)
        kept = self._described(vm)
        place = self.directory / vm.key
        self._coming.add(vm.key)
        try:
            await self.run(lambda: _write_facts(place, kept))
            self._read()
            await self._end(vm, place)
            await self.images.move_overlay(vm.key, str(place / "overlay"))
        except (OSError, ValueError) as error:
            raise NotKept(f"{place}: {error}") from error
        finally:
            self._coming.discard(vm.key)
        _log.warn("{vm} is kept in quarantine: {why}", vm=vm.key, why=kept.why, lease=vm.lease)
        return kept

    async def _end(self, vm: Vm, place: Path) -> None:
        try:
            await self.hypervisor.save(vm.uuid, str(place / "memory"))
        except DomainRefused as error:
            _log.warn("{vm}: its memory is not kept: {error}", vm=vm.key, error=error)
            await self.hypervisor.destroy(vm.uuid)

    def _described(self, vm: Vm) -> Kept:
        known = next((one for one in self.kept if one.name == vm.key), None)
        if known is not None:
            return known
        assert vm.keep is not None, "asked to keep a VM that nobody wants kept"
        now = self.clock.seconds()
        return Kept(
            name=vm.key, vm=vm.vm, run=str(vm.bound or vm.asked), owner=vm.owner, environment=vm.environment,
            image=vm.image, bait=vm.bait, lease=vm.lease, by=vm.keep.by, why=vm.keep.why, at=now,
            until=now + self.keep_s,
        )  # fmt: skip

    def has(self, name: str) -> bool:
        """True if that is kept."""
        return any(one.name == name for one in self.kept)

    async def drop(self, name: str) -> bool:
        """Remove one for good; False if there is none of that name."""
        if not self.has(name):
            return False
        await self.run(lambda: shutil.rmtree(self.directory / name, ignore_errors=True))
        self._read()
        _log.info("{name} is dropped from quarantine", name=name)
        return True

    async def expire(self) -> None:
        """Drop those whose time is over. Call every EXPIRE_EVERY_S."""
        now = self.clock.seconds()
        for one in [one for one in self.kept if now >= one.until]:
            await self.drop(one.name)

    def rows(self) -> list[dict[str, Any]]:
        """For people and programs."""
        return [{**msgspec.structs.asdict(one), "mib": _mib(self.directory / one.name)} for one in self.kept]

    def _read(self) -> None:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self.directory.glob(f"*/{FACTS}")):
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    found.append(msgspec.json.decode(path.read_bytes(), type=Kept))
        self.kept = tuple(found)


def why_not(quarantine: Quarantine | None) -> str:
    """Why no VM can be put into quarantine now; empty if one can."""
    return "this host has no quarantine" if quarantine is None else quarantine.why_not()


async def put_away(quarantine: Quarantine | None, vm: Vm) -> tuple[bool, str]:
    """Keep the VM if that can be: whether it is kept, and a text for its story. Raises HypervisorUnavailable."""
    try:
        if quarantine is None:
            raise NotKept(why_not(None))
        kept = await quarantine.keep(vm)
    except NotKept as error:
        _log.error("{vm} is not kept: {error}", vm=vm.key, error=error, lease=vm.lease)
        return False, f"not kept: {error}"
    return True, f"kept in quarantine as {kept.name}"


def _write_facts(place: Path, kept: Kept) -> None:
    place.mkdir(mode=0o700, exist_ok=True)
    beside = place / f".{FACTS}"
    try:
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
        beside.replace(place / FACTS)
    except OSError:
        beside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something in it
            place.rmdir()  # what nobody described would never go
        raise


def _mib(place: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.lstat().st_blocks * 512 for file in place.iterdir()) >> 20
    return 0
