"""The hostmaster's metrics: times taken from the records as they change, counts when somebody asks."""

from collections import Counter

from hostmaster.environments import Environments
from hostmaster.keeper import Keeper
from hostmaster.rules import capacity
from hostmaster.rules.lifecycle import Vm, Way
from hostmaster.stock import Stock
from protocol.messages import VmPhase
from wnod.metrics import Metrics

MIB = 1024 * 1024

TIMED = {
    (VmPhase.CREATING, VmPhase.BOOTING): "wnod_hostmaster_create_seconds",
    (VmPhase.BOOTING, VmPhase.READY): "wnod_hostmaster_boot_seconds",
    (VmPhase.BOOTING, VmPhase.BOUND): "wnod_hostmaster_boot_seconds",
    (VmPhase.DESTROYING, VmPhase.GONE): "wnod_hostmaster_destroy_seconds",
}
"""Which change of phase ends which histogram's time; the time is what the earlier phase lasted."""


class Numbers:
    """Publishes VMs by phase, capacity and the time of each stage. A host that has just started has numbers, too."""

    def __init__(self, metrics: Metrics, environments: Environments, keeper: Keeper, stock: Stock | None) -> None:
        self._metrics = metrics
        self._environments = environments
        self._keeper = keeper
        self._stock = stock
        metrics.before_text(self._publish)

    def changed(self, before: Vm | None, vm: Vm) -> None:
        """A record changed."""
        if before is not None and before.phase is not vm.phase:
            self._time(before, vm)

    def _time(self, before: Vm, vm: Vm) -> None:
        name = TIMED.get((before.phase, vm.phase))
        if name is not None:
            self._metrics.observe(name, vm.since - before.since)
        if vm.phase in (VmPhase.READY, VmPhase.BOUND) and before.phase is VmPhase.BOOTING:
            self._metrics.observe("wnod_hostmaster_ready_seconds", vm.since - vm.granted_at)
        if vm.phase is VmPhase.DESTROYING and vm.code is not None:
            self._metrics.count("wnod_errors_total", code=vm.code)

    def made(self, way: Way, outcome: str) -> None:
        """A VM or a spare was made in this way, or not (hostmaster.background)."""
        self._metrics.count("wnod_vms_made_total", way=way.value, outcome=outcome)

    def _publish(self) -> None:
        keeper = self._keeper
        vms = tuple(keeper.vms.values())
        host = self._environments.host()
        phases = Counter({str(phase): 0 for phase in VmPhase})
        phases.update(str(vm.phase) for vm in vms)
        metrics = self._metrics
        metrics.set_all("wnod_hostmaster_vms", "phase", {phase: float(n) for phase, n in phases.items()})
        metrics.set("wnod_hostmaster_vms_fenced", sum(vm.fenced is not None for vm in vms))
        asked = sum(vm.pause is not None and vm.phase is VmPhase.STARTED for vm in vms)
        metrics.set("wnod_hostmaster_vms_paused", asked)
        if keeper.quarantine is not None:
            metrics.set("wnod_hostmaster_vms_kept", len(keeper.quarantine.kept))
        metrics.set("wnod_hostmaster_hypervisor_up", 0 if keeper.away else 1)
        self._publish_stock()
        free = capacity.free(host, vms)
        for kind, room in (("total", host.total), ("free", free)):
            metrics.set("wnod_hostmaster_capacity_cpus", room.cpus, kind=kind)
            metrics.set("wnod_hostmaster_capacity_memory_bytes", room.memory_mib * MIB, kind=kind)
            metrics.set("wnod_hostmaster_capacity_disk_bytes", room.disk_mib * MIB, kind=kind)
        metrics.set("wnod_hostmaster_slots", len(host.slots), kind="total")
        metrics.set("wnod_hostmaster_slots", len(capacity.free_slots(host, vms)), kind="free")
        offers = {str(name): float(offer.available) for name, offer in host.offers.items()}
        metrics.set_only("wnod_hostmaster_environment_available", "environment", offers)

    def _publish_stock(self) -> None:
        if self._stock is None:
            return
        phases = Counter(str(spare.phase) for spare in self._stock.spares.values())
        goldens = self._stock.goldens.values()
        self._metrics.set_all("wnod_hostmaster_spares", "phase", {phase: float(n) for phase, n in phases.items()})
        self._metrics.set("wnod_hostmaster_golden_states", len(goldens))
        self._metrics.set("wnod_hostmaster_golden_bytes", sum(golden.mib for golden in goldens) * MIB)
