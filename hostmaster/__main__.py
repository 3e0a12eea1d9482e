"""`python -m hostmaster --config FILE`: run the daemon."""

import sys

from hostmaster.daemon import HostmasterDaemon
from wnod.config import load_hostmaster
from wnod.service import run

if __name__ == "__main__":
    sys.exit(run("hostmaster", load_hostmaster, HostmasterDaemon))
