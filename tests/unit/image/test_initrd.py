"""The initrd's archive: readable, and the same bytes for the same content."""

from wnod.image.initrd import Entry, write_cpio

ENTRIES = [
    Entry("init", 0o755, b"#!/bin/busybox sh\n"),
    Entry("modules/a/order", 0o644, b"x.ko\n"),
    Entry("proc", 0o755, None),
    Entry("empty", 0o644, b""),
]


def read_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Path -> (mode, content), by the description of the format newc."""
    found: dict[str, tuple[int, bytes]] = {}
    place = 0
    while True:
        assert data[place : place + 6] == b"070701"
        fields = [int(data[place + 6 + 8 * i : place + 14 + 8 * i], 16) for i in range(13)]
        name = data[place + 110 : place + 110 + fields[11] - 1].decode()
        assert data[place + 110 + fields[11] - 1] == 0
        if name == "TRAILER!!!":
            return found
        start = (place + 110 + fields[11] + 3) & ~3
        found[name] = (fields[1], data[start : start + fields[6]])
        assert fields[2:4] == [0, 0], "owned by root"
        assert fields[5] == 0, "no time"
        place = (start + fields[6] + 3) & ~3


def test_everything_is_in_it_with_modes_and_parents() -> None:
    assert read_cpio(write_cpio(ENTRIES)) == {
        "init": (0o100755, b"#!/bin/busybox sh\n"),
        "modules": (0o040755, b""),
        "modules/a": (0o040755, b""),
        "modules/a/order": (0o100644, b"x.ko\n"),
        "proc": (0o040755, b""),
        "empty": (0o100644, b""),
    }


def test_a_parent_comes_before_what_it_holds() -> None:
    paths = list(read_cpio(write_cpio(ENTRIES)))
    assert paths.index("modules") < paths.index("modules/a") < paths.index("modules/a/order")


def test_the_order_of_the_entries_does_not_matter() -> None:
    assert write_cpio(ENTRIES) == write_cpio(reversed(ENTRIES))
