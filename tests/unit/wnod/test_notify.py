"""What systemd is told, received on a real datagram socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wnod.notify import Notify


@pytest.fixture(params=["path", "abstract", "at"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    names = {"path": str(tmp_path / "notify"), "at": str(tmp_path / "bait@1"), "abstract": f"@wnod-test-{tmp_path}"}
    address = names[request.param]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address if address.startswith("/") else "\0" + address[1:])
        listening.settimeout(5)
        yield listening, address


def test_what_is_said_arrives(systemd: tuple[socket.socket, str]) -> None:
    listening, address = systemd
    notify = Notify({"NOTIFY_SOCKET": address})
    notify.ready()
    notify.status("two\nlines\nREADY=0 \udcff")
    notify.alive()
    notify.stopping()
    said = [listening.recv(1000).decode() for _ in range(4)]
    assert said == ["READY=1", "STATUS=two lines READY=0 ?", "WATCHDOG=1", "STOPPING=1"]


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    Notify({}).ready()
    Notify({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()


@pytest.mark.parametrize(("given", "seconds"), [("30000000", 15.0), ("", None), ("0", None), ("soon", None)])
def test_the_watchdog_is_fed_twice_as_often_as_it_bites(given: str, seconds: float | None) -> None:
    assert Notify({"WATCHDOG_USEC": given}).watchdog_s == seconds
