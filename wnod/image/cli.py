"""`wnod image build` and `wnod image verify`."""

import argparse
import json
import sys
import time
from pathlib import Path

from wnod.image import manifest
from wnod.image.build import Paths, build_image
from wnod.image.errors import ImageError
from wnod.image.manifest import Image
from wnod.image.recipe import load_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands to the parser of `wnod image`."""
    actions = parser.add_subparsers(dest="image_action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="build an image from a recipe (needs root and mmdebstrap)")
    build.add_argument("--recipe", type=Path, required=True, help="YAML file, such as deploy/images/debian12.yaml")
    build.add_argument("--output", type=Path, required=True, help="directory; the image goes to <output>/<name>/<id>")
    build.add_argument(
        "--package-cache", type=Path, help="directory where downloaded packages are kept for the next build"
    )
    verify = actions.add_parser("verify", help="compare an image's files with its manifest")
    verify.add_argument("directory", type=Path, help="the directory that holds manifest.json")
    for action in (build, verify):
        action.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out the parsed command; 0 when it succeeded, 1 with a message on stderr when not."""
    try:
        image = _build(args) if args.image_action == "build" else _verify(args)
    except ImageError as e:
        print(e, file=sys.stderr)
        return 1
    except OSError as e:
        where = e.filename or getattr(args, "output", None) or args.directory
        print(f"{where}: {e.strerror or e}; is there room, and may you write there?", file=sys.stderr)
        return 1
    print(json.dumps(_facts(image), sort_keys=True) if args.json else _sentence(image))
    return 0


def _build(args: argparse.Namespace) -> Image:
    start = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {text}", file=sys.stderr, flush=True)

    recipe = load_recipe(args.recipe)
    progress(f"building {recipe.name}")
    image = build_image(recipe, Paths(args.output, args.package_cache), progress)
    progress("done")
    return image


def _verify(args: argparse.Namespace) -> Image:
    image = manifest.load(args.directory)
    manifest.verify(image)
    return image


def _facts(image: Image) -> dict[str, object]:
    return {
        "directory": str(image.directory.absolute()),
        "image_id": image.image_id,
        "kernel_release": image.manifest.kernel_release,
        "lrms": image.manifest.lrms,
        "lrms_version": image.manifest.lrms_version,
        "name": image.manifest.name,
        "packages": len(image.manifest.packages),
        "size": {name: file.size for name, file in image.manifest.files.items()},
        "tags": list(image.manifest.tags),
    }


def _sentence(image: Image) -> str:
    mib = sum(file.size for file in image.manifest.files.values()) / (1 << 20)
    return f"{image.manifest.name} {image.image_id[:12]}: {mib:.0f} MiB in {image.directory}"
