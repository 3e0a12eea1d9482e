"""The floor of the demo: what its stand-in for the hostmaster says, and when Slurm may be asked."""

import socket
import threading
from pathlib import Path

from deploy.demo.floor import answer


def test_slurm_is_left_alone_until_the_guest_has_its_configuration(tmp_path: Path) -> None:
    asked = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as guest:
        listener.bind(str(tmp_path / "channel"))
        listener.listen(1)
        thread = threading.Thread(target=answer, args=(listener, b"configuration\n", asked))
        thread.start()
        guest.connect(str(tmp_path / "channel"))
        guest.sendall(b"progress booting\n")
        assert not asked.is_set()
        guest.sendall(b"hello 1 boot vm1\n")
        assert guest.recv(100) == b"configuration\n"
        assert asked.wait(60)
        guest.shutdown(socket.SHUT_WR)
        thread.join(60)
        assert not thread.is_alive()
