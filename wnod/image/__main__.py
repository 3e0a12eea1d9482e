"""`python -m wnod.image build ...`, for machines where the command line is not installed yet."""

import argparse
import sys

from wnod.image.cli import add_arguments, run


def main() -> int:
    """Parse sys.argv and run."""
    parser = argparse.ArgumentParser(
        prog="python -m wnod.image", description="Build and verify images of environments."
    )
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
