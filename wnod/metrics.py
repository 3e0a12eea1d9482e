"""Every number the daemons publish, in one table, and the HTTP endpoint that Prometheus scrapes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IReactorTCP

from wnod import wnod_version
from wnod.config.words import split_address
from wnod.pages import Answer, Page, serve_pages

Kind = Literal["gauge", "counter", "histogram"]

_VM_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 25, 50, 100, 200)
_STAGE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 300, 3600, 86400)
_COMMIT_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric. Seconds and bytes are base units; counters end in _total."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


COMMON = (
    Spec("wnod_build_info", "gauge", "Always 1; the labels say what runs", ("version", "role", "name")),
    Spec("wnod_epoch", "gauge", "How often this daemon has started on its journal"),
    Spec("wnod_errors_total", "counter", "Failures by protocol error code or cause", ("code",)),
    Spec("wnod_journal_commit_seconds", "histogram", "Time of one journal commit", (), _COMMIT_SECONDS),
    Spec("wnod_link_connected", "gauge", "1 if the conversation with that peer is up", ("peer",)),
)
HOSTMASTER = (
    Spec("wnod_hostmaster_vms", "gauge", "VMs by phase", ("phase",)),
    Spec("wnod_hostmaster_vms_fenced", "gauge", "VMs whose job is paused for want of contact with the LRMS"),
    Spec("wnod_hostmaster_vms_paused", "gauge", "VMs whose job is paused because an administrator asked for it"),
    Spec("wnod_hostmaster_vms_kept", "gauge", "VMs in quarantine: they have ended, memory and disk are kept"),
    Spec("wnod_hostmaster_slots", "gauge", "Slots, all and free", ("kind",)),
    Spec("wnod_hostmaster_capacity_cpus", "gauge", "Cpus for VMs, all and free", ("kind",)),
    Spec("wnod_hostmaster_capacity_memory_bytes", "gauge", "Memory for VMs, all and free", ("kind",)),
    Spec("wnod_hostmaster_capacity_disk_bytes", "gauge", "Disk for overlays, all and free", ("kind",)),
    Spec("wnod_hostmaster_hypervisor_up", "gauge", "1 if libvirt answers"),
    Spec("wnod_hostmaster_accelerator_info", "gauge", "Always 1; what executes the guests", ("accelerator",)),
    Spec("wnod_hostmaster_environment_available", "gauge", "1 if its image is verified", ("environment",)),
    Spec("wnod_hostmaster_spares", "gauge", "VMs without a lease, made in advance, by phase", ("phase",)),
    Spec("wnod_hostmaster_golden_states", "gauge", "Saved VMs that others are restored from"),
    Spec("wnod_hostmaster_golden_bytes", "gauge", "What they take on disk"),
    Spec("wnod_vms_made_total", "counter", "VMs and spares by way and what became of them", ("way", "outcome")),
    Spec("wnod_hostmaster_create_seconds", "histogram", "libvirt's create of one VM", (), _VM_SECONDS),
    Spec("wnod_hostmaster_boot_seconds", "histogram", "From created to the guest's hello", (), _VM_SECONDS),
    Spec("wnod_hostmaster_ready_seconds", "histogram", "From granted to ready", (), _VM_SECONDS),
    Spec("wnod_hostmaster_destroy_seconds", "histogram", "From release to gone", (), _VM_SECONDS),
)
BAIT = (
    Spec("wnod_bait_leases", "gauge", "Leases by phase", ("phase",)),
    Spec("wnod_bait_jobs_parked_long", "gauge", "Jobs that have been parked for more than half an hour"),
    Spec("wnod_bait_open", "gauge", "1 if the bait's node takes jobs"),
    Spec("wnod_bait_closed_total", "counter", "How often the bait was closed"),
    Spec("wnod_bait_opened_total", "counter", "How often the bait was opened"),
    Spec("wnod_bait_lrms_up", "gauge", "1 if the LRMS answers"),
    Spec("wnod_bait_jobs_total", "counter", "Jobs by what became of them", ("outcome",)),
    Spec("wnod_bait_hook_seconds", "histogram", "From a job starter's call to its answer", (), _STAGE_SECONDS),
    Spec(
        "wnod_bait_stage_seconds", "histogram", "Time from interception to each stage", ("stage",), _STAGE_SECONDS
    ),
)  # fmt: skip
STAGES = ("intercepted", "granted", "parked", "ready", "released", "running", "ended")
"""Values of wnod_bait_stage_seconds' label, in the order they happen."""

BY_ROLE = {"hostmaster": COMMON + HOSTMASTER, "bait": COMMON + BAIT}


class Metrics:
    """One daemon's numbers. A name that is not in the table, or wrong labels, is a bug and raises at once."""

    def __init__(self, role: Literal["hostmaster", "bait"], name: str) -> None:
        """`name` is the host's or the bait's."""
        self._registry = CollectorRegistry()
        self._made = {spec.name: _make(spec, self._registry) for spec in BY_ROLE[role]}
        self._before_text: list[Callable[[], None]] = []
        self.set("wnod_build_info", 1, version=wnod_version(), role=role, name=name)

    def before_text(self, publish: Callable[[], None]) -> None:
        """Call `publish` whenever somebody asks: for numbers that cost more to keep than to take then."""
        self._before_text.append(publish)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        made = self._made[name]
        assert isinstance(made, Gauge), f"{name} is no gauge"
        (made.labels(**labels) if labels else made).set(value)

    def set_all(self, name: str, label: str, values: dict[str, float]) -> None:
        """Set a gauge with one label for exactly these values; others it had become 0."""
        self.set_only(name, label, dict.fromkeys(self._known(name, label), 0.0) | values)

    def set_only(self, name: str, label: str, values: dict[str, float]) -> None:
        """As `set_all`, and others it had are gone: what they were about is not there any more."""
        made = self._made[name]
        for word in set(self._known(name, label)) - values.keys():
            made.remove(word)
        for word, value in values.items():
            self.set(name, value, **{label: word})

    def _known(self, name: str, label: str) -> list[str]:
        return [sample.labels[label] for metric in self._made[name].collect() for sample in metric.samples]

    def count(self, name: str, by: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        made = self._made[name]
        assert isinstance(made, Counter), f"{name} is no counter"
        (made.labels(**labels) if labels else made).inc(by)

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Put one duration into a histogram. Negative ones (a clock was stepped) count as zero."""
        made = self._made[name]
        assert isinstance(made, Histogram), f"{name} is no histogram"
        (made.labels(**labels) if labels else made).observe(max(0.0, seconds))

    def expect(self, name: str, /, **labels: str) -> Callable[[float], None]:
        """Show a labelled histogram from the start: what has not happened yet is 0, and not unknown. Returns what
        `observe` is for these labels, without a search for them at each call.
        """
        made = self._made[name].labels(**labels)
        assert isinstance(made, Histogram), f"{name} is no histogram"
        return lambda seconds: made.observe(max(0.0, seconds))

    def committed(self, seconds: float) -> None:
        """For `Journal(committed=...)`."""
        self.observe("wnod_journal_commit_seconds", seconds)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        for publish in self._before_text:
            publish()
        return generate_latest(self._registry)


def _make(spec: Spec, registry: CollectorRegistry) -> Gauge | Counter | Histogram:
    if spec.kind == "gauge":
        gauge = Gauge(spec.name, spec.text, spec.labels, registry=registry)
        if not spec.labels:
            gauge.set(float("nan"))  # not known yet is not 0: nobody shall be woken for it
        return gauge
    if spec.kind == "counter":
        return Counter(spec.name, spec.text, spec.labels, registry=registry)
    return Histogram(spec.name, spec.text, spec.labels, registry=registry, buckets=spec.buckets)


def metrics_page(metrics: Metrics) -> Page:
    """The numbers as they are now, as a page."""
    return lambda arguments: Answer(metrics.text(), CONTENT_TYPE_LATEST)


async def serve_metrics(reactor: IReactorTCP, address: str, metrics: Metrics) -> IListeningPort:
    """Answer GET /metrics at that "host:port" (IPv4, or IPv6 in brackets). OSError's Twisted kin if it is taken."""
    host, port = split_address(address)
    endpoint = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    return await serve_pages(endpoint(reactor, port, interface=host), {"metrics": metrics_page(metrics)})
