"""Are the images what the catalogue says? Reads every byte of them."""

from collections.abc import Iterator
from pathlib import Path

from wnod.config import Environment
from wnod.doctor.finding import Finding, Verdict
from wnod.image import manifest
from wnod.image.errors import ImageError
from wnod.lrmsfiles import LrmsFiles, LrmsFilesRefused


def check_image(name: str, environment: Environment) -> Iterator[Finding]:
    """The environment's image has the recorded id, and its files have the recorded hashes."""
    subject = f"image {name}"
    try:
        image = manifest.load(Path(environment.image))
        if image.image_id != environment.sha256:
            text = f"{environment.image}: its id is {image.image_id}, the catalogue says {environment.sha256}"
            yield Finding(subject, Verdict.BAD, text, "put the new id into the catalogue if the change was yours")
            return
        manifest.verify(image)
    except (ImageError, OSError) as error:
        yield Finding(subject, Verdict.BAD, str(error), "build it again: wnod image build")
        return
    yield Finding(subject, Verdict.OK, f"{environment.image}: verified")


def check_guest_files(directory: str | None) -> Iterator[Finding]:
    """What guests at standby are given can be read and is not too much."""
    try:
        files = LrmsFiles(directory).read()
    except LrmsFilesRefused as error:
        text, _, remedy = str(error).rpartition("; ")
        yield Finding("guest files", Verdict.BAD, text, remedy)
        return
    if directory is not None:
        yield Finding("guest files", Verdict.OK, f"{directory}: {', '.join(files)}")
