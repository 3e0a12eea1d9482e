"""Who is at the other end of a Unix socket, and what is removed to make room for one."""

import os
import socket
from pathlib import Path

import pytest

from wnod.unixsocket import peer_uid, remove_socket


def test_only_sockets_are_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        remove_socket(str(tmp_path / "file"))
    remove_socket(str(tmp_path / "nothing"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
    remove_socket(str(tmp_path / "s"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- check-config ---------------------------------------------------------------------------------------------


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert peer_uid(near) == os.getuid()


def test_what_is_no_unix_socket_shows_nobody() -> None:
    with socket.socket(socket.AF_INET) as other, pytest.raises(PermissionError, match="Unix socket"):
        peer_uid(other)
