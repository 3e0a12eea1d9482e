"""`wnod check-config`: read configuration files, say everything that is wrong, touch nothing else."""

import argparse
import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict

import msgspec
from yaml import MappingNode, ScalarNode

from wnod.commands import OK, PROBLEM, USAGE
from wnod.commands.daemons import ETC
from wnod.commands.text import complain, print_json
from wnod.config import (
    BaitConfig,
    Catalogue,
    ConfigMistakes,
    HostmasterConfig,
    Mistake,
    load_bait,
    load_catalogue,
    load_hostmaster,
)
from wnod.config.mistakes import quoted_path
from wnod.config.yamltree import Unreadable, read_tree

_LOADERS: dict[str, Callable[[str], object]] = {
    "hostmaster": load_hostmaster,
    "bait": load_bait,
    "catalogue": load_catalogue,
}
_TYPES: dict[str, type[msgspec.Struct]] = {"hostmaster": HostmasterConfig, "bait": BaitConfig, "catalogue": Catalogue}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod check-config`."""
    text = "default: those of the three that are in --etc, and the catalogue that hostmaster.yaml names"
    parser.add_argument("files", nargs="*", metavar="FILE", help=text)
    parser.add_argument("--kind", choices=tuple(_LOADERS), help="what the files are (default: seen from their content)")
    parser.add_argument("--etc", default=ETC, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the mistakes as JSON")


def run(args: argparse.Namespace) -> int:
    """Check the files; exit code 0 if all are fine, 1 if not, 2 if there is none."""
    files = dict.fromkeys(args.files, args.kind) or _own_files(args.etc)
    if not files:
        complain(f"no configuration file in {args.etc!r}: name the files")
        return USAGE
    mistakes = [mistake for path, kind in files.items() for mistake in _check(path, kind)]
    if args.json:
        print_json([asdict(mistake) for mistake in mistakes])
    else:
        bad = {mistake.file for mistake in mistakes}
        for path in files:
            if path not in bad:
                print(f"{quoted_path(path)}: fine")
        complain("\n".join(map(str, mistakes)))
    return PROBLEM if mistakes else OK


def _own_files(etc: str) -> dict[str, str]:
    """Each file that daemons with their configuration there would read, and as what."""
    files = {path: kind for kind in _LOADERS if os.path.lexists(path := f"{etc}/{kind}.yaml")}
    host = f"{etc}/hostmaster.yaml"
    with contextlib.suppress(ConfigMistakes):
        if host in files:
            named = load_hostmaster(host).catalogue
            prepared = f"{etc}/{os.path.basename(named)}"  # for /etc/wnod, in another directory
            files[prepared if os.path.lexists(prepared) else named] = "catalogue"
    return files


def _check(path: str, kind: str | None) -> tuple[Mistake, ...]:
    try:
        _LOADERS[kind or kind_of(path)](path)
    except Unreadable as error:
        return (error.mistake,)
    except ConfigMistakes as error:
        return error.mistakes
    return ()


def kind_of(path: str) -> str:
    """Which of the three a file is: the one whose fields it has most of, or the one its name says. Unreadable."""
    root = read_tree(path)
    pairs = root.value if isinstance(root, MappingNode) else []
    keys = {key.value for key, _ in pairs if isinstance(key, ScalarNode)}
    name = os.path.basename(path)

    def likeness(kind: str) -> tuple[int, bool]:
        own = set(_TYPES[kind].__struct_fields__)
        others = {field for other in _TYPES if other != kind for field in _TYPES[other].__struct_fields__}
        return len(keys & (own - others)), name.startswith(kind)

    return max(_TYPES, key=likeness)
