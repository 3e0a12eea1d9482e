"""`python -m tests.simulation.table [RULE ...]`: what comes of the daemons without each of the rules R1 to R15.

The model explores the hand-off without the rule, the simulator plays days without it; one of them must notice. Exit
code 1 if a rule can be taken out and nobody does. The table is also in build/simulate/mutants.json.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.model.mutants import MUTANTS as EXPLORED
from tests.simulation.mutants import MUTANTS as PLAYED
from tests.simulation.mutants import found_out

RULES = tuple(f"R{number}" for number in range(1, 16))
TABLE = Path("build/simulate/mutants.json")


def explored(rule: str) -> Iterator[tuple[str, str, str]]:
    """What the model finds: who, what was taken out, what broke (empty: nothing)."""
    for case in EXPLORED:
        if case.rule == rule and case.expected:  # without one nothing is expected to break: a second rule holds it
            yield "model", case.what, case.run().broken


def played(rule: str) -> Iterator[tuple[str, str, str]]:
    """What the simulator finds."""
    for mutant in PLAYED.get(rule, ()):
        day = found_out(mutant)
        yield "simulator", mutant.what, f"{day.breaches[0]} [seed {day.seed}]" if day is not None else ""


def main(arguments: list[str]) -> int:
    """Print the table, line by line as it is found."""
    lines, began = [], time.monotonic()
    for rule in arguments or RULES:
        for who, what, broken in (*explored(rule), *played(rule)):
            lines.append({"rule": rule, "without": what, "by": who, "noticed": broken})
            print(f"{rule:4} {who:10} {what:74} {broken or 'NOT NOTICED'}"[:230], flush=True)
    missed = [line for line in lines if not line["noticed"]]
    alone = [rule for rule in arguments or RULES if not any(line["rule"] == rule and line["noticed"] for line in lines)]
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    seconds = time.monotonic() - began
    print(f"{len(lines)} mutants, {len(missed)} not noticed; rules nobody misses: {alone or 'none'}; {seconds:.0f} s")
    return 1 if missed or alone else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
