"""What a job wants, made into an environment and a shape. Pure.

The user's own words come first, then the site's default rules (the first rule that matches a job and has the
field), then what the environment itself gives a job that says nothing.
"""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from bait.lrms.base import JobView
from protocol.ids import EnvironmentName, Shape
from protocol.messages import Offer
from wnod.config import Rule

SMALLEST_MEMORY_MIB = 64
SMALLEST_DISK_MIB = 16
LONGEST_WISH = 4096
DEEPEST_WISH = 20
"""So many brackets in brackets are looked into: what a user writes must cost no more than it is worth."""


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
    """The first environment that is all an alternative (`a|b`) asks for (`a&b`): by name, by tags, or both.
    One that this host cannot make now is chosen only if there is no other."""
    if len(wishes) > LONGEST_WISH:
        text = f"shorten --constraint=: it has {len(wishes)} characters, and at most {LONGEST_WISH} are read"
        return Impossible(f"{text}; known: {_names(offers)}")
    fitting = [
        name
        for alternative in _alternatives(wishes)
        for name, offer in offers.items()
        if _is_met(alternative, {name, *offer.tags})
    ]
    if fitting:
        return next((name for name in fitting if offers[name].available), fitting[0])
    known = {word for name, offer in offers.items() for word in (name, *offer.tags)}
    unknown = next((word for word in re.split(r"[][()|&,]+", wishes) if word and word not in known), "")
    if unknown:
        return _unknown(unknown, offers)
    return Impossible(f"no environment is all of --constraint={wishes[:200]}; known: {_names(offers)}")


def _alternatives(wish: str, depth: int = 0) -> list[str]:
    """What brackets around all of it hold, and then what stands between bars outside of any."""
    parts = _split(wish, "|")
    inner = _inner(wish) if parts == [wish] and depth < DEEPEST_WISH else ""
    return _alternatives(inner, depth + 1) if inner else parts


def _is_met(wish: str, words: Set[str], depth: int = 0) -> bool:
    """True if what has these words is what is wished for, each bracket first."""
    if depth > DEEPEST_WISH:
        return False
    for separators, enough in (("|", any), ("&,", all)):
        parts = _split(wish, separators)
        if parts != [wish]:
            return bool(parts) and enough(_is_met(part, words, depth + 1) for part in parts)
    inner = _inner(wish)
    return _is_met(inner, words, depth + 1) if inner else wish in words


def _split(wish: str, separators: str) -> list[str]:
    """The parts, without empty ones; what is in brackets is not divided."""
    parts, depth = [""], 0
    for char in wish:
        depth += (char in "[(") - (char in "])")
        if depth == 0 and char in separators:
            parts.append("")
        else:
            parts[-1] += char
    return [part for part in parts if part]


def _inner(wish: str) -> str:
    return wish[1:-1] if wish[:1] in ("[", "(") and wish[-1:] in ("]", ")") else ""


def _unknown(word: str, offers: Offers) -> Impossible:
    return Impossible(f"there is no environment {word[:64]!r} here; known: {_names(offers)}")


def _names(offers: Offers) -> str:
    return (
        ", ".join(f"{name} ({', '.join(o.tags)})" if o.tags else name for name, o in sorted(offers.items())) or "none"
    )
