"""Unix sockets: who is at the other end, as the kernel says, and what may be removed from where one is to be."""

import os
import socket
import stat
import struct

_CREDENTIALS = struct.Struct("3i")
"""Linux's struct ucred: pid, uid, gid."""


def peer_uid(connected: socket.socket) -> int:
    """The numeric uid of the process that made the connection. PermissionError for another kind of socket."""
    if connected.family != socket.AF_UNIX:
        raise PermissionError("only a Unix socket shows who is at its other end")
    uid: int = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    return uid


def remove_socket(path: str) -> None:
    """Remove a socket file; none is a success, anything else of that name is left alone: FileExistsError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path}: in the way, and not a socket: remove it, or configure another path")
    os.unlink(path)
