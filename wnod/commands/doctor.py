"""`wnod doctor`: look for what is wrong on this machine."""

import argparse
from dataclasses import asdict

from wnod.commands import OK, PROBLEM
from wnod.commands.daemons import ETC
from wnod.commands.text import plain, print_json, print_table
from wnod.doctor import Finding, Verdict, examine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wnod doctor`."""
    parser.add_argument("--etc", default=ETC, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="do not read whole images")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print every finding; exit code 1 if one of them is bad."""
    findings = list(examine(args.etc, args.quick))
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_findings(findings)
    return PROBLEM if any(finding.verdict is Verdict.BAD for finding in findings) else OK


def print_findings(findings: list[Finding]) -> None:
    """A table, then the remedies of what is not well."""
    print_table(("VERDICT", "CHECK", "FOUND"), [(f.verdict.value, f.name, f.text) for f in findings])
    for finding in findings:
        if finding.remedy and finding.verdict in (Verdict.WARN, Verdict.BAD):
            print(f"-> {plain(finding.name)}: {plain(finding.remedy)}")
