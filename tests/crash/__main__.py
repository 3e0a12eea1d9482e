"""`python -m tests.crash`: the table of crash points and what tries each."""

from tests.crash.points import UNUSED, points
from tests.crash.table import TABLE

for number, (what, tried) in TABLE.items():
    print(f"{number:3} {what:62} {', '.join(tried) or 'not built'}")
print(f"{len(points())} crash points in the daemons, each died at once and twice (pytest tests/crash)")
for name, why in UNUSED.items():
    print(f"not reached: {name}: {why}")
