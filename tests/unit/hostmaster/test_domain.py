"""The domain XML: what is in it, what never is, and that what was written down can be read back."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import libvirt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostmaster.edges.domain import (
    NAMESPACE,
    ProbeSpec,
    domain_xml,
    is_probe,
    metadata_xml,
    probe_xml,
    read_domain,
    restored_xml,
)
from hostmaster.world import Accelerator, DomainSpec, DomainState, Ours
from protocol.ids import EnvironmentName, Generation, LeaseId, Shape, VmName

OURS = Ours(
    host="h1",
    slot=VmName("vm1"),
    generation=Generation(7),
    lease=LeaseId("0123456789abcdef" * 2),
    bait="bait-h1",
    owner=1000,
    environment=EnvironmentName("debian12"),
    image="f" * 64,
    shape=Shape(cpus=2, memory_mib=768, disk_mib=512),
    run='{"cluster":"c","job":"12","restart":0}',
)
SPEC = DomainSpec(
    ours=OURS,
    uuid="5a9f4e2c-6a34-4a60-9c5e-0d4a3f9b7c11",
    mac="52:54:00:00:00:07",
    bridge="br0",
    accelerator=Accelerator.TCG,
    kernel="/i/kernel",
    initrd="/i/initrd",
    root="/i/root.squashfs",
    overlay="/o/vm1-g7",
    console="/c/vm1-g7.console",
    channel="/s/vm1-g7.sock",
    network_filter="clean-traffic",
    address="10.0.0.7",
)
PROBE = ProbeSpec(SPEC.uuid, Accelerator.KVM, "/i/kernel", "/i/initrd")

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
printable = st.text(st.characters(categories=("L", "M", "N", "P", "S", "Zs")), max_size=60).filter(str.isprintable)
all_ours = st.builds(
    Ours,
    host=names,
    slot=names,
    generation=st.integers(1, 2**53),
    lease=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    bait=names,
    owner=st.integers(0, 2**32 - 2),
    environment=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", fullmatch=True),
    image=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    shape=st.builds(
        Shape, cpus=st.integers(1, 4096), memory_mib=st.integers(64, 2**26), disk_mib=st.integers(16, 2**31)
    ),
    run=printable,
)


def spare(ours: Ours) -> Ours:
    return replace(ours, lease=LeaseId(""), bait="", owner=0, run="")


def parsed(spec: DomainSpec = SPEC) -> ET.Element:
    return ET.fromstring(domain_xml(spec))


@settings(max_examples=30)
@given(all_ours)
def test_what_is_written_down_is_read_back(ours: Ours) -> None:
    for accelerator in Accelerator:
        xml = domain_xml(replace(SPEC, ours=ours, accelerator=accelerator))
        domain = read_domain(xml, DomainState.PAUSED, "because")
        assert (domain.name, domain.uuid, domain.state) == (ours.slot, SPEC.uuid, DomainState.PAUSED)
        assert domain.ours == ours
        assert domain.reason == "because"


@given(all_ours)
def test_a_label_for_a_living_domain_reads_as_if_it_had_been_made_with_it(ours: Ours) -> None:
    for label in (ours, spare(ours)):
        living = ET.fromstring(domain_xml(SPEC))
        metadata = living.find("metadata")
        assert metadata is not None
        metadata.remove(metadata[0])
        alone = ET.fromstring(metadata_xml(label))
        alone.tag = f"{{{NAMESPACE}}}{alone.tag}"  # libvirt puts its namespace in
        metadata.append(alone)
        assert read_domain(ET.tostring(living, encoding="unicode"), DomainState.RUNNING).ours == label


@given(all_ours)
def test_a_spare_is_ours_and_has_neither_lease_nor_bait(ours: Ours) -> None:
    found = read_domain(domain_xml(replace(SPEC, ours=spare(ours))), DomainState.RUNNING).ours
    assert found == spare(ours)
    assert found is not None
    assert found.is_spare
    assert not ours.is_spare


@pytest.mark.parametrize("lost", ["lease", "bait"])
def test_half_a_spare_is_not_understood_and_so_left_alone(lost: str) -> None:
    root = parsed()
    del root.find(f"metadata/{{{NAMESPACE}}}vm").attrib[lost]  # type: ignore[union-attr]
    domain = read_domain(ET.tostring(root, encoding="unicode"), DomainState.RUNNING)
    assert domain.ours is None
    assert "lease and bait" in domain.reason


def test_what_is_restored_differs_from_what_was_saved_in_overlay_console_channel_and_label_only() -> None:
    saved = replace(SPEC, ours=spare(OURS), overlay="/o/old", console="/c/old", channel="/s/old")
    indented = ET.fromstring(domain_xml(saved))
    ET.indent(indented)  # as libvirt writes it
    assert ET.canonicalize(restored_xml(ET.tostring(indented, encoding="unicode"), SPEC)) == ET.canonicalize(
        domain_xml(SPEC)
    )


def test_every_vm_has_a_generation_id_that_libvirt_chooses_at_each_start() -> None:
    assert parsed().findtext("genid") == ""
    assert ET.fromstring(probe_xml(PROBE)).find("genid") is None


def test_a_saved_domain_is_restored_as_itself_or_not_at_all() -> None:
    for other in (replace(SPEC, uuid="0" * 36), replace(SPEC, ours=replace(OURS, slot=VmName("vm2")))):
        with pytest.raises(ValueError, match="saved was vm1"):
            restored_xml(domain_xml(SPEC), other)


@pytest.mark.parametrize(
    "hostile", ["x</name><devices><a/></devices>", "]]>", "&xxe;", "<!-- ", "'\"><script>", "a" * 10_000]
)
def test_markup_in_a_value_stays_a_value(hostile: str) -> None:
    root = parsed(replace(SPEC, console=hostile, ours=replace(OURS, run=hostile)))
    assert root.find("devices/serial/source").get("path") == hostile  # type: ignore[union-attr]
    assert root.find(f"metadata/{{{NAMESPACE}}}vm").text == hostile  # type: ignore[union-attr]
    assert [child.tag for child in root] == [child.tag for child in parsed()]


@pytest.mark.parametrize("bad", ["a\0b", "a\x1bb", "a\nb", "\ud800"])
def test_what_xml_cannot_carry_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="must not have"):
        domain_xml(replace(SPEC, ours=replace(OURS, run=bad)))


def test_only_the_devices_a_batch_job_needs() -> None:
    devices = parsed().find("devices")
    assert devices is not None
    tags = sorted(device.tag for device in devices)
    assert tags == ["channel", "controller", "disk", "disk", "interface", "memballoon", "serial"]
    assert devices.find("controller").attrib == {"type": "usb", "model": "none"}  # type: ignore[union-attr]
    assert devices.find("memballoon").get("model") == "none"  # type: ignore[union-attr]


def test_the_shared_root_is_read_only_and_the_overlay_is_not_probed_for_its_format() -> None:
    root, overlay = parsed().iterfind("devices/disk")
    assert root.find("readonly") is not None
    assert root.find("shareable") is not None
    assert overlay.find("readonly") is None
    for disk in (root, overlay):
        assert disk.find("driver").get("type") == "raw"  # type: ignore[union-attr]


def test_libvirt_changes_no_file_and_a_reboot_ends_the_vm() -> None:
    root = parsed()
    assert root.find("seclabel").attrib == {"type": "none", "model": "dac"}  # type: ignore[union-attr]
    assert (root.findtext("on_reboot"), root.findtext("on_poweroff"), root.findtext("on_crash")) == ("destroy",) * 3


def test_the_kernel_command_line_names_the_vm_and_holds_no_secret() -> None:
    line = parsed(replace(SPEC, extra_cmdline=("quiet",))).findtext("os/cmdline")
    assert line == "console=ttyS0 panic=1 wnod.name=vm1 quiet"


def test_the_guest_port_is_connected_by_qemu_again_and_again() -> None:
    channel = parsed().find("devices/channel")
    assert channel is not None
    assert channel.find("source").attrib == {"mode": "connect", "path": SPEC.channel}  # type: ignore[union-attr]
    assert channel.find("source/reconnect").get("enabled") == "yes"  # type: ignore[union-attr]
    assert channel.find("target").attrib == {"type": "virtio", "name": "org.wnod.guest.0"}  # type: ignore[union-attr]


def test_a_bridged_card_is_isolated_and_filtered() -> None:
    card = parsed().find("devices/interface")
    assert card is not None
    assert card.get("type") == "bridge"
    assert card.find("port").get("isolated") == "yes"  # type: ignore[union-attr]
    assert card.find("filterref").get("filter") == "clean-traffic"  # type: ignore[union-attr]
    assert card.find("filterref/parameter").attrib == {"name": "IP", "value": "10.0.0.7"}  # type: ignore[union-attr]


def test_without_a_bridge_the_card_is_a_user_network_without_filter() -> None:
    card = parsed(replace(SPEC, bridge="")).find("devices/interface")
    assert card is not None
    assert card.get("type") == "user"
    assert [child.tag for child in card] == ["mac", "model"]


def start_validated(xml: str) -> None:
    """Have libvirt's test driver check this XML against libvirt's schema and take it."""
    connection = libvirt.open("test:///default")
    try:
        connection.createXML(xml, libvirt.VIR_DOMAIN_START_VALIDATE).destroy()
    finally:
        connection.close()


@pytest.mark.parametrize("accelerator", [Accelerator.KVM, Accelerator.TCG])
def test_libvirts_own_schema_accepts_it(accelerator: Accelerator) -> None:
    specs = (replace(SPEC, accelerator=accelerator), replace(SPEC, accelerator=accelerator, bridge=""))
    texts = [*map(domain_xml, specs), probe_xml(replace(PROBE, accelerator=accelerator))]
    for text in texts:
        start_validated(text)
        with pytest.raises(libvirt.libvirtError):
            start_validated(text.replace("memballoon", "memgalloon"))


def test_a_domain_without_our_metadata_is_not_ours() -> None:
    for metadata in ("", "<metadata/>", "<metadata><vm host='h1'/></metadata>"):
        domain = read_domain(f"<domain><name>x</name><uuid>u</uuid>{metadata}</domain>", DomainState.RUNNING)
        assert domain.ours is None
        assert domain.reason == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [("generation", "0"), ("generation", "x"), ("lease", "short"), ("owner", "-1"), ("image", "a"), ("cpus", "0"),
     ("slot", "../x"), ("disk_mib", "9" * 30), ("memory_mib", None), ("new_field", "1")],
)  # fmt: skip
def test_metadata_that_is_not_understood_is_not_ours_and_says_so(field: str, value: str | None) -> None:
    root = parsed()
    kept = root.find(f"metadata/{{{NAMESPACE}}}vm")
    assert kept is not None
    if value is None:
        del kept.attrib[field]
    else:
        kept.set(field, value)
    domain = read_domain(ET.tostring(root, encoding="unicode"), DomainState.RUNNING)
    assert domain.ours is None
    assert "not understood" in domain.reason


def test_a_probe_cannot_pass_by_panicking_and_is_nobodys_vm() -> None:
    root = ET.fromstring(probe_xml(PROBE))
    # A reboot that ends the domain would be reported as a shutdown of its own.
    assert root.findtext("on_reboot") == "restart"
    assert "panic=0" in str(root.findtext("os/cmdline"))
    assert root.find("devices/disk") is None
    assert root.find("devices/interface") is None
    assert read_domain(probe_xml(PROBE), DomainState.RUNNING).ours is None


def test_a_probe_is_told_from_all_else() -> None:
    assert is_probe(probe_xml(PROBE))
    assert not is_probe(domain_xml(SPEC))
    assert not is_probe("<domain><name>wnod-probe-1</name></domain>")
