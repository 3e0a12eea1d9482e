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
    mark = KEPT / f"{name}.made-from"
    made_from = _fingerprint(name)
    if mark.exists():
        fingerprint, _, kept = mark.read_text().strip().partition(" ")
        if fingerprint == made_from and Path(kept, "manifest.json").exists():
            return Path(kept)
    PACKAGES.mkdir(parents=True, exist_ok=True)
    image = build_image(load_recipe(PROJECT / "deploy" / "images" / f"{name}.yaml"), Paths(KEPT, PACKAGES), say)
    mark.write_text(f"{made_from} {image.directory}\n")
    return image.directory


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
