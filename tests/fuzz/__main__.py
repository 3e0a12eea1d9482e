"""Send the daemons' readers so many damaged inputs, and see that no promise breaks and no memory is kept.

python -m tests.fuzz --inputs 1000000 [--seed N] [--only TARGET] [--collect]

A broken promise ends the run with the input, its target and the command that plays it again. `--collect` adds
inputs whose outcome is new to tests/fuzz/corpus, which `make test` replays.
"""

import argparse
import random
import resource
import sys
import time
import traceback
from collections import Counter

from tests.fuzz import journals, strangers
from tests.fuzz.kept import read, write
from tests.fuzz.mutate import mutated

TARGETS = {target.name: target for target in (*strangers.TARGETS, *journals.TARGETS)}
WARM = 20_000
"""Inputs after which memory has to stay as it is."""
GROWTH_MIB = 48.0
KEPT = 40
"""So many inputs of one target are worth keeping, and none that is longer than this."""
SHORT = 500


def fuzz(target: strangers.Target, inputs: int, seed: int, outcomes: dict[str, bytes]) -> Counter[str]:
    """Check that many inputs; what came of them. Input n depends on the corpus, the target, the seed and n."""
    seeds = [*target.seeds, *read(target.name)]
    counted: Counter[str] = Counter()
    for number in range(inputs):
        rng = random.Random(f"{target.name} {seed} {number}")
        data = mutated(rng, seeds)
        try:
            outcome = target.check(rng, data)
        except BaseException:
            print(
                f"{target.name}: input {number} of seed {seed} breaks a promise: {data[:4096].hex()}", file=sys.stderr
            )
            raise
        counted[outcome] += 1
        if len(data) <= SHORT:
            outcomes.setdefault(outcome, data)
    return counted


def memory_mib() -> float:
    """The most this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--collect", action="store_true")
    return parser.parse_args()


def main() -> int:
    """0: all promises held."""
    args = _arguments()
    chosen = [TARGETS[args.only]] if args.only else list(TARGETS.values())
    shares = sum(target.share for target in chosen)
    for target in chosen:
        fuzz(target, max(1, int(WARM * target.share / shares)), args.seed + 1_000_000, {})
    before, begun = memory_mib(), time.monotonic()
    broken = 0
    for target in chosen:
        count, began = max(1, round(args.inputs * target.share / shares)), time.monotonic()
        outcomes: dict[str, bytes] = {}
        try:
            counted = fuzz(target, count, args.seed, outcomes)
        except Exception:
            traceback.print_exc()
            broken += 1
            continue
        print(f"{target.name:<11} {count:>8} inputs  {len(counted):>4} outcomes  {time.monotonic() - began:6.1f} s")
        if args.collect:
            write(target.name, [*read(target.name), *list(outcomes.values())[:KEPT]])
    grown = memory_mib() - before
    print(f"{args.inputs} inputs, seed {args.seed}, {time.monotonic() - begun:.0f} s, broken promises: {broken}, "
          f"memory {memory_mib():.0f} MiB at most, {grown:.1f} MiB more than after {WARM} inputs")  # fmt: skip
    journals.forget_places()
    return int(broken > 0 or grown > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
