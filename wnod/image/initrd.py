"""The initrd: an uncompressed cpio archive (format newc), the same bytes for the same content.

Uncompressed because an emulated guest reads memory faster than it inflates it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

_DIRECTORY = 0o040755
_FILE = 0o100000
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """A file of the archive: path without leading slash, mode bits, content. A directory has content None."""

    path: str
    mode: int
    content: bytes | None


def write_cpio(entries: Iterable[Entry]) -> bytes:
    """The archive, with all parent directories, sorted by path, times and owners all zero."""
    by_path = {entry.path: entry for entry in entries}
    for path in list(by_path):
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            by_path.setdefault(parent, Entry(parent, 0o755, None))
    chunks = [_record(number, by_path[path]) for number, path in enumerate(sorted(by_path), start=1)]
    chunks.append(_header(0, 0, 1, _TRAILER, 0))
    archive = b"".join(chunks)
    return archive + bytes(-len(archive) % 512)


def _record(number: int, entry: Entry) -> bytes:
    content = entry.content or b""
    mode = _DIRECTORY if entry.content is None else _FILE | entry.mode
    links = 2 if entry.content is None else 1
    return _header(number, mode, links, entry.path, len(content)) + content + bytes(-len(content) % 4)


def _header(number: int, mode: int, links: int, path: str, size: int) -> bytes:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return header + bytes(-len(header) % 4)
