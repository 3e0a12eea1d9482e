"""What can be wrong with a recipe, a build or an image on disk."""


class ImageError(Exception):
    """Root of this package's errors. The text names the thing, what is wrong with it and the remedy."""


class RecipeError(ImageError):
    """A recipe has mistakes. `mistakes` has one line for each, so that all can be mended at once."""

    def __init__(self, source: str, mistakes: list[str]) -> None:
        self.source = source
        self.mistakes = mistakes
        super().__init__("\n".join(f"{source}: {mistake}" for mistake in mistakes))


class BuildError(ImageError):
    """A tool that the build needs is missing or has failed."""


class ManifestError(ImageError):
    """manifest.json is missing, unreadable or not of a format this version knows."""


class FileMismatch(ImageError):
    """A file of the image is missing, or its size or hash is not what the manifest says."""


class UnsafeFile(ImageError):
    """A file of the image may lead elsewhere: a symbolic link, or a disk format that refers to other files."""
