"""Are the import packages ours? `protocol`, `bait` and `hostmaster` also exist on the package index."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec

from wnod import wnod_version
from wnod.doctor.finding import Finding, Verdict

OURS = ("wnod", "protocol", "bait", "hostmaster")


def check_owners(
    owners: Mapping[str, Sequence[str]] | None = None, place: Callable[[str], str] | None = None
) -> Iterator[Finding]:
    """Every one of our packages belongs to the distribution wnod alone, or lies beside it in a checkout."""
    owners = packages_distributions() if owners is None else owners
    place = place or directory_of
    clashes = {name: text for name in OURS if (text := _clash(name, owners.get(name, ()), place))}
    if not clashes:
        yield Finding("packages", Verdict.OK, f"wnod {wnod_version()}; {', '.join(OURS)} are its own")
    for text in clashes.values():
        remedy = "install wnod alone into a new virtual environment (docs/install.md)"
        yield Finding("packages", Verdict.BAD, f"{text}: another project's files may run in place of ours", remedy)


def _clash(name: str, owners: Sequence[str], place: Callable[[str], str]) -> str:
    others = sorted(set(owners) - {"wnod"})
    if others:
        return f"the package {name!r} belongs to {', '.join(others)} too"
    if place(name) != place("wnod"):
        return f"the package {name!r} comes from {place(name) or 'nowhere'}, wnod from {place('wnod')}"
    return ""


def directory_of(package: str) -> str:
    """The directory that a package would be imported from; empty if there is none."""
    spec = find_spec(package)
    return os.path.dirname(os.path.dirname(spec.origin)) if spec and spec.origin else ""
