"""What an administrator may have done to a VM: asked over the daemon's socket, answered once it is on record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hostmaster.keeper import Keeper
from hostmaster.quarantine import why_not
from hostmaster.rules import yielding
from hostmaster.rules.lifecycle import Vm
from hostmaster.rules.vm import Keep
from hostmaster.rules.yielding import Limits, Refusal
from hostmaster.world import DomainState
from wnod.status import Do

Answer = tuple[int, Mapping[str, Any]]
"""HTTP status and what is said."""


@dataclass
class Administration:
    """Pauses VMs and lets them go on, for whoever `wnod.status` lets through."""

    keeper: Keeper
    longest_s: float
    """The longest pause."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster.administer"))

    def acts(self) -> dict[str, Do]:
        """For `wnod.status.StatusServer`.

        Arguments: `vm` (a VM's name or a job's id), `for` (seconds, optional), `why`; for "drop" `name`.
        """
        return {"pause": self._pause, "resume": self._resume, "keep": self._keep, "drop": self._drop}

    def _pause(self, arguments: Mapping[str, str], by: str) -> Answer:
        try:
            seconds = float(arguments["for"]) if "for" in arguments else None
        except ValueError:
            return 400, {"error": f"for: {arguments['for'][:40]!r}: expected a number of seconds"}
        limits, now = Limits(self.longest_s, self.keeper.times), self.keeper.clock.seconds()

        def paused(vm: Vm, seen: DomainState | None) -> Vm | Refusal:
            return yielding.pause(vm, seconds, by, seen, now, limits)

        return self._changed(arguments, by, "pause", paused)

    def _resume(self, arguments: Mapping[str, str], by: str) -> Answer:
        now = self.keeper.clock.seconds()
        return self._changed(arguments, by, "resume", lambda vm, seen: yielding.resume(vm, by, seen, now))

    def _keep(self, arguments: Mapping[str, str], by: str) -> Answer:
        why, now = " ".join(arguments.get("why", "").split())[:200], self.keeper.clock.seconds()
        if not why:
            return 400, {"error": "why: expected some words for whoever finds the VM in quarantine"}
        wish = Keep(by, why, now)
        full = why_not(self.keeper.quarantine)
        return self._changed(arguments, by, "keep", lambda vm, _: yielding.keep(vm, wish, full))

    def _drop(self, arguments: Mapping[str, str], by: str) -> Answer:
        name, quarantine = arguments.get("name", ""), self.keeper.quarantine
        if quarantine is None or not quarantine.has(name):
            return 404, {"error": f"{name!r} is not in quarantine: wnod vm kept shows what is"}
        self.log.info("{by} drops {name} from quarantine", by=by, name=name)
        Deferred.fromCoroutine(quarantine.drop(name)).addErrback(lambda f: self.log.failure("not dropped", f))
        return 200, {"name": name}

    def _changed(
        self, arguments: Mapping[str, str], by: str, word: str, change: Callable[[Vm, DomainState | None], Vm | Refusal]
    ) -> Answer:
        vm = yielding.find(arguments.get("vm", ""), self.keeper.vms.values())
        after = vm if isinstance(vm, Refusal) else change(vm, self.keeper.seen.get(vm.generation))
        if isinstance(after, Refusal):
            self.log.info("{by} may not {word}: {text}", by=by, word=word, text=after.text)
            return 404 if after.unknown else 409, {"error": after.text}
        self.log.info("{vm}: {by} asks: {word}", vm=after.key, by=by, word=word, lease=after.lease)
        self.keeper.put(after)
        until = after.pause.until if after.pause is not None else None
        return 200, {"vm": after.vm, "generation": after.generation, "run": str(after.bound), "until": until}
