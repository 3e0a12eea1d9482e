"""Parts that both daemons and the command line share.

config reads the YAML files, journal keeps what must survive a crash, service runs a daemon, logs and
metrics tell what it does, status answers the command line, doctor looks for what is wrong on this machine.
Nothing here knows what a hostmaster or a bait decides.
"""

from importlib.metadata import PackageNotFoundError, version


def wnod_version() -> str:
    """This distribution's version; "unknown" when it runs from files that were never installed."""
    try:
        return version("wnod")
    except PackageNotFoundError:
        return "unknown"
