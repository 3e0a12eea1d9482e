"""Who a numeric user id is, by the host's name service: the guest gets the owner's account and no other."""

import grp
import os
import pwd
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.logger import Logger

from hostmaster.rules.guestconf import Account

FRESH_S = 60.0
NOBODY_S = 1.0
"""So long an answer counts for all who ask; that there is no such user, less."""
AT_ONCE = 16
"""Questions that may be under way: a directory server that hangs holds a thread for each."""

_NAME = re.compile(r"[][A-Za-z0-9._,@=+~%][][A-Za-z0-9._,@=+~%-]*\Z")


class NoSuchAccount(Exception):
    """The host knows no user of that id, so no VM can be made for him."""


class AccountUnknown(Exception):
    """The name service has not answered yet: it was asked, and nothing is known of the user."""


@dataclass
class NameService:
    """`account_of` for a reactor's thread, which never waits: a directory server that hangs must stop no VM's fence.

    An answer that was there once counts until there is another one.
    """

    reactor: Any
    look: Callable[[int], Account] | None = None
    """Asks and waits; on a thread of its own. None: `account_of`."""
    answered: Callable[[int], None] = lambda uid: None
    """That user may be asked for now."""
    start: Callable[[Callable[[], None]], None] = lambda work: threading.Thread(target=work, daemon=True).start()
    _known: dict[int, tuple[Account | NoSuchAccount, float]] = field(default_factory=dict)
    _asking: set[int] = field(default_factory=set)
    _log: Logger = field(default_factory=lambda: Logger("hostmaster.edges.accounts"))

    def account(self, uid: int) -> Account:
        """As `account_of`, from memory. AccountUnknown if there is nothing yet: `answered` is called when there is."""
        known, at = self._known.get(uid, (None, 0.0))
        age_s = self.reactor.seconds() - at
        if known is None or age_s >= FRESH_S or (isinstance(known, NoSuchAccount) and age_s >= NOBODY_S):
            self._ask(uid)
        if isinstance(known, NoSuchAccount) and age_s < NOBODY_S:
            raise known
        if not isinstance(known, Account):
            raise AccountUnknown(f"the host's name service has not yet said who user {uid} is")
        return known

    def _ask(self, uid: int) -> None:
        if uid not in self._asking and len(self._asking) < AT_ONCE:
            self._asking.add(uid)
            self.start(lambda: self._look(uid))

    def _look(self, uid: int) -> None:
        """On the thread."""
        answer: Account | Exception
        try:
            answer = (self.look or account_of)(uid)
        except Exception as error:
            answer = error
        self.reactor.callFromThread(self._hear, uid, answer)

    def _hear(self, uid: int, answer: Account | Exception) -> None:
        self._asking.discard(uid)
        before, _ = self._known.get(uid, (None, 0.0))
        is_lost = isinstance(answer, NoSuchAccount) and isinstance(before, Account)  # its directory is: so says libc
        if isinstance(answer, Account | NoSuchAccount) and not is_lost:
            self._known[uid] = (answer, self.reactor.seconds())
            self.answered(uid)
        else:
            if isinstance(before, Account):
                self._known[uid] = (before, self.reactor.seconds())  # not to be asked by each request
            self._log.error("the name service cannot say who user {uid} is: {error}", uid=uid, error=answer)


def account_of(uid: int) -> Account:
    """The account of a uid and the groups it is a member of.

    Raises NoSuchAccount with a text for the user if the host does not know the uid, or if it is root's:
    a job of root would be root in the guest.
    """
    if uid == 0:
        raise NoSuchAccount("jobs of root are not run in VMs: submit as an ordinary user")
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise NoSuchAccount(f"this host knows no user with id {uid}: check its name service") from None
    if not _NAME.match(user.pw_name):
        text = f"user {uid} is {user.pw_name!r} on this host, and no VM can have an account of that name"
        raise NoSuchAccount(f"{text}: its name service has to give plain names")
    groups = [_group_line(gid, user.pw_name) for gid in os.getgrouplist(user.pw_name, user.pw_gid)]
    passwd = ":".join(
        (user.pw_name, "x", str(uid), str(user.pw_gid), _plain(user.pw_gecos), user.pw_dir, user.pw_shell)
    )
    return Account(passwd, tuple(line for line in groups if line))


def _group_line(gid: int, member: str) -> str:
    try:
        return f"{grp.getgrgid(gid).gr_name}:x:{gid}:{member}"
    except KeyError:
        return ""


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and c != ":")
