"""The nemesis: does one fault after the other, drawn per seed, until it is told to end them all."""

from collections import Counter
from collections.abc import Callable, Mapping

from tests.simulation.cluster import Cluster
from tests.simulation.journal import POINTS
from tests.simulation.lrms import MEMORY_S
from tests.simulation.site import Site

DAEMONS = ("host", "bait")
CRASH_POINTS = {
    "host": (*POINTS, "before-send", "after-send", "before-libvirt", "after-libvirt", "before-overlay", "before-guest",
             "after-guest"),
    "bait": (*POINTS, "before-send", "after-send", "before-lrms", "after-lrms", "before-answer", "after-answer"),
}  # fmt: skip

BEGIN_S, END_S = 8.0, 220.0
LONG_END_S = 700.0
"""Time for machines to be given up by the controller, which takes 300 s."""
GAP_S = 2.5
"""Mean time between two faults of the whole cluster, for 8 hosts; fewer hosts have fewer."""


class Nemesis:
    """Does one fault after the other. `kinds`: names of faults that may happen; `all` stands for every one."""

    def __init__(self, cluster: Cluster, kinds: tuple[str, ...], faults: "Mapping[str, Fault]") -> None:
        self.cluster = cluster
        self.faults = faults
        self.rng = cluster.rng("nemesis")
        self.done: Counter[str] = Counter()
        self.over = False
        self._last = cluster.world.now
        self._next_amnesia = 0.0
        self.changed: set[str] = set()
        """Jobs that their users have changed: another change might only undo the harm of the first."""
        self._ends: list[Callable[[], object]] = []
        chosen = tuple(faults) if "all" in kinds else kinds
        unknown = set(chosen) - set(faults)
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; known: all, {', '.join(faults)}")
        # As in FoundationDB's simulations: not every seed has every kind, so that kinds also meet in small company.
        self.kinds = [kind for kind in chosen if len(chosen) <= 3 or self.rng.random() < 0.5]
        long = bool({"vm-cut-off", "host-cut-off"} & set(self.kinds))
        longest = self.rng.choice((LONG_END_S, LONG_END_S, 2 * LONG_END_S))
        self.until = cluster.world.now + (longest if long else END_S if self.kinds else 1.0)
        self._begin()

    def _begin(self) -> None:
        if not self.kinds:
            return
        gap = GAP_S * 8 / len(self.cluster.sites)
        at = BEGIN_S
        while at < END_S - 10.0:
            at += self.rng.expovariate(1 / gap)
            self.cluster.world.callLater(at, self._strike, self.rng.choice(self.kinds))
        self._last = self.cluster.world.now + at + MEMORY_S
        if "late-vm" in self.kinds:
            self.cluster.late_guests = self.rng.choice((0.05, 0.3))
            self.done["late-vm"] += 1

    def spent(self) -> bool:
        """No fault is to come, and none lasts."""
        return self.cluster.world.now > self._last and not self._ends

    def _strike(self, kind: str) -> None:
        if self.over:
            return
        if kind == "amnesia" and self.cluster.world.now < self._next_amnesia:
            return  # it befalls the whole site: one after the other
        site = self.rng.choice(self.cluster.sites)
        text = self.faults[kind](self, site)
        if text:
            self.done[kind] += 1
            self.cluster.judge.trace("", f"! {kind}: {text}")

    def later(self, seconds: float, end: Callable[[], object]) -> None:
        """End a fault after so long, or when all faults end."""

        def once() -> None:
            if end in self._ends:
                self._ends.remove(end)
                end()

        self._ends.append(end)
        self.cluster.world.callLater(seconds, once)

    def end(self) -> None:
        """Peace: nothing is broken any more, and nothing will be."""
        self.over = True
        self.cluster.judge.trace("", "! all faults end")
        ends, self._ends = self._ends, []
        for end in ends:
            end()
        self.cluster.late_guests = 0.0
        for site in self.cluster.sites:
            site.trouble.end()
            site.libvirtd.end()
            site.next_fuse.clear()
            for disk in site.disks.values():
                disk.full = False
            for who in DAEMONS:
                daemon = getattr(site, who)
                if daemon is not None:
                    daemon.life.fuse = None
                    back = -daemon.life.offset
                    daemon.life.jump(back)
                site.offsets[who] = 0.0
                site.start(who)
        for path in self.cluster.net.paths.values():
            path.mend()

    def length(self) -> float:
        """How long a fault lasts: mostly short, now and then longer than every limit."""
        return self.rng.choice((0.2, 1.0, 3.0, 8.0, 20.0, 40.0, 130.0)) * (0.5 + self.rng.random())


Fault = Callable[[Nemesis, Site], str]
"""Does harm at, or near, a host; what it did in words, empty if there was nothing to harm."""
