"""The bait's daemon on files of its own: what it publishes before anything has happened."""

import datetime as dt
from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from bait.daemon import BaitDaemon
from protocol.tls import Identity, Role
from wnod.config import load_bait
from wnod.pki import create_authority, issue
from wnod.service import Context


@pytest.fixture
def daemon(tmp_path: Path) -> BaitDaemon:
    now = dt.datetime.now(dt.UTC)
    create_authority(tmp_path / "pki", now)
    own = issue(tmp_path / "pki", Identity(Role.BAIT, "b1"), now)
    (tmp_path / "bait.yaml").write_text(f"""\
bait: b1
hostmaster: {{name: h1, address: "127.0.0.1:9610"}}
tls: {{ca: {tmp_path}/pki/ca.pem, certificate: {own.certificate}, key: {own.key}}}
lrms: {{cluster: site}}
state: {tmp_path}/state
runtime: {tmp_path}
""")
    context = Context(MemoryReactorClock(), lambda text: None, lambda reason: None, "")
    return BaitDaemon(context, load_bait(str(tmp_path / "bait.yaml")))


def test_a_host_that_was_never_heard_of_is_missing_from_the_start(daemon: BaitDaemon) -> None:
    """WnodLinkDown asks for 0; a series that is not there alarms nobody."""
    assert b'wnod_link_connected{peer="h1"} 0.0' in daemon.metrics.text()
    daemon.connected("h1", 1, resumed=False)
    lines = [line for line in daemon.metrics.text().splitlines() if line.startswith(b"wnod_link_connected{")]
    assert lines == [b'wnod_link_connected{peer="h1"} 1.0']
    daemon.journal.close()
