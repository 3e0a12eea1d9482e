"""Bytes to frames and back: a big-endian 32-bit length, then that many bytes of JSON.

No input or output here. A reader holds at most one frame beyond what it was fed, whatever a peer sends.
"""

from collections.abc import Iterator

from protocol.errors import OurMistake, TheirMistake

HEADER = 4
MAX_LENGTH = 1_048_576
"""Largest body in bytes: an inventory of about 2500 VMs."""

FIRST_LENGTH = 4096
"""Largest first body in bytes: Hello, Welcome or Error. Nobody has been let in yet, so it is small."""


def frame(body: bytes) -> bytes:
    """Put the length before a body. Raises OurMistake if it is empty or over MAX_LENGTH."""
    if not 1 <= len(body) <= MAX_LENGTH:
        raise OurMistake(f"frame of {len(body)} bytes: allowed are 1 to {MAX_LENGTH}; send less in one message")
    return len(body).to_bytes(HEADER, "big") + body


class Frames:
    """Cuts a byte stream into frame bodies; how the stream was chunked makes no difference."""

    def __init__(self, first: int = FIRST_LENGTH, limit: int = MAX_LENGTH) -> None:
        self._allowed = first
        self._limit = limit
        self._buffer = bytearray()
        self._mistake: TheirMistake | None = None

    def __len__(self) -> int:
        """Bytes held back because their frame is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take in `data`, then yield each body that is complete.

        Raises TheirMistake, after the good frames before it, as soon as a length of 0 or over the limit is
        seen: the stream cannot be read any further, and each later call raises again.
        """
        if self._mistake is None:
            self._buffer += data
        return self._bodies()

    def _bodies(self) -> Iterator[bytes]:
        while (body := self._take()) is not None:
            yield body

    def _take(self) -> bytes | None:
        if self._mistake is not None:
            raise self._mistake
        if len(self._buffer) < HEADER:
            return None
        end = HEADER + self._length()
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER:end])
        del self._buffer[:end]
        self._allowed = self._limit
        return body

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:HEADER], "big")
        if 1 <= length <= self._allowed:
            return length
        self._buffer.clear()
        self._mistake = TheirMistake(f"frame length {length}: allowed here are 1 to {self._allowed} bytes")
        raise self._mistake
