"""What the calls to libvirt make of answers that come late. The calls themselves: tests/contract/hypervisor."""

from pathlib import Path

import libvirt
import pytest

from hostmaster.edges import libvirt_calls as calls
from hostmaster.world import DomainRefused

UUID = "00000000-0000-4000-8000-000000000001"


class Gone(libvirt.libvirtError):
    """libvirt's word for a domain that is not there."""

    def __init__(self) -> None:
        Exception.__init__(self, "no domain")
        self.err = None

    def get_error_code(self) -> int:
        return int(libvirt.VIR_ERR_NO_DOMAIN)


class SavedMeanwhile:
    """A connection on which an earlier save, given up by its caller, comes to its end in the middle of this one."""

    def __init__(self, path: Path, whole: bool = True) -> None:
        self.path, self.whole = path, whole

    def lookupByUUIDString(self, uuid: str) -> None:
        raise Gone

    def saveImageGetXMLDesc(self, path: str, flags: int) -> str:
        if not Path(path).exists() or not self.whole:
            raise Gone
        Path(path).replace(self.path)
        return f"<domain><name>vm1</name><uuid>{UUID}</uuid></domain>"


def test_a_file_that_an_earlier_save_names_first_is_saved_all_the_same(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    (tmp_path / "memory.partial").write_bytes(b"memory")
    calls.save(SavedMeanwhile(memory), UUID, str(memory))
    assert memory.read_bytes() == b"memory"


def test_half_a_file_of_a_domain_that_is_gone_is_not_saved(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    (tmp_path / "memory.partial").write_bytes(b"half")
    with pytest.raises(DomainRefused, match="nothing whole was saved"):
        calls.save(SavedMeanwhile(memory, whole=False), UUID, str(memory))
    assert not memory.exists()
