"""What only a real libvirtd and a real QEMU can show of saving: crashes in the middle, and what a VM runs on."""

import hashlib
import os
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from hostmaster.edges.guests import GuestChannels
from hostmaster.world import DomainRefused, DomainSpec, HypervisorUnavailable
from protocol import guest
from protocol.guest import FromGuest, GuestHello, GuestReady, GuestStandby
from protocol.ids import Generation
from tests.contract.hypervisor.worlds import RealWorld, settle, until

pytestmark = pytest.mark.real


class Standing:
    """A guest at standby in a real world, and what its channels say."""

    def __init__(self, world: RealWorld) -> None:
        self.world = world
        self.said: list[tuple[str, FromGuest | None]] = []
        uid, _ = world.hypervisor.qemu_user
        hear = lambda name, said: self.said.append((name, said))  # noqa: E731
        self.channels = GuestChannels(reactor, str(world.daemon.root), hear, lambda: frozenset({uid}))

    async def boot(self, spec: DomainSpec) -> None:
        name = self.open(spec)
        await self.world.hypervisor.create(spec)
        await until(lambda: self.heard(name, GuestHello), 60)
        self.channels.send(name, guest.welcome(Generation(1)) + guest.clock(reactor.seconds()) + guest.standby())  # type: ignore[attr-defined]
        await until(lambda: self.heard(name, GuestStandby), 60)

    def open(self, spec: DomainSpec) -> str:
        name = Path(spec.channel).stem
        assert self.channels.open(name) == spec.channel
        return name

    def heard(self, name: str, kind: type) -> bool:
        return any(n == name and isinstance(said, kind) for n, said in self.said)


@pytest.fixture
def standing(real: RealWorld) -> Iterator[Standing]:
    made = Standing(real)
    yield made
    made.channels.close_all()


async def another(world: RealWorld, saved: DomainSpec, overlay: str) -> DomainSpec:
    spec = await world.spec(generation=saved.ours.generation + 1)
    return replace(spec, uuid=saved.uuid, mac=saved.mac, overlay=overlay)


@pytest_twisted.ensureDeferred
async def test_a_guest_restored_from_its_golden_state_takes_the_lines_at_once_and_gets_ready(
    real: RealWorld, standing: Standing
) -> None:
    first = await real.spec()
    await standing.boot(first)
    memory = await real.images.golden_path("vm1-a")
    await real.hypervisor.save(first.uuid, memory)
    await real.images.freeze("vm1-a", "vm1-g1")
    assert os.stat(memory).st_mode & 0o777 == 0o600
    assert not list(Path(memory).parent.glob("*.partial"))
    second = await another(real, first, await real.images.thaw("vm1-a", "vm1-g2"))
    name = standing.open(second)
    await real.hypervisor.restore(memory, second)
    lines = guest.welcome(Generation(2)) + guest.clock(reactor.seconds()) + guest.seed(os.urandom(32)) + guest.go()  # type: ignore[attr-defined]

    async def sent() -> bool:
        return standing.channels.send(name, lines)

    await settle(sent)
    await until(lambda: standing.heard(name, GuestReady), 60)


def sources(xml: str) -> dict[str, tuple[str, bool]]:
    """Device to file and whether it is read-only, as libvirt says of a domain that lives."""
    found = {}
    for disk in ET.fromstring(xml).iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        assert target is not None
        assert source is not None
        found[target.get("dev", "")] = (source.get("file", ""), disk.find("readonly") is not None)
    return found


@pytest_twisted.ensureDeferred
async def test_a_live_domain_runs_on_its_own_overlay_and_nothing_it_writes_reaches_the_image(
    real: RealWorld, standing: Standing
) -> None:
    """The same for a domain that was restored; the guest itself writes a lot where it can, and tries where not."""
    first = await real.spec()
    before = hashes(first)
    await standing.boot(first)
    memory = await real.images.golden_path("vm1-a")
    written = Path(first.overlay).stat().st_blocks
    generation = generation_id(await live(real, first.uuid))
    assert sources(await live(real, first.uuid)) == {"vda": (first.root, True), "vdb": (first.overlay, False)}
    await real.hypervisor.save(first.uuid, memory)
    await real.images.freeze("vm1-a", "vm1-g1")
    second = await another(real, first, await real.images.thaw("vm1-a", "vm1-g2"))
    await real.hypervisor.restore(memory, second)
    assert sources(await live(real, second.uuid)) == {"vda": (first.root, True), "vdb": (second.overlay, False)}
    assert open_for_writing(real, first.root) == []
    assert generation_id(await live(real, second.uuid)) not in ("", generation)
    assert written > 0
    await real.hypervisor.destroy(second.uuid)
    assert hashes(first) == before
    assert (await real.images.verify(real.environment)).root == first.root


async def live(world: RealWorld, uuid: str) -> str:
    def xml(connection: Any) -> str:
        return str(connection.lookupByUUIDString(uuid).XMLDesc(0))

    return await world.behind(xml)


def generation_id(xml: str) -> str:
    return ET.fromstring(xml).findtext("genid", "")


def hashes(spec: DomainSpec) -> list[str]:
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (spec.root, spec.kernel, spec.initrd)]


def open_for_writing(world: RealWorld, path: str) -> list[str]:
    """Which QEMU could write that file, as the kernel says."""
    script = (
        "for p in $(pgrep qemu-system); do for f in /proc/$p/fd/*; do "
        f'[ "$(readlink $f)" = {path} ] && grep -H "^flags:.*[12]$" /proc/$p/fdinfo/${{f##*/}}; done; done; true'
    )
    return world.daemon.inside(["sh", "-c", script]).splitlines()


@pytest_twisted.ensureDeferred
async def test_a_libvirtd_that_dies_while_it_saves_leaves_no_half_file_and_saving_again_settles_it(
    real: RealWorld, standing: Standing
) -> None:
    spec = await real.spec()
    await standing.boot(spec)
    memory = Path(await real.images.golden_path("vm1-a"))
    beside = memory.with_name("memory.partial")
    saving = Deferred.fromCoroutine(real.hypervisor.save(spec.uuid, str(memory)))
    await until(beside.exists)
    real.daemon.kill()
    with pytest.raises(HypervisorUnavailable):
        await saving
    assert not memory.exists()
    real.daemon.start()

    async def settled() -> bool:
        """It may be running, or paused as for the save that was cut short: either way saving again is all it takes."""
        try:
            if await real.hypervisor.domains():
                await real.hypervisor.save(spec.uuid, str(memory))
        except HypervisorUnavailable:
            return False
        except DomainRefused as e:
            return "nothing whole" in str(e)
        return True

    await settle(settled, 60)
    assert await real.hypervisor.domains() == ()
    # Or QEMU had finished when nobody was there to mark the file as whole.
    assert not memory.exists() or memory.read_bytes().startswith(b"LibvirtQemudSave")


@pytest_twisted.ensureDeferred
async def test_half_a_file_is_never_taken_for_a_saved_domain(real: RealWorld) -> None:
    spec = await real.spec()
    await real.hypervisor.create(spec)
    memory = Path(await real.images.golden_path("vm1-a"))
    await real.hypervisor.save(spec.uuid, str(memory))
    whole = memory.read_bytes()
    assert whole.startswith(b"LibvirtQemudSave")
    memory.unlink()
    memory.with_name("memory.partial").write_bytes(whole.replace(b"LibvirtQemudSave", b"LibvirtQemudPart", 1))
    with pytest.raises(DomainRefused, match="nothing whole"):
        await real.hypervisor.save(spec.uuid, str(memory))
    memory.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DomainRefused):
        await real.hypervisor.restore(str(memory), spec)
    assert await real.hypervisor.domains() == ()


@pytest_twisted.ensureDeferred
async def test_a_save_that_was_given_up_is_found_whole_or_not_at_all(real: RealWorld) -> None:
    spec = await real.spec()
    await real.hypervisor.create(spec)
    memory = Path(await real.images.golden_path("vm1-a"))
    saving = Deferred.fromCoroutine(real.hypervisor.save(spec.uuid, str(memory)))
    await until(lambda: memory.with_name("memory.partial").exists())
    real.daemon.signal(signal.SIGSTOP)
    saving.cancel()
    saving.addErrback(lambda _: None)
    real.daemon.signal(signal.SIGCONT)

    async def saved() -> bool:
        try:
            await real.hypervisor.save(spec.uuid, str(memory))
        except DomainRefused:  # it is being saved: libvirt has the domain's lock
            return False
        return True

    await settle(saved, 60)
    assert memory.read_bytes().startswith(b"LibvirtQemudSave")
    assert await real.hypervisor.domains() == ()


@pytest_twisted.ensureDeferred
async def test_a_hostmaster_that_is_not_root_saves_freezes_thaws_and_restores(unprivileged: RealWorld) -> None:
    world = unprivileged
    assert os.geteuid() != 0
    first = await world.spec()
    await world.hypervisor.create(first)
    memory = await world.images.golden_path("vm1-a")
    await world.hypervisor.save(first.uuid, memory)
    await world.images.freeze("vm1-a", "vm1-g1")
    assert (await world.images.goldens())["vm1-a"] > 0
    second = await another(world, first, await world.images.thaw("vm1-a", "vm1-g2"))
    await world.hypervisor.restore(memory, second)
    await world.hypervisor.relabel(second.uuid, replace(second.ours, owner=4711))
    (domain,) = await world.hypervisor.domains()
    assert domain.ours is not None
    assert domain.ours.owner == 4711
    assert sources(await live(world, second.uuid))["vdb"] == (second.overlay, False)
    with pytest.raises(PermissionError):  # guests' memory is root's here, and 0600
        Path(memory).read_bytes()
    await world.hypervisor.destroy(second.uuid)
    await world.images.remove_golden("vm1-a")
    assert await world.images.goldens() == {}
