"""Who QEMU runs as, also before libvirt has said so: a guest that comes back after a restart is not turned away.

libvirt's first answer to a new daemon takes seconds, in which the guests of VMs that run on already connect again.
"""

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from wnod.journal import Journal, JournalError

KIND = "qemu-user"

Ids = tuple[int, int]


class Told(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What libvirt said last."""

    uid: int
    gid: int


class QemuUser:
    """(uid, gid) of the QEMU processes. `ids` may be called on any thread, `learn` on the journal's only."""

    def __init__(self, journal: Journal, ask: Callable[[], Ids | None], ours: Ids) -> None:
        """`ask`: libvirt's word, None while there is none in this life. `ours`: what is taken if there never was."""
        self._journal = journal
        self._ask = ask
        told = journal.load(KIND, Told).get(KIND)
        self._told = None if told is None else (told.uid, told.gid)
        self._ids = self._told or ours
        self._log = Logger("hostmaster.edges.qemuuser")

    def ids(self) -> Ids:
        """As libvirt says, else as it said in an earlier life, else our own."""
        return self._ids

    def learn(self) -> None:
        """libvirt may have come back: take its word and remember it."""
        told = self._ask()
        if told is None or told == self._told:
            return
        self._ids = told
        try:
            self._journal.put(KIND, KIND, Told(uid=told[0], gid=told[1]))
        except JournalError as error:  # it is used all the same, and tried again when libvirt comes back once more
            self._log.warn("cannot remember who QEMU runs as: {error}", error=error)
        else:
            self._told = told
