"""Recipes: the YAML files that say how an environment's image is built. Every mistake is reported at once."""

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from wnod.image.errors import RecipeError

_MAX_RECIPE = 1 << 20
_MAX_BASES = 8


class Recipe(msgspec.Struct, frozen=True):
    """How to build an image. Lists of a recipe are added to those of its base, other fields replace them."""

    name: str
    suite: str
    arch: str
    packages: tuple[str, ...]
    kernel: str
    lrms: str
    tags: tuple[str, ...]
    compression: str
    source_date_epoch: int
    directory: Path

    @property
    def guest_files(self) -> Path:
        """The guest's scripts, in the directory `guest` beside the recipe."""
        return self.directory / "guest"


_NAME = r"[a-z0-9][a-z0-9.-]{0,62}"
_PACKAGE = r"[a-z0-9][a-z0-9+.-]{1,100}"
# field: (what is expected, pattern of the value or of each item, is a list)
_TEXTS: dict[str, tuple[str, str]] = {
    "name": ("lower-case letters, digits, '.' and '-', at most 63", _NAME),
    "suite": ("the name of a Debian release, such as bookworm", r"[a-z]{2,30}"),
    "arch": ("amd64", r"amd64"),
    "kernel": ("a kernel package, such as linux-image-cloud-amd64", r"linux-image-[a-z0-9.+-]{1,80}"),
    "lrms": ("slurm, or none for an environment that is delivered by execute", r"slurm|none"),
    "compression": ("lz4, zstd or none", r"lz4|zstd|none"),
}
_LISTS: dict[str, tuple[str, str]] = {
    "packages": ("names of Debian packages", _PACKAGE),
    "tags": ("words of letters, digits, '.', '_' and '-'", r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"),
}
_DEFAULTS: dict[str, Any] = {
    "arch": "amd64",
    "packages": [],
    "kernel": "linux-image-cloud-amd64",
    "lrms": "slurm",
    "tags": [],
    "compression": "lz4",
    "source_date_epoch": 1700000000,
}
_REQUIRED = ("name", "suite")
FIELDS = frozenset({*_TEXTS, *_LISTS, "base", "source_date_epoch"})


def load_recipe(path: Path) -> Recipe:
    """Read a recipe together with its bases (other recipes in the same directory).

    Raises RecipeError with every mistake of every file concerned.
    """
    merged, mistakes = _merge(path, seen=())
    mistakes += [
        f"{path.name}: {field}: is missing; add `{field}:` with {_TEXTS[field][0]}"
        for field in _REQUIRED
        if field not in merged
    ]
    if mistakes:
        raise RecipeError(str(path), mistakes)
    values = {**_DEFAULTS, **merged}
    return Recipe(
        directory=path.parent.absolute(),
        packages=tuple(values.pop("packages")),
        tags=tuple(values.pop("tags")),
        **values,
    )


def _merge(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a recipe over those of its base, and the mistakes of both."""
    if path in seen or len(seen) >= _MAX_BASES:
        said = f"{seen[-1].name}: base: {path.stem!r} leads back to {path.name}; remove one of these `base:` lines"
        return {}, [said]
    own, mistakes = _read(path)
    base = own.pop("base", None)
    if base is None:
        return own, mistakes
    below, more = _merge(path.parent / f"{base}.yaml", (*seen, path))
    for field in _LISTS:
        own[field] = sorted({*below.get(field, ()), *own.get(field, ())})
    return {**below, **own}, mistakes + more


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        text = path.read_bytes()[:_MAX_RECIPE].decode()
        document = yaml.safe_load(text)
    except OSError as e:
        return {}, [f"{path.name}: cannot be read ({e.strerror}); name an existing recipe, as a file or as `base:`"]
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        return {}, [f"{path.name}: is not YAML: {' '.join(str(e).split())}"]
    if not isinstance(document, dict):
        return {}, [f"{path.name}: holds {document!r:.40}, expected fields such as `name: debian12`"]
    return _check(path.name, document)


def _check(file: str, document: dict[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    good: dict[str, Any] = {}
    mistakes = []
    for field, value in document.items():
        mistake = _mistake_of(field, value)
        if mistake:
            mistakes.append(f"{file}: {field}: is {value!r:.80}; {mistake}")
        else:
            good[field] = sorted(set(value)) if field in _LISTS else value
    return good, mistakes


def _mistake_of(field: Any, value: Any) -> str | None:
    """What is wrong with a field and its remedy, or None."""
    if field not in FIELDS:
        return f"no such field; the fields are {', '.join(sorted(FIELDS))}"
    if field == "base":
        return None if _fits(value, _NAME) else "write the name of a recipe in the same directory, without .yaml"
    if field == "source_date_epoch":
        good = type(value) is int and 0 <= value < 1 << 32
        return None if good else "write a number of seconds since 1970, such as 1700000000"
    if field in _TEXTS:
        expected, pattern = _TEXTS[field]
        return None if _fits(value, pattern) else f"write {expected}"
    expected, pattern = _LISTS[field]
    good = isinstance(value, list) and all(_fits(item, pattern) for item in value)
    return None if good else f"write a list of {expected}"


def _fits(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
