"""What will go wrong, when, where and for how long: a list that follows from the seed alone. Pure.

Faults come one about every `EVERY_S` seconds, now and then two at once, and overlap freely as long as they do not
fight for the same thing (a daemon cannot be stopped while it is dead). A deck of all kinds is drawn empty before any
kind comes again as often as it is in the deck, so that even two minutes meet nearly every kind.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

EVERY_S = 4.2
"""The mean distance of two faults; some find nothing to hit (no VM is there), so it is less than six seconds."""
TOGETHER = 0.2
"""How often a fault comes at nearly the same time as the one before."""
LONG_FROM_S = 150.0
"""Storms shorter than this have no long silence: it would be most of them."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of fault. `on`: what it claims, `{h}` being the host; `cards`: how many of it are in the deck."""

    name: str
    on: tuple[str, ...]
    seconds: tuple[float, float]
    cards: int = 1
    long: bool = False


def _all_of_host(*more: str) -> tuple[str, ...]:
    things = ("hostmaster", "bait", "slurmd", "libvirtd", "vm", "link", "cable", "journals", "disk")
    return (*(f"{{h}}/{thing}" for thing in things), *more)


KINDS = (
    Kind("kill-hostmaster", ("{h}/hostmaster",), (0, 6), 3),
    Kind("kill-bait", ("{h}/bait",), (0, 6), 3),
    Kind("kill-both", ("{h}/bait", "{h}/hostmaster"), (0, 4), 1),
    Kind("kill-slurmd", ("{h}/slurmd",), (0, 5), 1),
    Kind("kill-slurmctld", ("slurmctld", "network"), (0, 5), 2),
    Kind("kill-libvirtd", ("{h}/libvirtd",), (0, 6), 2),
    Kind("kill-qemu", ("{h}/vm",), (0, 0), 4),
    Kind("stop-hostmaster", ("{h}/hostmaster",), (1, 10), 2),
    Kind("stop-bait", ("{h}/bait",), (1, 10), 2),
    Kind("stop-slurmd", ("{h}/slurmd",), (1, 8), 1),
    Kind("stop-slurmctld", ("slurmctld",), (1, 8), 1),
    Kind("stop-libvirtd", ("{h}/libvirtd",), (1, 10), 1),
    Kind("stop-qemu", ("{h}/vm",), (1, 10), 2),
    Kind("reboot-host", _all_of_host("reboot"), (0, 4), 1),
    Kind("link-cut", ("{h}/link",), (2, 12), 1),
    Kind("link-half-open-to-hostmaster", ("{h}/link",), (2, 12), 1),
    Kind("link-half-open-to-bait", ("{h}/link",), (2, 12), 1),
    Kind("link-slow", ("{h}/link",), (4, 15), 1),
    Kind("vm-cut", ("{h}/vm", "network"), (2, 12), 1),
    Kind("vm-half-open", ("{h}/vm", "network"), (2, 12), 1),
    Kind("vm-slow", ("{h}/vm", "network"), (4, 15), 1),
    Kind("host-cut", ("{h}/cable", "network"), (2, 15), 1),
    Kind("host-cut-long", ("{h}/cable", "network", "slurmctld", "reboot"), (50, 110), 1, long=True),
    Kind("disk-full-journal", ("{h}/disk", "{h}/journals"), (2, 8), 1),
    Kind("disk-full-overlay", ("{h}/disk",), (2, 8), 1),
    Kind("disk-full-image", ("{h}/disk",), (2, 8), 1),
    Kind("journal-deleted-hostmaster", ("{h}/hostmaster", "{h}/journals"), (0, 3), 1),
    Kind("journal-deleted-bait", ("{h}/bait", "{h}/journals"), (0, 3), 1),
    Kind("journal-older-schema-hostmaster", ("{h}/hostmaster", "{h}/journals"), (0, 3), 1),
    Kind("journal-older-schema-bait", ("{h}/bait", "{h}/journals"), (0, 3), 1),
    Kind("journal-foreign-hostmaster", ("{h}/hostmaster", "{h}/journals"), (3, 6), 1),
    Kind("journal-foreign-bait", ("{h}/bait", "{h}/journals"), (3, 6), 1),
    Kind("journal-old-copy-hostmaster", ("{h}/hostmaster", "{h}/journals"), (0, 3), 1),
    Kind("journal-old-copy-bait", ("{h}/bait", "{h}/journals"), (0, 3), 1),
)
"""`network` and `slurmctld`: a controller that forgets while a machine is cut off is beyond the promise
(docs/recovery.md, "Where the promise ends"), so the two are not drawn together."""

NAMES = tuple(kind.name for kind in KINDS)
SETTLE_S = {"reboot-host": 12.0, "host-cut-long": 10.0, "kill-slurmctld": 6.0}
"""How much longer than its `seconds` a fault keeps what it claims. Others: SETTLED_S."""
SETTLED_S = 1.5


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of the plan. `at`: seconds since the storm began; `pick`: chooses among the VMs that are there then."""

    number: int
    at: float
    kind: str
    host: str
    seconds: float
    pick: int
    claims: tuple[str, ...]

    @property
    def until(self) -> float:
        """When what it claims is free again."""
        return self.at + self.seconds + SETTLE_S.get(self.kind, SETTLED_S)

    def __str__(self) -> str:
        return f"#{self.number} {self.kind} {self.host} {self.seconds:.1f} s"


def draw(seed: int, seconds: float, hosts: Sequence[str], kinds: Sequence[str] = NAMES) -> list[Fault]:
    """The storm of that seed, in the order of its times. Two that follow each other claim nothing in common."""
    dice = random.Random(seed)
    deck: list[Kind] = []
    faults: list[Fault] = []
    at = dice.uniform(0.5, 1.5) * EVERY_S
    while at < seconds:
        if len(deck) < len(KINDS) // 3:
            deck += _deck(dice, seconds, kinds)
        fault = _fitting(dice, deck, faults, round(at, 1), seconds, hosts)
        if fault is not None:
            faults.append(fault)
        at += 0.3 if dice.random() < TOGETHER else dice.uniform(0.5, 1.75) * EVERY_S
    return faults


def _deck(dice: random.Random, seconds: float, kinds: Sequence[str]) -> list[Kind]:
    cards = [kind for kind in KINDS for _ in range(kind.cards) if kind.name in kinds]
    cards = [kind for kind in cards if not kind.long or seconds >= LONG_FROM_S]
    dice.shuffle(cards)
    return cards


def _fitting(
    dice: random.Random, deck: list[Kind], faults: list[Fault], at: float, seconds: float, hosts: Sequence[str]
) -> Fault | None:
    """The first card that fights with nothing under way; None if there is none."""
    # The longest fault of all is over by then: nothing before the last hundred matters.
    under_way = {claim for fault in faults[-100:] if fault.until > at for claim in fault.claims}
    for place, kind in enumerate(deck):
        for host in dice.sample(list(hosts), len(hosts)):
            claims = tuple(claim.format(h=host) for claim in kind.on)
            length = round(dice.uniform(*kind.seconds), 1)
            if under_way.isdisjoint(claims) and at + length <= seconds:
                del deck[place]
                pick = dice.randrange(1000)
                return Fault(len(faults) + 1, at, kind.name, host, length, pick, claims)
    return None
