"""What a job wants, made into an environment and a shape. Pure.

The user's own words come first, then the site's default rules (the first rule that matches a job and has the
field), then what the environment itself gives a job that says nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bait.lrms.base import JobView
from protocol.ids import EnvironmentName, Shape
from protocol.messages import Offer
from wnod.config import Rule

SMALLEST_MEMORY_MIB = 64
SMALLEST_DISK_MIB = 16


Offers = Mapping[EnvironmentName, Offer]
"""What the host offers now, by environment."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to ask the hostmaster for."""

    environment: EnvironmentName
    shape: Shape


@dataclass(frozen=True, slots=True)
class Impossible:
    """The job cannot be served; `text` tells its user what to change."""

    text: str


def match(job: JobView, rules: Iterable[Rule], offers: Offers) -> Wanted | Impossible:
    """Map a job's wishes to an environment and a shape."""
    if job.nodes != 1:
        return Impossible(f"the job asks for {job.nodes} nodes; a job in a VM has one: submit with --nodes=1")
    mine = [rule for rule in rules if _applies(rule, job)]
    environment = _environment(job.wishes, mine, offers)
    if isinstance(environment, Impossible):
        return environment
    offer = offers[environment]
    cpus = max(job.cpus, _first(mine, "cpus") or 1)
    memory = job.memory_mib or _first(mine, "memory_mib") or offer.usual.memory_mib
    disk = job.disk_mib or _first(mine, "disk_mib") or offer.usual.disk_mib
    shape = Shape(cpus=cpus, memory_mib=max(memory, SMALLEST_MEMORY_MIB), disk_mib=max(disk, SMALLEST_DISK_MIB))
    return Wanted(environment, shape)


def _applies(rule: Rule, job: JobView) -> bool:
    wanted = ((rule.partition, job.partition), (rule.account, job.account), (rule.user, job.user))
    return all(pattern is None or pattern == value for pattern, value in wanted)


def _first(rules: list[Rule], field: str) -> int | None:
    values = (getattr(rule, field) for rule in rules)
    return next((value for value in values if value is not None), None)


def _environment(wishes: str, rules: list[Rule], offers: Offers) -> EnvironmentName | Impossible:
    if wishes:
        return _wished(wishes, offers)
    default = next((rule.environment for rule in rules if rule.environment is not None), None)
    if default is not None:
        return EnvironmentName(default) if default in offers else _unknown(default, offers)
    if len(offers) == 1:
        return EnvironmentName(next(iter(offers)))
    return Impossible(f"name an environment (--constraint=NAME); known: {_names(offers)}")


def _wished(wishes: str, offers: Offers) -> EnvironmentName | Impossible:
    """The first environment that is all an alternative (`a|b`) asks for (`a&b`): by name, by tags, or both."""
    unknown = ""
    for alternative in wishes.strip("[]()").split("|"):
        words = {word for word in re.split(r"[&,]", alternative) if word}
        for name, offer in offers.items():
            if words and words <= {name, *offer.tags}:
                return name
        strange = words - {word for name, offer in offers.items() for word in (name, *offer.tags)}
        unknown = unknown or next(iter(sorted(strange)), "")
    if unknown:
        return _unknown(unknown, offers)
    return Impossible(f"no environment is all of --constraint={wishes[:200]}; known: {_names(offers)}")


def _unknown(word: str, offers: Offers) -> Impossible:
    return Impossible(f"there is no environment {word[:64]!r} here; known: {_names(offers)}")


def _names(offers: Offers) -> str:
    return (
        ", ".join(f"{name} ({', '.join(o.tags)})" if o.tags else name for name, o in sorted(offers.items())) or "none"
    )
