"""Who a numeric user id is, by the host's name service: the guest gets the owner's account and no other."""

import grp
import os
import pwd

from hostmaster.rules.guestconf import Account


class NoSuchAccount(Exception):
    """The host knows no user of that id, so no VM can be made for him."""


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
