"""`python -m tests.model [--long]`: the table of what was tried and what came of it; exit code 1 if a line is wrong."""

import sys
import time

from tests.model.mutants import AS_BUILT, LONG, MUTANTS, Case


def line(case: Case) -> bool:
    """Print one line; True if it is as expected."""
    if case.elsewhere:
        print(f"{case.rule:4} not visible here; tried by {case.elsewhere}")
        return True
    began = time.perf_counter()
    verdict = case.run()
    right = case.expected in verdict.broken if case.expected else not verdict.broken
    outcome = f"{verdict.broken}, {len(verdict.story)} steps, {verdict.faults} faults" if verdict.broken else "holds"
    seconds = time.perf_counter() - began
    mark = "" if right else "   <-- WRONG"
    print(f"{case.rule:4} {case.what:68} {outcome:66} {verdict.worlds:8} worlds {seconds:5.1f} s{mark}", flush=True)
    if not right:
        print("".join(f"       {step}\n" for step in verdict.story))
    return right


def main(arguments: list[str]) -> int:
    """Everything, or only the rules that are named."""
    cases = AS_BUILT + (LONG if "--long" in arguments else ()) + MUTANTS
    wanted = [word for word in arguments if not word.startswith("-")]
    chosen = [case for case in cases if not wanted or case.rule in wanted]
    right = [line(case) for case in chosen]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
