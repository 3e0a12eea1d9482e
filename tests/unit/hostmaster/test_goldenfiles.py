"""Golden states on disk and in the fake: taken whole, copied privately, removed wholly."""

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostmaster.edges.images import LocalImages
from hostmaster.world import Images
from tests.fakes.images import FakeImages
from tests.unit.hostmaster.test_images import reactor, wait

NAME = "vm1-0123456789ab"
CANARY = b"written before it was saved"


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalImages]:
    images = LocalImages(reactor, str(tmp_path), {})
    images.start()
    yield images
    images.stop()


@pytest.fixture(params=["fake", "local"])
def images(request: pytest.FixtureRequest) -> Images:
    return FakeImages() if request.param == "fake" else request.getfixturevalue("local")  # type: ignore[no-any-return]


def frozen(images: Images, overlay: str = "vm1-g1") -> None:
    wait(images.golden_path(NAME))
    wait(images.make_overlay(overlay, 64))
    wait(images.freeze(NAME, overlay))


def test_an_overlay_that_is_frozen_is_an_overlay_no_more_and_freezing_may_be_repeated(images: Images) -> None:
    frozen(images)
    assert wait(images.overlays()) == ()
    wait(images.freeze(NAME, "vm1-g1"))
    assert list(wait(images.goldens())) == [NAME]


def test_each_thaw_is_an_overlay_of_its_own_and_the_golden_state_stays(images: Images) -> None:
    frozen(images)
    first, second = wait(images.thaw(NAME, "vm1-g2")), wait(images.thaw(NAME, "vm1-g3"))
    assert first != second
    assert wait(images.overlays()) == ("vm1-g2", "vm1-g3")
    assert list(wait(images.goldens())) == [NAME]


def test_what_is_not_there_cannot_be_frozen_or_thawed(images: Images) -> None:
    wait(images.golden_path(NAME))
    with pytest.raises(FileNotFoundError):
        wait(images.freeze(NAME, "vm1-g1"))
    with pytest.raises(FileNotFoundError):
        wait(images.thaw(NAME, "vm1-g2"))
    assert wait(images.overlays()) == ()


def test_half_a_golden_state_is_listed_so_that_it_can_be_removed_and_removal_may_be_repeated(images: Images) -> None:
    wait(images.golden_path(NAME))
    assert list(wait(images.goldens())) == [NAME]
    for _ in range(2):
        wait(images.remove_golden(NAME))
    assert wait(images.goldens()) == {}


def test_a_frozen_overlay_replaces_the_one_of_an_earlier_try(images: Images) -> None:
    frozen(images)
    frozen(images, "vm1-g9")
    assert wait(images.overlays()) == ()


def test_a_thawed_disk_has_all_that_was_written_and_what_is_written_to_it_reaches_no_other(local: LocalImages) -> None:
    disk = Path(wait(local.make_overlay("vm1-g1", 64)))
    write(disk, 32 << 20, CANARY)
    wait(local.freeze(NAME, "vm1-g1"))
    first = Path(wait(local.thaw(NAME, "vm1-g2")))
    assert CANARY in first.read_bytes()
    write(first, 48 << 20, b"secret of the first tenant")
    second = Path(wait(local.thaw(NAME, "vm1-g3")))
    assert b"secret" not in second.read_bytes()
    assert (second.stat().st_mode & 0o777, second.stat().st_size) == (0o600, 64 << 20)
    assert second.stat().st_blocks * 512 < 8 << 20, "holes stay holes"


def test_memory_and_disk_of_a_golden_state_are_counted_and_nobody_else_can_look(
    local: LocalImages, tmp_path: Path
) -> None:
    memory = Path(wait(local.golden_path(NAME)))
    memory.write_bytes(b"m" * (3 << 20))
    frozen(local)
    assert wait(local.goldens())[NAME] >= 3 << 20
    assert (tmp_path / "golden").stat().st_mode & 0o077 == 0
    assert memory.parent == tmp_path / "golden" / NAME
    wait(local.remove_golden(NAME))
    assert not memory.parent.exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", "a..b", "x\0", "-x", "X"])
def test_a_golden_name_never_leads_out_of_the_directory(local: LocalImages, name: str) -> None:
    calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: local.golden_path(name),
        lambda: local.freeze(name, "vm1-g1"),
        lambda: local.thaw(name, "vm1-g1"),
        lambda: local.remove_golden(name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="golden name"):
            wait(call())


def write(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
