"""The image that real guests of the tests are booted from: the lab's own, built here if it is not there yet."""

import functools
import os
from pathlib import Path

from deploy.lab import images


@functools.cache
def image_to_boot() -> Path:
    """The directory of the `debian12` image, or the one WNOD_TEST_IMAGE names. Never a reason to skip."""
    given = os.environ.get("WNOD_TEST_IMAGE")
    return Path(given) if given else images.ensure(print, ("debian12",))["debian12"]
