"""The two ends that daemons use: a hostmaster listens with HostEnd, a bait connects with BaitEnd.

Both deliver each message once and in order to a Listener, for as long as the session lives; when a session is
lost, `connected(..., resumed=False)` says so and the daemon speaks of its state anew. A peer that breaks the
protocol loses its own connection and nobody else's. This module only gathers the names to use.
"""

from protocol.baitend import BaitEnd
from protocol.connection import Times
from protocol.hostend import HostEnd
from protocol.peers import Listener, parse_address
from protocol.tls import Identity, Role, Tls, TlsMistake

__all__ = ["BaitEnd", "HostEnd", "Identity", "Listener", "Role", "Times", "Tls", "TlsMistake", "parse_address"]
