"""Creates whose answer nobody has heard: the hypervisor may carry them out yet. Pure.

A VM of which that is so is not gone because it is absent: it would come when its room is somebody else's. What waited
while libvirt hung is done when it is back, so it must have answered for a while before "there is none" is believed.
"""

from dataclasses import dataclass, field

from protocol.ids import Generation

SETTLED_S = 10.0
"""A hypervisor that has answered for so long has done, or will never do, what it was asked before."""


@dataclass
class Unheard:
    """The generations that may still come. Times in seconds."""

    _since: dict[Generation, float | None] = field(default_factory=dict)
    """When the hypervisor first answered after that create; None: it has not."""

    def asked(self, generation: Generation) -> None:
        """A create of this generation was asked for, and nobody knows what became of it."""
        self._since[generation] = None

    def silent(self) -> None:
        """The hypervisor does not answer."""
        self._since = dict.fromkeys(self._since)

    def answered(self, now: float) -> None:
        """The hypervisor has answered; what can come no more is forgotten."""
        if self._since:
            since = {generation: now if at is None else at for generation, at in self._since.items()}
            self._since = {generation: at for generation, at in since.items() if now < at + SETTLED_S}

    def may_come(self, generation: Generation) -> bool:
        """True while an absent domain of this generation does not mean that there will be none."""
        return generation in self._since
