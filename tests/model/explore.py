"""Visits every world that can be reached, and checks the promise in each."""

from collections import deque
from dataclasses import dataclass

from tests.model.moves import moves, settle
from tests.model.rules import Rules, bounded
from tests.model.state import World, initial


@dataclass(frozen=True)
class Verdict:
    """`broken` empty: the promise holds in all `worlds`."""

    broken: str
    worlds: int
    story: tuple[str, ...] = ()
    faults: int = 0


def explore(rules: Rules, hosts: int = 1, most_worlds: int = 3_000_000) -> Verdict:
    """Breadth first, so that a story is a shortest one."""
    first = settle(initial(hosts, "amnesia" in rules.faults), rules)
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    before: dict[World, list[World]] = {}
    queue = deque([first])
    ends: list[World] = []
    while queue:
        world = queue.popleft()
        if clean(world) or bounded(world):
            ends.append(world)
        for what, after in moves(world, rules):
            if after.faults == world.faults:
                before.setdefault(after, []).append(world)
            if after in came_from:
                continue
            came_from[after] = (world, what)
            queue.append(after)
            broken = judge(after)
            if broken or len(came_from) > most_worlds:
                return Verdict(broken or "too many worlds", len(came_from), story(after, came_from), after.faults)
    return _all_end(came_from, before, ends)


def judge(world: World) -> str:
    """What of the promise is broken here; empty if nothing."""
    if world.wrong:
        return world.wrong
    runs = [domain for host in world.hosts for domain in host.domains if domain.run >= 0 and not domain.paused]
    if len(runs) > 1:
        return "two runs at the same time"
    if world.starts > 1:
        return "more starts than 1 + failures after a start"
    if world.job.state == "done" and not world.ran and not world.cancelled:
        return "lost: it has ended and never ran"
    generations = [vm.generation for host in world.hosts for vm in host.vms]
    made = [(at, domain.generation) for at, host in enumerate(world.hosts) for domain in host.domains]
    if len(world.hosts) == 1 and (len(set(generations)) < len(generations) or len(set(made)) < len(made)):
        return "a generation is used twice"
    return ""


def clean(world: World) -> bool:
    """The job has ended and nothing of it is left, except what only a daemon that never comes back could remove."""
    if world.job.state != "done":
        return False
    return all(
        host.dead or not (host.leases or host.vms or host.domains or host.deed or host.starter) for host in world.hosts
    )


def _all_end(came_from: dict, before: dict[World, list[World]], ends: list[World]) -> Verdict:
    """From every world a clean end must be reachable without another fault."""
    good, queue = set(ends), deque(ends)
    while queue:
        for earlier in before.get(queue.popleft(), ()):
            if earlier not in good:
                good.add(earlier)
                queue.append(earlier)
    stuck = next((world for world in came_from if world not in good), None)
    if stuck is None:
        return Verdict("", len(came_from))
    left = "something is left for ever" if stuck.job.state == "done" else "the job never ends"
    return Verdict(left, len(came_from), story(stuck, came_from), stuck.faults)


def story(world: World, came_from: dict) -> tuple[str, ...]:
    """How it came to that."""
    steps = []
    step = came_from[world]
    while step is not None:
        world, what = step
        steps.append(what)
        step = came_from[world]
    return tuple(reversed(steps))
