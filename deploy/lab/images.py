"""The images of the lab's environments, built once and kept in `build/images` until what they are made from changes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.lab.layout import PROJECT, Layout
from wnod.image.build import Paths, build_image
from wnod.image.recipe import load_recipe

ENVIRONMENTS = ("debian12", "debian12-sci")
KEPT = PROJECT / "build" / "images"
PACKAGES = PROJECT / "build" / "packages"
SOURCES = ("deploy/images", "deploy/lrms/slurm", "wnod/image")
"""Whatever lies here goes into an image or decides how it is made."""


def ensure(say: Callable[[str], None], names: tuple[str, ...] = ENVIRONMENTS) -> dict[str, Path]:
    """The directory of each environment's image below `build/images`; builds those that are missing or out of date."""
    return {name: _ensure(name, say) for name in names}


def install(layout: Layout, built: dict[str, Path]) -> dict[str, Path]:
    """Copy images to where the lab's hosts see them, as a site copies them to its shared file system."""
    placed = {}
    for name, source in built.items():
        target = layout.images / name / source.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target)
        placed[name] = target
    return placed


def _ensure(name: str, say: Callable[[str], None]) -> Path:
    made_from = _fingerprint(name)
    built = kept(KEPT, name, made_from)
    if built is not None:
        return built
    PACKAGES.mkdir(parents=True, exist_ok=True)
    image = build_image(load_recipe(PROJECT / "deploy" / "images" / f"{name}.yaml"), Paths(KEPT, PACKAGES), say)
    keep(KEPT, name, made_from, image.directory)
    return image.directory


def keep(place: Path, name: str, made_from: str, image: Path) -> None:
    """Note that `image`, in `place`/`name`, is made from what has this fingerprint."""
    (place / f"{name}.made-from").write_text(f"{made_from} {image.name}\n")


def kept(place: Path, name: str, made_from: str) -> Path | None:
    """The image that `keep` has noted, if it is there and made from the same. `place` may have been copied or moved."""
    mark = place / f"{name}.made-from"
    if not mark.exists():
        return None
    fingerprint, _, noted = mark.read_text().strip().partition(" ")
    image = place / name / Path(noted).name  # older notes are whole paths, which may lead to another checkout
    return image if fingerprint == made_from and (image / "manifest.json").exists() else None


def _fingerprint(name: str) -> str:
    digest = hashlib.sha256(name.encode())
    for path in _sources():
        digest.update(str(path.relative_to(PROJECT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _sources() -> Iterator[Path]:
    for source in SOURCES:
        for path in sorted((PROJECT / source).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
                yield path
