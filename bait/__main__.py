"""`python -m bait --config FILE`: run the daemon."""

import sys

from bait.daemon import BaitDaemon
from wnod.config import load_bait
from wnod.service import run

if __name__ == "__main__":
    sys.exit(run("bait", load_bait, BaitDaemon))
