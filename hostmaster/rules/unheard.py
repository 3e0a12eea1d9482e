"""Creates whose answer nobody has heard: the hypervisor may carry them out yet. Pure.

A VM of which that is so is not gone because it is absent: it would come when its room is somebody else's. Nor is it
made once more: its memory would come to the overlay of another try. What waited while libvirt hung is done when it is
back, so it must have answered for a while before "there is none" is believed.
"""

from dataclasses import dataclass, field

from hostmaster.rules.spare import Spare, SparePhase
from hostmaster.rules.vm import Vm
from protocol.ids import Generation
from protocol.messages import VmPhase

SETTLED_S = 10.0
"""A hypervisor that has answered for so long has done, or will never do, what it was asked before."""
STEP_S = 2.0
"""Answers that are further apart count as so far apart: the clock may have been set meanwhile."""
_UNDER_WAY = frozenset({VmPhase.CREATING, VmPhase.DESTROYING, SparePhase.CREATING, SparePhase.DESTROYING})
"""A guest that never spoke and is on its way up or down may still be on its way up."""


@dataclass
class Unheard:
    """The generations that may still come. Times in seconds."""

    _for_s: dict[Generation, float] = field(default_factory=dict)
    """For how long the hypervisor has answered since that create."""
    _last: float | None = None
    """When it last answered; None: it does not."""

    def asked(self, generation: Generation) -> None:
        """A create of this generation was asked for, and nobody knows what became of it."""
        self._for_s[generation] = 0.0

    def taken_up(self, record: Vm | Spare) -> None:
        """A record of an earlier life, which may have died before it heard of a create."""
        if record.tries and record.boot_id is None and record.phase in _UNDER_WAY:
            self.asked(record.generation)

    def silent(self) -> None:
        """The hypervisor does not answer."""
        self._for_s, self._last = dict.fromkeys(self._for_s, 0.0), None

    def answered(self, now: float) -> None:
        """The hypervisor has answered; what can come no more is forgotten."""
        passed_s = 0.0 if self._last is None else min(max(0.0, now - self._last), STEP_S)
        self._last = now
        if self._for_s:
            for_s = {generation: before + passed_s for generation, before in self._for_s.items()}
            self._for_s = {generation: s for generation, s in for_s.items() if s < SETTLED_S}

    def may_come(self, generation: Generation) -> bool:
        """True while an absent domain of this generation does not mean that there will be none."""
        return generation in self._for_s
