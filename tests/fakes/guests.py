"""Guest channels in memory: the test speaks as the guest and reads what was sent to it."""

from dataclasses import dataclass, field

from hostmaster.world import GuestListener
from protocol.guest import FromGuest, parse


@dataclass
class FakeGuests:
    """hostmaster.world.Guests. Set `listener` once the one who listens exists."""

    listener: GuestListener | None = None
    channels: dict[str, bool] = field(default_factory=dict)
    """Open channels; True while the guest is connected."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """All that each guest was sent and has not `take`n."""

    def open(self, name: str) -> str:
        self.channels.setdefault(name, False)
        return f"/channels/{name}.sock"

    def close(self, name: str) -> None:
        self.channels.pop(name, None)
        self.sent.pop(name, None)

    def send(self, name: str, lines: bytes) -> bool:
        if not self.channels.get(name, False):
            return False
        self.sent[name] = self.sent.get(name, b"") + lines
        return True

    # --- what tests do -----------------------------------------------------------------------------

    def says(self, name: str, line: bytes) -> None:
        """The guest sends a line (without newline), connecting first if need be; KeyError if none listens."""
        self.hears(name, parse(line))

    def hears(self, name: str, said: FromGuest) -> None:
        """As `says`, with the line already read."""
        assert self.listener is not None
        if name not in self.channels:
            raise KeyError(f"no open channel {name}: QEMU would find no socket")
        self.channels[name] = True
        self.listener(name, said)

    def disconnects(self, name: str) -> None:
        """The guest's end is closed: QEMU ended, or libvirt destroyed it."""
        assert self.listener is not None
        if self.channels.get(name):
            self.channels[name] = False
            self.listener(name, None)

    def take(self, name: str) -> list[str]:
        """The lines that the guest was sent since the last `take`."""
        return self.sent.pop(name, b"").decode("ascii").splitlines()
