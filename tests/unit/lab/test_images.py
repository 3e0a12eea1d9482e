"""Which image is taken for up to date, wherever the directory of images has been copied to."""

from pathlib import Path

import pytest

from deploy.lab.images import keep, kept


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with one image, made from "abc"."""
    image = tmp_path / "first" / "debian12" / "0fd8"
    image.mkdir(parents=True)
    (image / "manifest.json").write_text("{}")
    keep(tmp_path / "first", "debian12", "abc", image)
    return tmp_path / "first"


def test_an_image_is_kept_while_it_is_made_from_the_same(place: Path) -> None:
    assert kept(place, "debian12", "abc") == place / "debian12" / "0fd8"
    assert kept(place, "debian12", "abd") is None
    assert kept(place, "debian12-sci", "abc") is None


def test_an_image_that_was_removed_is_not_kept(place: Path) -> None:
    (place / "debian12" / "0fd8" / "manifest.json").unlink()
    assert kept(place, "debian12", "abc") is None


@pytest.mark.parametrize("old_note", [False, True])
def test_a_copy_of_the_images_leads_to_the_copy(place: Path, old_note: bool) -> None:
    if old_note:
        (place / "debian12.made-from").write_text(f"abc {place}/debian12/0fd8\n")
    copy = place.parent / "second"
    place.rename(copy)
    assert kept(copy, "debian12", "abc") == copy / "debian12" / "0fd8"
