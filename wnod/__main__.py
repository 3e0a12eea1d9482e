"""`python -m wnod` is the command `wnod`."""

import sys

from wnod.cli import main

sys.exit(main())
