"""Every rule R1 to R15, a model without it, and what must come of that."""

from dataclasses import dataclass, field

from tests.model.explore import Verdict, explore
from tests.model.rules import EVERY_FAULT, Rules

FEW = frozenset({"bait journal", "host journal", "vm", "cut", "starter"})


@dataclass(frozen=True)
class Case:
    """One line of the table. `expected`: a piece of what breaks; empty: nothing does."""

    rule: str
    what: str
    rules: Rules
    expected: str = ""
    hosts: int = 1
    elsewhere: str = field(default="")
    """Where the rule is tried if the model cannot show it."""

    def run(self) -> Verdict:
        """Explore it."""
        return explore(self.rules, self.hosts)


def without(rule: str, *faults: str, most: int = 1, **more: object) -> Rules:
    return Rules(frozenset({rule}), frozenset(faults), most, **more)  # type: ignore[arg-type]


AS_BUILT = (
    Case("", "as built, no fault", Rules()),
    Case("", "as built, any 1 fault", Rules(most=1)),
    Case("", "as built, 2 of the faults that last", Rules(faults=FEW, most=2)),
    Case("", "as built, every Release arrives twice, 1 fault", Rules(faults=FEW, most=1, echo=True)),
    Case("", "as built, two slots, 1 fault", Rules(most=1, slots=2)),
    Case("", "as built, VMs that were spares, any 1 fault", Rules(most=1, spares=True)),
    Case("", "as built, two hosts, cut off or a VM dies", Rules(faults=frozenset({"cut", "vm"}), most=1), hosts=2),
    Case("", "as built, two hosts, a bait dies for good", Rules(faults=frozenset({"bait dead"}), most=1), hosts=2),
    Case("", "as built, the LRMS loses its last change, twice", Rules(faults=frozenset({"amnesia"}), most=2)),
)
LONG = (  # only with --long
    Case("", "as built, the LRMS forgets, the host is cut off", Rules(faults=frozenset({"amnesia", "cut"}), most=2)),
    Case("", "as built, any 2 faults", Rules(most=2)),
    Case("", "as built, any 3 faults (5 minutes, 2.5 GiB)", Rules(most=3)),
    Case("", "as built, 3 of the faults that last", Rules(faults=FEW, most=3)),
    Case("", "as built, two hosts, 1 fault", Rules(most=1, faults=EVERY_FAULT | {"bait dead"}), hosts=2),
)
NO_FENCE = Rules(frozenset({"R9", "R10"}), frozenset({"cut"}), 1, slots=2)
ONE_START = "more starts than"
MUTANTS = (
    Case("R1", "the gate says yes before the start is journalled", without("R1", "link"), "destroyed"),
    Case(
        "R1",
        "a spare is told of its lease before its domain carries it",
        Rules(frozenset({"label"}), frozenset({"host journal"}), 1, spares=True),
        "destroyed",
    ),
    Case("R2", "what has started is remembered in memory only", without("R2", "host"), "destroyed"),
    Case("R3", "the starter exits with a code of its own", without("R3", "starter"), "never ran"),
    Case("R3", "the bait requeues by a command, whose repetition arrives", without("R3: one exit"), ONE_START),
    Case("R4", "the gate lets every run start", without("R4", *EVERY_FAULT, most=2), "not bound to that run"),
    Case("R4", "", Rules(), elsewhere="tests/unit/image/test_guest_gate.py (the guest's marker)"),
    Case("R5", "a release names no lease and no generation", without("R5", "vm", "starter", echo=True), "destroyed"),
    Case("R6", "any run counts as the lease's own", without("R6", "bait node"), "older one"),
    Case("R7", "a VM lost before the job is in it is not noticed", without("R7", "vm"), "never ends"),
    Case("R8", "what the host has is not taken up", without("R8", "bait journal"), "ever"),
    Case("R9", "no fence, two hosts", without("R9", "cut"), "two runs", hosts=2),
    Case("R10", "no fence, one host", without("R9", "cut", slots=2)),
    Case("R10", "the same, and a second VM for the job while the older is there", NO_FENCE, "two runs"),
    Case("R11", "a job given back keeps its target", without("R11", "vm"), "never ends"),
    Case("R12", "no rescue, two hosts", without("R12", "bait dead"), "never ends", hosts=2),
    Case("R13", "an LRMS that does not answer counts as: the job is gone", without("R13", "cut"), "destroyed"),
    Case("R13", "a libvirt that does not answer counts as: the VM is gone", without("R13", "libvirt"), ONE_START),
    Case("R14", "", Rules(), elsewhere="tests/unit/hostmaster/test_capacity.py, tests/fakes/site.py (check)"),
    Case("R15", "generations begin anew after a lost journal", without("R15", "host journal"), "twice"),
)
