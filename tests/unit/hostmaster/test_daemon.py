"""The hostmaster's daemon on files of its own: who may pass through its directories."""

import datetime as dt
import os
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from hostmaster.daemon import HostmasterDaemon
from protocol.tls import Identity, Role
from wnod.config import load_hostmaster
from wnod.pki import create_authority, issue
from wnod.service import Context


def test_qemu_passes_through_to_its_disk_and_its_console_whatever_the_umask(tmp_path: Path) -> None:
    """The unit file's is 0077; where there is no virtlogd, QEMU opens the console itself."""
    now = dt.datetime.now(dt.UTC)
    create_authority(tmp_path / "pki", now)
    own = issue(tmp_path / "pki", Identity(Role.HOST, "h1"), now)
    (tmp_path / "catalogue.yaml").write_text(f"""\
environments:
  debian12:
    image: {tmp_path}/image
    sha256: {"ab" * 32}
    default: {{cpus: 1, memory_mib: 512, disk_mib: 100}}
    largest: {{cpus: 2, memory_mib: 1024, disk_mib: 200}}
""")
    (tmp_path / "hostmaster.yaml").write_text(f"""\
host: h1
baits: [b1]
tls: {{ca: {tmp_path}/pki/ca.pem, certificate: {own.certificate}, key: {own.key}}}
capacity: {{cpus: 4, memory_mib: 8192, disk_mib: 9000}}
slots: [{{name: vm1, mac: "52:54:00:12:34:56", address: 10.7.0.21/24}}]
hypervisor: {{bridge: br0}}
lrms: {{controller: "ctl:6817", munge_key: {tmp_path}/munge.key}}
catalogue: {tmp_path}/catalogue.yaml
state: {tmp_path}/state
runtime: /run/wnod-test-{os.getpid()}
""")
    reactor: Any = MemoryReactorClock()
    before = os.umask(0o077)
    try:
        context = Context(reactor, lambda text: None, lambda reason: None, "")
        daemon = HostmasterDaemon(context, load_hostmaster(str(tmp_path / "hostmaster.yaml")))
    finally:
        os.umask(before)
    modes = {path: (tmp_path / path).stat().st_mode & 0o777 for path in ("state", "state/console")}
    daemon.journal.close()
    assert modes == {"state": 0o711, "state/console": 0o711}
