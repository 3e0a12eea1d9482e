"""The numbers: one table, conventional names, and a page that Prometheus can read."""

import math
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from wnod.metrics import BAIT, BY_ROLE, COMMON, HOSTMASTER, STAGES, Metrics, Spec, serve_metrics
from wnod.pages import MOST_BODY, MOST_CONNECTIONS

EVERY = [*COMMON, *HOSTMASTER, *BAIT]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec.name)
def test_names_keep_the_conventions(spec: Spec) -> None:
    assert re.fullmatch(r"wnod_[a-z][a-z_]*", spec.name)
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert (spec.kind == "histogram") == bool(spec.buckets) == spec.name.endswith("_seconds")
    assert "_mib" not in spec.name
    assert spec.text


def test_no_name_is_there_twice() -> None:
    for specs in BY_ROLE.values():
        assert len({spec.name for spec in specs}) == len(specs)


def test_everything_set_is_published() -> None:
    metrics = Metrics("hostmaster", "h1")
    metrics.set("wnod_hostmaster_vms", 3, phase="ready")
    metrics.set("wnod_hostmaster_hypervisor_up", 1)
    metrics.count("wnod_errors_total", code="no-room")
    metrics.count("wnod_errors_total", 2, code="no-room")
    metrics.observe("wnod_hostmaster_boot_seconds", 4.0)
    metrics.committed(0.0003)
    seen = samples(metrics)
    assert seen["wnod_hostmaster_vms", (("phase", "ready"),)] == 3
    assert seen["wnod_errors_total", (("code", "no-room"),)] == 3
    assert seen["wnod_hostmaster_boot_seconds_sum", ()] == 4.0
    assert seen["wnod_hostmaster_boot_seconds_bucket", (("le", "6.0"),)] == 1
    assert seen["wnod_hostmaster_boot_seconds_bucket", (("le", "3.0"),)] == 0
    assert seen["wnod_journal_commit_seconds_count", ()] == 1
    (build,) = [labels for (name, labels) in seen if name == "wnod_build_info"]
    assert dict(build)["role"] == "hostmaster"
    assert dict(build)["name"] == "h1"


def test_a_phase_that_emptied_becomes_zero_and_does_not_linger() -> None:
    metrics = Metrics("hostmaster", "h1")
    metrics.set_all("wnod_hostmaster_vms", "phase", {"booting": 2, "ready": 1})
    metrics.set_all("wnod_hostmaster_vms", "phase", {"ready": 4})
    seen = samples(metrics)
    assert seen["wnod_hostmaster_vms", (("phase", "booting"),)] == 0
    assert seen["wnod_hostmaster_vms", (("phase", "ready"),)] == 4


def test_what_is_not_there_any_more_has_no_number() -> None:
    """A refused environment that was taken out of the catalogue went on to wake people."""
    metrics = Metrics("hostmaster", "h1")
    metrics.set_only("wnod_hostmaster_environment_available", "environment", {"old": 0, "debian": 1})
    metrics.set_only("wnod_hostmaster_environment_available", "environment", {"debian": 0})
    seen = samples(metrics)
    found = {labels: value for (name, labels), value in seen.items() if name == "wnod_hostmaster_environment_available"}
    assert found == {(("environment", "debian"),): 0}


def test_time_never_counts_negative() -> None:
    metrics = Metrics("bait", "b1")
    metrics.observe("wnod_bait_stage_seconds", -5.0, stage="ready")
    assert samples(metrics)["wnod_bait_stage_seconds_sum", (("stage", "ready"),)] == 0


def test_two_daemons_in_one_process_do_not_mix() -> None:
    one, two = Metrics("bait", "b1"), Metrics("bait", "b2")
    one.set("wnod_bait_open", 1)
    assert samples(one)["wnod_bait_open", ()] == 1
    assert samples(two)["wnod_bait_open", ()] != 1


def test_what_is_not_known_yet_is_neither_0_nor_1() -> None:
    assert math.isnan(samples(Metrics("bait", "b1"))["wnod_bait_lrms_up", ()])


def test_a_wrong_name_is_a_bug_and_shows_at_once() -> None:
    metrics = Metrics("bait", "b1")
    with pytest.raises(KeyError):
        metrics.set("wnod_hostmaster_vms", 1, phase="ready")
    with pytest.raises(AssertionError, match="no gauge"):
        metrics.set("wnod_bait_closed_total", 1)
    with pytest.raises(ValueError, match=r"[Ll]abel"):
        metrics.set("wnod_bait_leases", 1, phrase="ready")


def test_stages_are_in_the_order_they_happen() -> None:
    assert STAGES[0] == "intercepted"
    assert STAGES[-1] == "ended"


class EndpointTests(SynchronousTestCase):
    """The page, over an in-memory connection."""

    def get(self, path: bytes, method: bytes = b"GET", address: str = "127.0.0.1:9611") -> bytes:
        reactor = MemoryReactorClock()
        metrics = Metrics("bait", "b1")
        self.successResultOf(Deferred.fromCoroutine(serve_metrics(reactor, address, metrics)))
        ((port, site, _, interface),) = reactor.tcpServers
        assert (interface, port) == ("::1" if "[" in address else "127.0.0.1", 9611)
        protocol = site.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(method + b" " + path + b" HTTP/1.0\r\n\r\n")
        return transport.value()

    def test_get_metrics(self) -> None:
        answer = self.get(b"/metrics")
        assert b"200 OK" in answer
        assert b"text/plain; version=" in answer.lower()
        assert b"wnod_bait_open NaN" in answer

    def test_ipv6(self) -> None:
        assert b"200 OK" in self.get(b"/metrics", address="[::1]:9611")

    def test_nothing_else_is_there_and_nothing_can_be_changed(self) -> None:
        for path in (b"/", b"/metricsx", b"/../etc/passwd", b"/status"):
            assert b"404" in self.get(path).splitlines()[0]
        for method in (b"POST", b"PUT", b"BREW"):
            refused = self.get(b"/metrics", method)
            assert b"405" in refused.splitlines()[0]
            assert b"Allow: GET, HEAD\r\n" in refused
        assert self.flushWarnings() == [], "nothing of Twisted is used that will go"

    def test_a_body_without_end_is_neither_kept_nor_waited_for(self) -> None:
        """Any user of the host reaches this port; what he sent was kept on the disk of the journal."""
        for framing in (b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"):
            site, transport = self.site(), StringTransport()
            protocol = site.buildProtocol(None)
            protocol.makeConnection(transport)
            protocol.dataReceived(b"POST /metrics HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
            piece = b"x" * 65536
            for _ in range(4):
                protocol.dataReceived(b"10000\r\n" + piece + b"\r\n" if b"chunked" in framing else piece)
            (request,) = protocol.wrappedProtocol._channel.requests
            assert request.content.seek(0, 2) <= MOST_BODY
            assert transport.disconnecting

    def test_connections_are_bounded(self) -> None:
        """Each costs the daemon a descriptor, of which it needs some for its own work."""
        site = self.site()
        protocols = [site.buildProtocol(None) for _ in range(MOST_CONNECTIONS)]
        for protocol in protocols:
            protocol.makeConnection(StringTransport())
        assert site.buildProtocol(None) is None
        protocols[0].connectionLost(Failure(ConnectionDone()))
        assert site.buildProtocol(None) is not None
        for protocol in protocols[1:]:
            protocol.connectionLost(Failure(ConnectionDone()))

    def site(self) -> Any:
        reactor = MemoryReactorClock()
        serving = serve_metrics(reactor, "127.0.0.1:9611", Metrics("bait", "b1"))
        self.successResultOf(Deferred.fromCoroutine(serving))
        ((_, site, _, _),) = reactor.tcpServers
        return site
