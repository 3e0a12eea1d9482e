"""The hostmaster's side of the guest channels: configures a guest that says hello, and is the gate's judge."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hostmaster.edges.accounts import AccountUnknown
from hostmaster.keeper import Keeper
from hostmaster.rules import lifecycle
from hostmaster.rules.lifecycle import Vm, Way
from hostmaster.rules.spare import Spare
from hostmaster.stock import Stock
from protocol import guest
from protocol.guest import FromGuest, GuestFailed, GuestFinished, GuestHello, GuestReady, GuestStandby, MayStart
from protocol.ids import BootId
from protocol.messages import VmPhase
from wnod.crashpoint import around

R = TypeVar("R", Vm, Spare)

ONCE_S = 1.0
"""A guest that was at standby answers each welcome, and says hello when its port is there again: what it was told so
lately it is not told again for that."""


@dataclass
class GuestService:
    """What is done when a guest speaks. The channel's name says which guest it is, never the guest."""

    clock: IReactorTime
    keeper: Keeper
    configure: Callable[[Vm], bytes]
    """The lines between `welcome` and `go` for a VM; may raise OSError, NoSuchAccount or AccountUnknown."""
    finished: Callable[[Vm, int | None], None]
    stock: Stock | None = None
    stand: Callable[[Spare], bytes] = lambda spare: b""
    """The lines between `welcome` and `standby` for a spare; may raise as `configure`."""
    _told: dict[str, float] = field(default_factory=dict)
    """When each channel's guest was last told all that it needs."""
    log: Logger = field(default_factory=lambda: Logger("hostmaster.serve_guests"))

    def __post_init__(self) -> None:
        self.keeper.waking.greet = self.greet

    def heard(self, key: str, said: FromGuest | None) -> None:
        """A guest spoke, or (None) its end of the channel was closed. A hostmaster.world.GuestListener."""
        vm = self.keeper.by_key(key)
        if vm is None and said is not None:
            self._spare_says(key, said)
        if vm is None or said is None or vm.phase in (VmPhase.DESTROYING, VmPhase.GONE):
            return
        self.keeper.tell_time(vm)
        match said:
            case GuestHello() if vm.way is Way.BOOT:
                self._hello(vm)
            case GuestHello() | GuestStandby():
                if self.clock.seconds() - self._told.get(key, 0.0) >= ONCE_S:
                    self._hello(vm)
            case GuestReady(boot_id):
                self._ready(vm, boot_id)
            case MayStart():
                self._may_start(vm, said)
            case GuestFinished():
                if lifecycle.is_end_of(vm, said):
                    self.keeper.put(lifecycle.ended(vm, said))
                    self.finished(vm, said.status)
            case GuestFailed():
                self._failed(vm, said)

    def _ready(self, vm: Vm, boot_id: BootId) -> None:
        if self.keeper.ready.get(vm.generation) == boot_id and vm.generation not in self.keeper.failed:
            return  # no news: a guest that says it without end has libvirt asked for nothing
        self.keeper.ready[vm.generation] = boot_id
        self.keeper.failed.pop(vm.generation, None)
        self.keeper.duties.kick(str(vm.generation))

    def _failed(self, vm: Vm | Spare, said: GuestFailed) -> None:
        text = f"guest failed at {said.stage}: {said.text}"
        if self.keeper.failed.get(vm.generation) != text:
            self.log.warn("{vm}: {text}", vm=vm.key, text=text)
            self.keeper.failed[vm.generation] = text
            self.keeper.duties.kick(str(vm.generation))

    def _hello(self, vm: Vm) -> None:
        if self.keeper.ready.get(vm.generation) is not None or vm.boot_id is not None:
            # A heartbeat, or a guest that was configured before this daemon started: nothing to set up again.
            self.keeper.guests.send(vm.key, guest.welcome(vm.generation))
            return
        if not vm.labelled:
            self.keeper.waking.unanswered.add(vm.generation)  # told nothing of the lease before its domain carries it
            return
        self._tell(vm, self.configure)

    def greet(self, key: str) -> None:
        """Tell a guest what it waits for without being asked: it has just been restored, or let go on."""
        vm, spare = self.keeper.by_key(key), self._spare(key)
        if vm is not None and vm.phase in (VmPhase.CREATING, VmPhase.BOOTING):
            self._hello(vm)
        elif spare is not None:
            self._tell(spare, self.stand)

    def _tell(self, vm: R, lines: Callable[[R], bytes]) -> None:
        try:
            if self.keeper.guests.send(vm.key, lines(vm)):
                now = self.clock.seconds()
                self._told = {key: at for key, at in self._told.items() if now - at < ONCE_S} | {vm.key: now}
        except AccountUnknown as error:
            self.log.info("{vm}: at its next hello: {error}", vm=vm.key, error=error)
        except Exception as error:
            # The boot limit ends this VM if the next hello finds the same trouble.
            self.keeper.failed[vm.generation] = f"cannot configure the guest: {error}"
            self.log.error("{vm}: cannot configure the guest: {error}", vm=vm.key, error=error)

    def _spare(self, key: str) -> Spare | None:
        return None if self.stock is None else self.stock.by_key(key)

    def _spare_says(self, key: str, said: FromGuest) -> None:
        spare = self._spare(key)
        if spare is None or self.stock is None:
            return
        match said:
            case GuestHello() if spare.boot_id is None:
                self._tell(spare, self.stand)
            case GuestStandby(boot_id) if self.stock.standby.get(spare.generation) != boot_id:
                self.stock.standby[spare.generation] = boot_id
                self.keeper.duties.kick(str(spare.generation))
            case GuestFailed():
                self._failed(spare, said)

    def _may_start(self, vm: Vm, ask: MayStart) -> None:
        verdict = lifecycle.may_start(vm, ask, self.clock.seconds())
        if not verdict.allowed:
            self.keeper.put(verdict.vm)
            self.log.warn("{vm}: start of {job}.{restart} denied: {reason}",
                          vm=vm.key, job=ask.job, restart=ask.restart, reason=verdict.reason)  # fmt: skip
            self.keeper.guests.send(vm.key, guest.deny(ask.number, verdict.reason))
            return
        # On disk before the guest hears it: a start that nobody recorded must be impossible (R1).
        self.keeper.put(verdict.vm)
        with around("host.say.allow"):
            self.keeper.guests.send(vm.key, guest.allow(ask.number))
