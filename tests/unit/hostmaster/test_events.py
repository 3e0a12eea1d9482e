"""One connection to libvirt: what it leaves behind when it cannot be subscribed to, and whom it tells."""

from typing import Any

import libvirt
import pytest
from twisted.internet.task import Clock

from hostmaster.edges.events import subscribe
from hostmaster.edges.hypervisor import LibvirtHypervisor
from tests.conftest import LoggedFailures


class Dying:
    """A connection whose libvirtd dies between two subscriptions."""

    def __init__(self) -> None:
        self.callbacks: set[int] = set()

    def domainEventRegisterAny(self, _domain: Any, kind: int, _callback: Any, _opaque: Any) -> int:
        if self.callbacks:
            raise libvirt.libvirtError("libvirtd has died")
        self.callbacks.add(kind)
        return kind

    def domainEventDeregisterAny(self, callback: int) -> None:
        self.callbacks.remove(callback)

    def unregisterCloseCallback(self) -> None:
        raise libvirt.libvirtError("there is none")


def test_a_connection_that_is_lost_while_it_is_subscribed_to_is_really_closed() -> None:
    """Each subscription holds it open: one descriptor was lost for each libvirtd that died in that moment."""
    connection: Any = Dying()
    with pytest.raises(libvirt.libvirtError, match="has died"):
        subscribe(connection, Clock(), lambda uuid, what: None, lambda why: None)  # type: ignore[arg-type]
    assert connection.callbacks == set()


def test_a_hint_that_one_cannot_take_reaches_the_others(logged_failures: LoggedFailures) -> None:
    heard: list[str] = []
    hypervisor = LibvirtHypervisor(Clock(), "test:///default")
    hypervisor.watch(lambda uuid: heard.append(str(1 / 0)))
    hypervisor.watch(heard.append)
    hypervisor._connection.changed()
    assert heard == [""]
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
