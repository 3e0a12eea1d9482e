"""Telling systemd how the daemon is: ready, stopping, alive, and one line of status (sd_notify(3))."""

import os
import socket
from collections.abc import Mapping


class Notify:
    """Sends to the socket systemd named in the environment; without one, every call does nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(watchdog) / 2e6 if watchdog.isdigit() and int(watchdog) else None
        """How often `alive` has to be called: half of what systemd allows; None if it does not watch."""

    def ready(self) -> None:
        """Start-up is complete."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Orderly stop has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The event loop still turns."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.splitlines()))

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError:
            pass  # systemd's trouble is not ours: a missed WATCHDOG it will notice itself
