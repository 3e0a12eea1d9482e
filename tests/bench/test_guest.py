"""The rivals' guest: a wnod VM's domain in everything that costs or saves time."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from hostmaster.world import Accelerator
from tests.bench.guest import SHAPE, Guest, domain

GUEST = Guest("cloud1", "52:54:00:78:01:01", "10.77.1.21/16", Path("/image"), Path("/work"), Accelerator.TCG)


def test_the_rivals_guest_has_a_wnod_vms_devices_but_neither_its_channel_nor_its_facts() -> None:
    root = ET.fromstring(domain(GUEST, "bench.role=ssh"))
    assert root.findtext("devices/channel") is None
    assert root.find("metadata") is None
    assert [disk.findtext("target") is not None for disk in root.iterfind("devices/disk")] == [True, True]
    assert [source.get("file") for source in root.iterfind("devices/disk/source")] == [
        "/image/root.squashfs",
        "/work/cloud1.raw",
    ]
    assert root.findtext("memory") == str(SHAPE.memory_mib)


def test_the_first_program_is_told_its_address_and_its_part() -> None:
    words = (ET.fromstring(domain(GUEST, "bench.role=ssh")).findtext("os/cmdline") or "").split()
    assert {"wnod.name=cloud1", "bench.address=10.77.1.21/16", "bench.role=ssh"} <= set(words)


def test_every_guest_is_another_domain() -> None:
    uuids = {ET.fromstring(domain(GUEST)).findtext("uuid") for _ in range(2)}
    assert len(uuids) == 2
