"""Configuration files: YAML under /etc/wnod, read into frozen types; every mistake of a file in one answer.

Loading reads the named file and nothing else: no path in it is opened, no name resolved, no daemon asked.
"""

import msgspec

from wnod.config.bait import BaitConfig, BaitNode, Gate, Hook, PeerHost, Retry, Rule
from wnod.config.bait import Lrms as BaitLrms
from wnod.config.catalogue import Catalogue, Environment
from wnod.config.hostmaster import HostmasterConfig, HypervisorConfig, Mount, Network, Slot, Times
from wnod.config.hostmaster import Lrms as HostmasterLrms
from wnod.config.mistakes import ConfigMistakes, Mistake
from wnod.config.reading import read_file
from wnod.config.words import TlsFiles, split_address

__all__ = [
    "BaitConfig",
    "BaitLrms",
    "BaitNode",
    "Catalogue",
    "ConfigMistakes",
    "Environment",
    "Gate",
    "Hook",
    "HostmasterConfig",
    "HostmasterLrms",
    "HypervisorConfig",
    "Mistake",
    "Mount",
    "Network",
    "PeerHost",
    "Retry",
    "Rule",
    "Slot",
    "Times",
    "TlsFiles",
    "load_bait",
    "load_bait_node",
    "load_catalogue",
    "load_hostmaster",
    "split_address",
]


def load_hostmaster(path: str) -> HostmasterConfig:
    """The hostmaster's configuration, or ConfigMistakes with everything that is wrong in that file."""
    return read_file(path, HostmasterConfig)


def load_bait(path: str) -> BaitConfig:
    """The bait's configuration with `hook.socket` filled in, or ConfigMistakes."""
    config = read_file(path, BaitConfig)
    if config.hook.socket:
        return config
    hook = msgspec.structs.replace(config.hook, socket=f"{config.runtime}/hook.sock")
    return msgspec.structs.replace(config, hook=hook)


def load_bait_node(path: str) -> BaitNode:
    """A few fields of the bait's configuration, though the others may be wrong; ConfigMistakes if one of these is."""
    return read_file(path, BaitNode, whole=False)


def load_catalogue(path: str) -> Catalogue:
    """The site's environments, or ConfigMistakes."""
    return read_file(path, Catalogue)
