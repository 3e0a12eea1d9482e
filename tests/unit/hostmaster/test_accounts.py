"""The name service: asked on a thread, so that a directory server that hangs stops nothing; not known is not nobody."""

import pwd
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from hostmaster.edges import accounts
from hostmaster.edges.accounts import AT_ONCE, FRESH_S, AccountUnknown, NameService, NoSuchAccount, account_of
from hostmaster.owners import WAIT_S
from hostmaster.rules.guestconf import Account
from protocol.ids import Run
from protocol.messages import Code, Denied, Granted, Release
from tests.conftest import LoggedFailures
from tests.unit.hostmaster.host_case import HostCase, host_case
from tests.unit.hostmaster.records import BOOT, a_request, a_vm, lease_id

ALICE = Account("alice:x:1000:1000::/home/alice:/bin/sh")


class Directory:
    """A directory server that answers when the test says so, and its clients' threads."""

    def __init__(self) -> None:
        self.clock: Any = Clock()
        self.clock.callFromThread = lambda call, *words: call(*words)
        self.people: dict[int, Account] = {1000: ALICE}
        self.trouble: Exception | None = None
        self.asked: list[int] = []
        self._threads: list[Callable[[], None]] = []
        self.service = NameService(self.clock, self._look, start=self._threads.append)

    def _look(self, uid: int) -> Account:
        self.asked.append(uid)
        if self.trouble is not None:
            raise self.trouble
        if uid not in self.people:
            raise NoSuchAccount(f"no user {uid}")
        return self.people[uid]

    def answer(self) -> None:
        """Let all threads that wait go on."""
        threads, self._threads[:] = list(self._threads), []
        for thread in threads:
            thread()

    @property
    def waiting(self) -> int:
        return len(self._threads)


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
def case(tmp_path: Path, directory: Directory) -> Iterator[HostCase]:
    with host_case(tmp_path / "journal") as case:
        case.baits.account = directory.service.account
        directory.service.answered = case.baits.owners.known
        yield case


def test_nothing_is_known_until_the_name_service_has_answered_and_it_is_asked_once(directory: Directory) -> None:
    for _ in range(3):
        with pytest.raises(AccountUnknown, match="user 1000"):
            directory.service.account(1000)
    directory.answer()
    assert directory.service.account(1000) == ALICE
    assert directory.asked == [1000]


def test_an_answer_that_was_there_counts_until_there_is_another(directory: Directory) -> None:
    with pytest.raises(AccountUnknown):
        directory.service.account(1000)
    directory.answer()
    directory.clock.advance(FRESH_S)
    directory.people[1000] = moved = Account("alice:x:1000:1000::/new:/bin/sh")
    assert directory.service.account(1000) == ALICE, "it is asked anew, and meanwhile the old one counts"
    directory.trouble = OSError("down")
    directory.answer()
    assert directory.service.account(1000) == ALICE, "trouble is no answer"
    assert directory.waiting == 0, "it is not asked by each request"
    directory.trouble = None
    directory.clock.advance(FRESH_S)
    assert directory.service.account(1000) == ALICE
    directory.answer()
    assert directory.service.account(1000) == moved


def test_a_user_who_was_known_does_not_become_nobody(directory: Directory) -> None:
    """A name service that has lost its directory answers as if there were no such user; his jobs would be refused."""
    with pytest.raises(AccountUnknown):
        directory.service.account(1000)
    directory.answer()
    del directory.people[1000]
    for _ in range(3):
        directory.clock.advance(FRESH_S)
        assert directory.service.account(1000) == ALICE
        directory.answer()
    directory.people[1000] = moved = Account("alice:x:1000:1000::/new:/bin/sh")
    directory.clock.advance(FRESH_S)
    assert directory.service.account(1000) == ALICE
    directory.answer()
    assert directory.service.account(1000) == moved


def test_nobody_is_believed_for_a_moment_only(directory: Directory) -> None:
    with pytest.raises(AccountUnknown):
        directory.service.account(7)
    directory.answer()
    with pytest.raises(NoSuchAccount):
        directory.service.account(7)
    directory.people[7] = ALICE
    directory.clock.advance(2)
    with pytest.raises(AccountUnknown):
        directory.service.account(7)
    directory.answer()
    assert directory.service.account(7) == ALICE


def test_a_server_that_hangs_holds_a_few_threads_and_no_more(directory: Directory) -> None:
    for uid in range(1000, 1100):
        with pytest.raises(AccountUnknown):
            directory.service.account(uid)
    assert directory.waiting == AT_ONCE


def test_a_request_waits_for_the_name_service_and_others_do_not(case: HostCase, directory: Directory) -> None:
    case.baits.received("bait1", a_request(owner=1000))
    case.baits.received("bait1", a_request(owner=1000))
    assert case.take_all() == [], "the reactor's thread has gone on without an answer"
    assert not case.keeper.vms
    directory.answer()
    assert [message.vm for message in case.take(Granted)] == ["vm1"]
    case.baits.received("bait1", a_request(owner=1000, lease=lease_id(2), run=Run(cluster="c", job="13", restart=0)))
    assert len(case.take(Granted)) == 1, "now he is known"
    case.run()


def test_a_request_for_nobody_is_denied_when_that_is_known(case: HostCase, directory: Directory) -> None:
    case.baits.received("bait1", a_request(owner=7))
    directory.answer()
    (denied,) = case.take(Denied)
    assert (denied.code, denied.permanent, denied.text) == (Code.NOT_PERMITTED, True, "no user 7")


@pytest.mark.parametrize("trouble", [None, OSError("down")])
def test_a_name_service_that_does_not_answer_denies_for_now_and_never_for_good(
    case: HostCase, directory: Directory, trouble: Exception | None, logged_failures: LoggedFailures
) -> None:
    case.baits.received("bait1", a_request(owner=1000))
    directory.trouble = trouble
    if trouble is not None:
        directory.answer()
    case.run(WAIT_S + 1)
    (denied,) = case.take(Denied)
    assert (denied.code, denied.permanent) == (Code.NOT_READY, False)
    assert "name service" in denied.text
    directory.trouble = None
    case.baits.received("bait1", a_request(owner=1000))
    directory.answer()
    assert len(case.take(Granted)) == 1
    case.run()


def test_what_was_released_meanwhile_gets_no_vm(case: HostCase, directory: Directory) -> None:
    ask = a_request(owner=1000)
    case.baits.received("bait1", ask)
    case.baits.received("bait1", Release(id=ask.id, lease=ask.lease, generation=None))
    directory.answer()
    assert case.take(Granted) == []
    assert not case.keeper.vms


def test_a_guest_whose_owner_is_not_known_yet_is_told_all_at_a_later_hello(
    case: HostCase, directory: Directory
) -> None:
    case.service.configure = lambda vm: directory.service.account(vm.owner).passwd.encode() + b"\n"
    case.keeper.put(a_vm())
    case.run()
    hello = f"hello 1 {BOOT} vm1".encode()
    case.guests.says("vm1-g1", hello)
    assert case.guests.take("vm1-g1") == []
    assert not case.keeper.failed, "that nobody knows yet is no failure"
    directory.answer()
    case.guests.says("vm1-g1", hello)
    assert case.guests.take("vm1-g1") == [ALICE.passwd]


def test_it_is_another_thread_that_waits() -> None:
    threads: list[int] = []
    done = threading.Event()
    clock: Any = Clock()
    clock.callFromThread = lambda call, *words: (call(*words), done.set())

    def look(uid: int) -> Account:
        threads.append(threading.get_ident())
        return ALICE

    service = NameService(clock, look)
    with pytest.raises(AccountUnknown):
        service.account(1000)
    assert done.wait(10)
    assert threads != [threading.get_ident()]
    assert service.account(1000) == ALICE


@pytest.mark.parametrize("name", ["DOM\\alice", "al ice", "-alice", "a/b", "álice", "a\nb"])
def test_a_name_that_no_guest_takes_is_told_before_there_is_a_vm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.struct_passwd((name, "x", 1000, 1000, "", "/home/a", "/bin/sh"))
    monkeypatch.setattr(accounts.pwd, "getpwuid", lambda uid: user)
    monkeypatch.setattr(accounts.os, "getgrouplist", lambda name, gid: [])
    with pytest.raises(NoSuchAccount, match="plain names"):
        account_of(1000)


def test_a_name_of_a_directory_with_domains_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.struct_passwd(("alice@ad.example", "x", 1000, 1000, "", "/home/a", "/bin/sh"))
    monkeypatch.setattr(accounts.pwd, "getpwuid", lambda uid: user)
    monkeypatch.setattr(accounts.os, "getgrouplist", lambda name, gid: [])
    assert account_of(1000).passwd == "alice@ad.example:x:1000:1000::/home/a:/bin/sh"
