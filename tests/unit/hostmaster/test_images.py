"""Images are refused unless they are exactly what the catalogue says; overlays are private, empty and quick."""

import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from hostmaster.edges.images import LocalImages, Source
from hostmaster.world import Artifacts, ImageRefused, ImageUnreadable
from protocol.ids import EnvironmentName
from wnod.image import manifest

T = TypeVar("T")

ENVIRONMENT = EnvironmentName("debian12")


def write_image(directory: Path, root: bytes = b"hsqs a root") -> str:
    """A small image that is right in every way; its id."""
    directory.mkdir(exist_ok=True)
    for name, content in ((manifest.ROOT, root), (manifest.KERNEL, b"a kernel"), (manifest.INITRD, b"an initrd")):
        (directory / name).write_bytes(content)
    made = manifest.Manifest(
        format=manifest.FORMAT,
        name="debian12",
        suite="bookworm",
        arch="amd64",
        files={name: manifest.describe_file(directory / name) for name in manifest.FILES},
        packages={},
        kernel_release="6.1",
        lrms="slurm",
        lrms_version="22.05",
        tags=(),
        source_date_epoch=0,
    )
    (directory / manifest.MANIFEST).write_bytes(made.canonical())
    return made.image_id


class Pump:
    """As much of a reactor as threads need: what they hand over is done while somebody waits."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(self, f: Callable[..., object], *args: object, **kwargs: object) -> None:
        self.calls.put(lambda: f(*args, **kwargs))

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        done: list[T | Failure] = []
        Deferred.fromCoroutine(coroutine).addBoth(done.append)
        while not done:
            self.calls.get(timeout=20)()
        if isinstance(done[0], Failure):
            done[0].raiseException()
        return done[0]  # type: ignore[return-value]


reactor = Pump()
wait = reactor.wait


class Store:
    """One image, its catalogue and the class under test."""

    def __init__(self, path: Path) -> None:
        path.chmod(0o755)
        self.directory = path / "image"
        self.image = write_image(self.directory)
        self.catalogue = {ENVIRONMENT: Source(str(self.directory), self.image)}
        self.state = path / "state"
        self.images = LocalImages(reactor, str(self.state), self.catalogue)
        self.images.start()

    def verify(self) -> Artifacts:
        return wait(self.images.verify(ENVIRONMENT))

    def overlay(self, name: str = "vm1-g1", disk_mib: int = 64) -> Path:
        return Path(wait(self.images.make_overlay(name, disk_mib)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.images.stop()


# --- images ------------------------------------------------------------------------------------------


def test_a_good_image_gives_its_files(store: Store) -> None:
    assert store.verify() == Artifacts(
        image=store.image,
        kernel=str(store.directory / "kernel"),
        initrd=str(store.directory / "initrd"),
        root=str(store.directory / "root.squashfs"),
        lrms="slurm",
    )


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


ALTERATIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (flip, "sha256"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes"),
    "missing": (lambda p: p.unlink(), "No such file"),
    "a link": (link, "symbolic link"),
    "a FIFO": (lambda p: (p.unlink(), os.mkfifo(p, 0o600)), "wrong kind"),
    "a directory": (lambda p: (p.unlink(), p.mkdir()), "wrong kind"),
    "writable by others": (lambda p: p.chmod(0o666), "others may change it"),
    "somebody else's": (lambda p: os.chown(p, 12345, -1), "others may change it"),
}


@pytest.mark.parametrize("name", manifest.FILES)
@pytest.mark.parametrize("what", ALTERATIONS)
def test_a_file_that_is_not_as_recorded_is_refused(store: Store, name: str, what: str) -> None:
    if what == "somebody else's" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    store.verify()  # remembered as good, which must not help
    alter, text = ALTERATIONS[what]
    alter(store.directory / name)
    with pytest.raises(ImageRefused, match=text) as refusal:
        store.verify()
    assert str(ENVIRONMENT) in str(refusal.value)
    assert name in str(refusal.value)


def test_another_image_than_the_catalogues_is_refused_even_if_it_is_whole(store: Store) -> None:
    write_image(store.directory, root=b"hsqs another root")
    with pytest.raises(ImageRefused, match=f"catalogue says {store.image}"):
        store.verify()


def test_a_root_that_can_name_other_files_is_refused(store: Store) -> None:
    image = write_image(store.directory, root=b"QFI\xfb a qcow2 with a backing file")
    store.catalogue[ENVIRONMENT] = Source(str(store.directory), image)
    with pytest.raises(ImageRefused, match="qcow2"):
        store.verify()


def test_a_directory_that_is_a_link_or_open_to_others_is_refused(store: Store) -> None:
    link(store.directory)
    with pytest.raises(ImageRefused, match="symbolic link"):
        store.verify()
    store.directory.unlink()
    store.directory.with_name("target").rename(store.directory)
    store.directory.chmod(0o777)
    with pytest.raises(ImageRefused, match="chmod go-w"):
        store.verify()


@pytest.mark.parametrize("name", ["other", "../image", "/etc", "", "debian12\0"])
def test_only_the_catalogues_keys_name_an_image(store: Store, name: str) -> None:
    with pytest.raises(ImageRefused, match="not in the catalogue"):
        wait(store.images.verify(EnvironmentName(name)))


def test_the_content_is_read_once_for_as_long_as_it_is_untouched(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[manifest.Image] = []
    really = manifest.verify
    monkeypatch.setattr(manifest, "verify", lambda image: (readings.append(image), really(image)))

    async def many() -> None:
        await gatherResults([Deferred.fromCoroutine(store.images.verify(ENVIRONMENT)) for _ in range(20)])

    wait(many())
    assert len(readings) == 1
    os.utime(store.directory / "kernel")
    store.verify()
    assert len(readings) == 2


def test_a_changed_catalogue_is_seen(store: Store) -> None:
    store.verify()
    store.catalogue[ENVIRONMENT] = Source(str(store.directory), "0" * 64)
    with pytest.raises(ImageRefused, match="0" * 64):
        store.verify()


# --- overlays ----------------------------------------------------------------------------------------


def test_an_overlay_is_an_empty_file_system_of_its_size_and_takes_no_room(store: Store) -> None:
    path = store.overlay(disk_mib=256)
    info = path.stat()
    assert info.st_size == 256 << 20
    assert info.st_blocks * 512 < 4 << 20
    assert info.st_mode & 0o777 == 0o600
    subprocess.run(["e2fsck", "-f", "-n", str(path)], check=True, capture_output=True)
    head = path.read_bytes()[: 1 << 20]
    assert not head.startswith(b"QFI\xfb")


def test_one_overlays_bytes_never_reach_another(store: Store) -> None:
    first = store.overlay("vm1-g1")
    canary = b"canary of the first tenant"
    with first.open("r+b") as file:
        file.seek(32 << 20)
        file.write(canary)
    assert canary not in store.overlay("vm1-g2").read_bytes()
    again = store.overlay("vm1-g1")
    assert again == first
    assert canary not in again.read_bytes()


def test_replacing_an_overlay_leaves_the_one_in_use_to_its_user(store: Store) -> None:
    with store.overlay().open("rb") as in_use:
        before = os.fstat(in_use.fileno()).st_ino
        assert store.overlay().stat().st_ino != before
        assert os.fstat(in_use.fileno()).st_size == 64 << 20


def test_overlays_are_listed_until_removed_and_removal_may_be_repeated(store: Store) -> None:
    for name in ("vm2-g2", "vm1-g1"):
        store.overlay(name)
    assert wait(store.images.overlays()) == ("vm1-g1", "vm2-g2")
    for _ in range(2):
        wait(store.images.remove_overlay("vm1-g1"))
    assert wait(store.images.overlays()) == ("vm2-g2",)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a..b", "x\0", "-x", "X", "a" * 200])
def test_a_name_never_leads_out_of_the_directory(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="overlay name"):
        store.overlay(name)
    with pytest.raises(ValueError, match="overlay name"):
        wait(store.images.remove_overlay(name))


def test_half_an_overlay_left_by_a_crash_is_not_listed_and_is_removed_at_start(store: Store) -> None:
    store.overlay()
    half = store.state / "overlays" / "vm9-g9.overlay.0123.partial"
    half.write_bytes(b"half")
    assert wait(store.images.overlays()) == ("vm1-g1",)
    again = LocalImages(reactor, str(store.state), store.catalogue)
    again.start()
    assert not half.exists()
    assert wait(again.overlays()) == ("vm1-g1",)
    again.stop()


def test_many_at_once_of_a_new_size_share_one_whole_template(store: Store) -> None:
    async def many() -> list[str]:
        makes = [Deferred.fromCoroutine(store.images.make_overlay(f"vm{n}-g1", 96)) for n in range(8)]
        return await gatherResults(makes)

    paths = wait(many())
    assert len({Path(p).stat().st_ino for p in paths}) == 8
    for path in paths:
        subprocess.run(["e2fsck", "-f", "-n", path], check=True, capture_output=True)
    assert [p.name for p in (store.state / "templates").iterdir()] == ["ext4-96.raw"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_overlay_belongs_to_qemus_user(store: Store) -> None:
    images = LocalImages(reactor, str(store.state), store.catalogue, lambda: (64055, 108))
    images.start()
    info = Path(wait(images.make_overlay("vm1-g1", 64))).stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (64055, 108, 0o600)
    images.stop()


def test_a_size_that_mkfs_refuses_is_an_error_with_its_words_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(OSError, match=r"mkfs\.ext4 of a 0 MiB overlay failed: .+"):
        store.overlay(disk_mib=0)
    assert list((store.state / "templates").iterdir()) == []
    assert wait(store.images.overlays()) == ()


def test_a_mkfs_that_hangs_is_an_error_of_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was none that anybody expected: the VM failed without a reason."""

    def hangs(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(OSError, match=r"mkfs\.ext4 of a 16 MiB overlay did not end"):
        store.overlay(disk_mib=16)


def test_an_image_whose_directory_is_away_may_be_back_soon_and_an_altered_one_is_not(store: Store) -> None:
    store.directory.rename(store.directory.with_name("unmounted"))
    with pytest.raises(ImageUnreadable):
        store.verify()
    store.directory.with_name("unmounted").rename(store.directory)
    assert store.verify().image == store.image
    (store.directory / manifest.KERNEL).write_bytes(b"another kernel")
    with pytest.raises(ImageRefused) as refused:
        store.verify()
    assert not isinstance(refused.value, ImageUnreadable)
