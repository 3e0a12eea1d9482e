"""The three hypervisors that the contract holds for, behind one face, with what a test may do behind their back."""

import grp
import os
import pwd
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import libvirt
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from hostmaster.edges.events import Limits
from hostmaster.edges.hypervisor import LibvirtHypervisor
from hostmaster.edges.images import LocalImages, Source
from hostmaster.world import Accelerator, Artifacts, DomainSpec, Hypervisor, Ours
from protocol.ids import EnvironmentName, Generation, LeaseId, Shape, VmName
from tests.contract.hypervisor.scratch import ScratchLibvirt, ScratchSession
from tests.fakes.hypervisor import FakeHypervisor
from wnod.image import manifest

T = TypeVar("T")

ENVIRONMENT = EnvironmentName("test")
LIMITS = Limits(call=10, create=60, probe_kvm=5, probe_tcg=60, first_retry=0.1, last_retry=0.5)


def spec(slot: str = "vm1", generation: int = 1) -> DomainSpec:
    """A spec for test:///: nothing in it has to exist."""
    ours = Ours(
        host="h1",
        slot=VmName(slot),
        generation=Generation(generation),
        lease=LeaseId("0" * 31 + "1"),
        bait="bait-h1",
        owner=1000,
        environment=ENVIRONMENT,
        image="a" * 64,
        shape=Shape(cpus=1, memory_mib=512, disk_mib=256),
        run='{"cluster":"c","job":"12","restart":0}',
    )
    return DomainSpec(
        ours=ours,
        uuid=str(uuid4()),
        mac="52:54:00:00:00:01",
        bridge="",
        accelerator=Accelerator.NONE,
        kernel="/image/kernel",
        initrd="/image/initrd",
        root="/image/root.squashfs",
        overlay="/overlays/vm1-g1",
        console="",
        channel="/channels/vm1-g1.sock",
    )


class World(Protocol):
    """A hypervisor and the hands behind its back."""

    hypervisor: Hypervisor

    async def open(self) -> None:
        """Return when it answers."""

    async def close(self) -> None:
        """Leave nothing behind of what the reactor is needed for."""

    def shut(self) -> None:
        """Leave no process and no thread behind, though the reactor may have been stopped, as by a signal."""

    async def spec(self, slot: str = "vm1", generation: int = 1) -> DomainSpec:
        """A domain that can be created here."""

    async def end(self, uuid: str) -> None:
        """Somebody else ends the domain."""

    async def stranger(self) -> str:
        """Somebody else's domain exists; its UUID."""

    def golden(self, name: str) -> str:
        """A path that memory may be saved at."""


class FakeWorld:
    """The fake, on the real reactor so that the same test suits it."""

    def __init__(self) -> None:
        self.hypervisor = FakeHypervisor(clock=reactor)  # type: ignore[arg-type]

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def shut(self) -> None:
        pass

    async def spec(self, slot: str = "vm1", generation: int = 1) -> DomainSpec:
        return spec(slot, generation)

    async def end(self, uuid: str) -> None:
        self.hypervisor.vanish(uuid)

    async def stranger(self) -> str:
        return self.hypervisor.stranger("somebody-elses")

    def golden(self, name: str) -> str:
        return f"/golden/{name}/memory"


class LibvirtWorld:
    """libvirt at a URI; its own connection for what happens behind the hypervisor's back."""

    kind = "test"

    def __init__(self, uri: str = "test:///default") -> None:
        self.uri = uri
        self.hypervisor = LibvirtHypervisor(reactor, uri, LIMITS)
        self._goldens: Path | None = None

    async def open(self) -> None:
        opened: Deferred[None] = Deferred()
        self.hypervisor.watch(lambda uuid: None if uuid or opened.called else opened.callback(None))
        self.hypervisor.start()
        await opened.addTimeout(60, reactor)  # type: ignore[arg-type]

    async def close(self) -> None:
        if self.kind == "test":  # its domains are the process's: they last as long as anybody's connection does
            await self.behind(lambda c: [domain.destroy() for domain in c.listAllDomains() if domain.name() != "test"])
        await self.hypervisor.stop()

    def shut(self) -> None:
        if self._goldens is not None:
            shutil.rmtree(self._goldens)

    def golden(self, name: str) -> str:
        self._goldens = self._goldens or Path(tempfile.mkdtemp(prefix="wnod-golden-"))
        return str(self._goldens / name)

    async def spec(self, slot: str = "vm1", generation: int = 1) -> DomainSpec:
        return spec(slot, generation)

    async def end(self, uuid: str) -> None:
        await self.behind(lambda c: c.lookupByUUIDString(uuid).destroy())

    async def stranger(self) -> str:
        uuid = str(uuid4())
        xml = (
            f"<domain type='{self.kind}'><name>somebody-elses</name><uuid>{uuid}</uuid>"
            "<memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
        )
        flags = 0 if self.kind == "test" else libvirt.VIR_DOMAIN_START_PAUSED
        await self.behind(lambda c: c.createXML(xml, flags))
        return uuid

    async def behind(self, work: Callable[[Any], T]) -> T:
        """Do something over another connection."""

        def with_connection() -> T:
            connection = libvirt.open(self.uri)
            try:
                return work(connection)
            finally:
                connection.close()

        return await deferToThread(with_connection)


class RealWorld(LibvirtWorld):
    """QEMU under a libvirtd of our own, with real images and overlays. TCG, because that works everywhere."""

    kind = "qemu"
    environment = ENVIRONMENT

    def __init__(self, image: Path, daemon: ScratchLibvirt | None = None) -> None:
        self.daemon = daemon or ScratchLibvirt()
        super().__init__(self.daemon.uri)
        source = Source(str(image), manifest.load(image).image_id)
        self.images = LocalImages(reactor, str(self.daemon.root / "state"), {ENVIRONMENT: source}, self._qemu_user)
        self.artifacts: Artifacts | None = None
        self.bridge = ""

    def _qemu_user(self) -> tuple[int, int]:
        return self.hypervisor.qemu_user

    async def open(self) -> None:
        self.daemon.start()
        self.images.start()
        await super().open()

    def shut(self) -> None:
        super().shut()
        self.images.stop()
        self.daemon.close()

    async def spec(self, slot: str = "vm1", generation: int = 1) -> DomainSpec:
        made = spec(slot, generation)
        image = self.artifacts or await self.images.verify(ENVIRONMENT)
        self.artifacts = image
        key = f"{slot}-g{generation}"
        return replace(
            made,
            accelerator=Accelerator.TCG,
            bridge=self.bridge,
            mac=f"52:54:00:00:00:{generation:02x}",
            kernel=image.kernel,
            initrd=image.initrd,
            root=image.root,
            overlay=await self.images.make_overlay(key, made.ours.shape.disk_mib),
            console=str(self.daemon.root / "log" / f"{key}.console"),
            channel=str(self.daemon.root / f"{key}.sock"),
        )


class SessionWorld(RealWorld):
    """The same under an unprivileged user's libvirtd: qemu:///session."""

    def __init__(self, image: Path) -> None:
        self.session = ScratchSession()
        # That user may not be able to reach the image where it is.
        copy = shutil.copytree(image, self.session.root / "image")
        super().__init__(copy, self.session)

    def _qemu_user(self) -> tuple[int, int]:
        return self.session.ids

    def golden(self, name: str) -> str:
        path = super().golden(name)
        os.chown(Path(path).parent, *self.session.ids)  # it is that user's own libvirtd that writes there
        return path

    async def spec(self, slot: str = "vm1", generation: int = 1) -> DomainSpec:
        made = await super().spec(slot, generation)
        # On a host the hostmaster is that user itself, and so is the owner of what it makes.
        Path(made.console).touch()
        os.chown(made.console, *self.session.ids)
        return made


class UnprivilegedWorld(RealWorld):
    """The libvirtd of the system and a hostmaster that is not root: only a member of libvirt's and QEMU's groups.

    The whole process is that user from `open` to `close`, as the kernel sees it.
    """

    USER = "nobody"

    def __init__(self, image: Path) -> None:
        self._groups = os.getgroups()
        super().__init__(image)
        # That user may not be able to reach the image where it is.
        copy = shutil.copytree(image, self.daemon.root / "image")
        source = Source(str(copy), manifest.load(copy).image_id)
        self.images = LocalImages(reactor, str(self.daemon.root / "state"), {ENVIRONMENT: source}, self._qemu_user)

    async def open(self) -> None:
        user, qemu = pwd.getpwnam(self.USER), grp.getgrnam("libvirt-qemu")
        state = self.daemon.root / "state"
        state.mkdir()
        for path in (state, self.daemon.root / "log"):
            os.chown(path, user.pw_uid, user.pw_gid)
        self.daemon.start()
        os.setgroups([0, qemu.gr_gid])  # the socket of this libvirtd is group root's, which gives no other right here
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
        self.images.start()
        await LibvirtWorld.open(self)

    def shut(self) -> None:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(self._groups)
        super().shut()


async def until(true: Callable[[], object], limit_s: float = 20) -> None:
    """Return as soon as it is true; fail after the limit."""
    end = reactor.seconds() + limit_s  # type: ignore[attr-defined]
    while not true():
        assert reactor.seconds() < end, f"still not so after {limit_s} s"  # type: ignore[attr-defined]
        pause: Deferred[None] = Deferred()
        reactor.callLater(0.01, pause.callback, None)  # type: ignore[attr-defined]
        await pause


async def settle(condition: Callable[[], Awaitable[bool]], limit_s: float = 20) -> None:
    """As `until`, for a condition that must be asked for."""
    end = reactor.seconds() + limit_s  # type: ignore[attr-defined]
    while not await condition():
        assert reactor.seconds() < end, f"still not so after {limit_s} s"  # type: ignore[attr-defined]
        pause: Deferred[None] = Deferred()
        reactor.callLater(0.01, pause.callback, None)  # type: ignore[attr-defined]
        await pause
