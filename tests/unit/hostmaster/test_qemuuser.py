"""Guests of VMs that run on come back before libvirt does: who QEMU runs as is known by then."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from hostmaster.edges.guests import GuestChannels
from hostmaster.edges.qemuuser import Ids, QemuUser
from protocol.guest import FromGuest, GuestReady
from wnod.journal import Journal, JournalFull

OURS = (0, 0)
QEMU = (64055, 103)
READY = b"ready 12345678-1234-1234-1234-123456789abc\n"


class Lives:
    """Hostmasters one after the other on one journal file. `libvirt` is what it says now."""

    def __init__(self, path: Path) -> None:
        self._path = str(path / "journal.sqlite")
        self.journal = Journal(self._path, "hostmaster", "h1")
        self.libvirt: Ids | None = None
        self.user = self._user()

    def _user(self) -> QemuUser:
        return QemuUser(self.journal, lambda: self.libvirt, OURS)

    def again(self) -> None:
        """The hostmaster dies and starts; libvirt has not answered it yet."""
        self.journal.close()
        self.libvirt = None
        self.journal = Journal(self._path, "hostmaster", "h1")
        self.user = self._user()

    def says(self, ids: Ids) -> None:
        """libvirt answers."""
        self.libvirt = ids
        self.user.learn()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    lives = Lives(tmp_path)
    yield lives
    lives.journal.close()


class Transport(StringTransport):
    """A connection that its owner may abort."""

    def abortConnection(self) -> None:
        self.loseConnection()


def heard_from(user: QemuUser, uid: int) -> list[Any]:
    """What a hostmaster hears of a guest whose QEMU has this uid."""
    heard: list[FromGuest | None] = []
    listening: list[Factory] = []

    def listen(path: str, factory: Factory) -> Any:
        listening.append(factory)

    channels = GuestChannels(
        Clock(), "/nowhere", lambda name, said: heard.append(said), lambda: frozenset({user.ids()[0]}),
        listen, lambda transport: uid,
    )  # fmt: skip
    channels.open("vm1-g1")
    line = listening[0].buildProtocol(None)  # type: ignore[arg-type]
    assert line is not None
    line.makeConnection(Transport())
    line.dataReceived(READY)
    return heard


def test_a_guest_is_heard_after_a_restart_before_libvirt_has_answered(lives: Lives) -> None:
    lives.says(QEMU)
    lives.again()
    assert [type(said) for said in heard_from(lives.user, QEMU[0])] == [GuestReady]


def test_who_is_not_qemu_is_refused_also_before_libvirt_has_answered(lives: Lives) -> None:
    lives.says(QEMU)
    lives.again()
    assert heard_from(lives.user, OURS[0]) == []
    assert heard_from(lives.user, 1000) == []


def test_without_a_word_of_libvirt_ever_it_is_ourselves(lives: Lives) -> None:
    lives.user.learn()
    lives.again()
    assert lives.user.ids() == OURS


def test_libvirts_newest_word_counts_at_once_and_after_a_restart(lives: Lives) -> None:
    lives.says(QEMU)
    lives.again()
    lives.says((107, 107))
    assert lives.user.ids() == (107, 107)
    lives.again()
    assert lives.user.ids() == (107, 107)


def test_losing_libvirt_forgets_nothing(lives: Lives) -> None:
    lives.says(QEMU)
    lives.libvirt = None
    lives.user.learn()
    assert lives.user.ids() == QEMU


def test_a_full_disk_keeps_nobody_out_and_is_tried_again(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(kind: str, key: str, record: object) -> None:
        raise JournalFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(lives.journal, "put", full)
        lives.says(QEMU)
    assert lives.user.ids() == QEMU
    lives.user.learn()
    lives.again()
    assert lives.user.ids() == QEMU
