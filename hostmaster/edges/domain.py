"""Domain XML: made from a DomainSpec, read back as facts. Pure; the only file that knows a domain's XML.

The device set is the smallest a batch job needs: two disks, one network card, one port to us, one console that
only writes. No graphics, sound, USB, balloon or agent with powers. Our facts about the VM are kept in the
domain's <metadata>, so that libvirt alone can say which domains are ours (docs/decisions/0003).
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Annotated
from xml.etree.ElementTree import Element, SubElement

import msgspec

from hostmaster.world import Accelerator, Domain, DomainSpec, DomainState, Ours
from protocol.guest import PORT
from protocol.ids import (
    BaitNameField,
    EnvironmentField,
    EnvironmentName,
    Generation,
    GenerationField,
    HostNameField,
    LeaseId,
    LeaseIdField,
    Shape,
    Uid,
    VmName,
    VmNameField,
)

NAMESPACE = "urn:wnod:domain:1"
"""Our <metadata> element's namespace. A new number when its content changes incompatibly."""

MACHINE = "q35"
PROBE_PREFIX = "wnod-probe-"
PROBE_MEMORY_MIB = 256
DOMAIN_TYPES = {Accelerator.KVM: "kvm", Accelerator.TCG: "qemu", Accelerator.NONE: "test"}
"""libvirt's word for each accelerator."""

_VM = f"{{{NAMESPACE}}}vm"
_PROBE = f"{{{NAMESPACE}}}probe"
_SERIAL = "console=ttyS0"

ET.register_namespace("wnod", NAMESPACE)


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata's attributes with their bounds: what was edited by hand is not taken for ours."""

    host: HostNameField
    slot: VmNameField
    generation: GenerationField
    lease: LeaseIdField | None = None
    """With `bait`, absent for a spare."""
    bait: BaitNameField | None = None
    owner: Uid
    environment: EnvironmentField
    image: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    cpus: int
    memory_mib: int
    disk_mib: int


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A guest that only boots and powers itself off: no disk, no network, no way to us."""

    uuid: str
    accelerator: Accelerator
    kernel: str
    initrd: str
    emulator: str | None = None

    @property
    def name(self) -> str:
        """Unique, and recognisable for whoever lists domains meanwhile."""
        return PROBE_PREFIX + self.uuid.replace("-", "")[:8]


def domain_xml(spec: DomainSpec, owners: bool = True) -> str:
    """The XML that libvirt is given. Raises ValueError for a string that XML cannot carry.

    `owners` False: this libvirt has one user for everything (qemu:///session) and knows nothing of file owners.
    """
    ours, shape = spec.ours, spec.ours.shape
    domain = _domain(spec.accelerator, ours.slot, spec.uuid, shape.cpus, shape.memory_mib)
    metadata = Element("metadata")
    metadata.append(_kept(ours))
    domain.insert(0, metadata)
    if spec.accelerator is Accelerator.NONE:
        return _text(domain)
    if owners:
        _keep_owners(domain)
    # libvirt gives a restored domain another one: a kernel that knows the device then starts its generator anew.
    SubElement(domain, "genid")
    cmdline = " ".join((_SERIAL, "panic=1", f"wnod.name={ours.slot}", *spec.extra_cmdline))
    _boot(domain, spec.kernel, spec.initrd, cmdline)
    # A reboot would be a second boot of the same generation: the VM ends instead, and is made anew.
    _end_on(domain, reboot="destroy")
    devices = _devices(domain, spec.emulator)
    _root_disk(devices, spec.root)
    _overlay_disk(devices, spec.overlay)
    _network_card(devices, spec)
    _console(devices, spec.console)
    _guest_port(devices, spec.channel)
    return _text(domain)


def probe_xml(spec: ProbeSpec, owners: bool = True) -> str:
    """The XML of a probe guest, as like to a real VM as needed to prove the accelerator. `owners`: as above."""
    domain = _domain(spec.accelerator, spec.name, spec.uuid, 1, PROBE_MEMORY_MIB)
    metadata = Element("metadata")
    SubElement(metadata, _PROBE)
    domain.insert(0, metadata)
    if owners:
        _keep_owners(domain)
    _boot(domain, spec.kernel, spec.initrd, f"{_SERIAL} panic=0 wnod.probe=1")
    # QEMU reports a reboot that ends the domain as a shutdown: a kernel that panics must not look like success.
    _end_on(domain, reboot="restart")
    _devices(domain, spec.emulator)
    return _text(domain)


def read_domain(xml: str, state: DomainState, reason: str = "") -> Domain:
    """The facts of one domain from libvirt's own description of it.

    `ours` is None without our metadata, and also if our metadata is not understood: then `reason` says so,
    because a domain that we cannot name is a domain that we must not touch.
    """
    root = ET.fromstring(xml)  # noqa: S314 - libvirt's own output; expat resolves no external entities
    name, uuid = root.findtext("name", ""), root.findtext("uuid", "")
    kept = root.find(f"metadata/{_VM}")
    if kept is None:
        return Domain(name, uuid, state, None, reason)
    try:
        return Domain(name, uuid, state, _read_ours(kept), reason)
    except msgspec.ValidationError as e:
        return Domain(name, uuid, state, None, f"its wnod metadata is not understood ({e}): left alone")


def metadata_xml(ours: Ours) -> str:
    """Our facts alone, for a domain that lives. libvirt puts the namespace in, and wants the name without."""
    kept = _kept(ours)
    kept.tag = "vm"
    return _text(kept)


def restored_xml(saved: str, spec: DomainSpec) -> str:
    """A saved domain's XML with the spec's overlay, console, channel and metadata in the place of its own.

    All else stays as saved, because the memory knows it. Raises ValueError if the spec is of another domain.
    """
    root = ET.fromstring(saved)  # noqa: S314 - as above
    found = (root.findtext("name", ""), root.findtext("uuid", ""))
    if found != (spec.ours.slot, spec.uuid):
        raise ValueError(f"saved was {found[0]} ({found[1]}), to be restored as {spec.ours.slot} ({spec.uuid})")
    metadata = root.find("metadata")
    if metadata is not None:
        root.remove(metadata)
    metadata = Element("metadata")
    metadata.append(_kept(spec.ours))
    root.insert(0, metadata)
    for where, attribute, value in (
        ("devices/disk/target[@dev='vdb']/../source", "file", spec.overlay),
        ("devices/serial/source", "path", spec.console),
        ("devices/console/source", "path", spec.console),
        ("devices/channel/source", "path", spec.channel),
    ):
        for element in root.iterfind(where):
            element.set(attribute, value)
    _unindent(root)
    return _text(root)


def is_probe(xml: str) -> bool:
    """True for a probe guest of ours, so that one a crash left behind can be removed."""
    return ET.fromstring(xml).find(f"metadata/{_PROBE}") is not None  # noqa: S314 - as above


def layout() -> str:
    """The XML of a VM with nothing of its own: another text, and older saved ones are not what would be made now."""
    shape = Shape(cpus=1, memory_mib=64, disk_mib=16)
    ours = Ours("", VmName(""), Generation(1), LeaseId(""), "", 0, EnvironmentName(""), "", shape, "")
    return domain_xml(DomainSpec(ours, "", "", "", Accelerator.TCG, "", "", "", "", "", ""))


def _kept(ours: Ours) -> Element:
    kept = Element(_VM)
    values = {
        "host": ours.host,
        "slot": ours.slot,
        "generation": str(ours.generation),
        "lease": ours.lease,
        "bait": ours.bait,
        "owner": str(ours.owner),
        "environment": ours.environment,
        "image": ours.image,
        "cpus": str(ours.shape.cpus),
        "memory_mib": str(ours.shape.memory_mib),
        "disk_mib": str(ours.shape.disk_mib),
    }
    if ours.is_spare:
        del values["lease"], values["bait"]
    for key, value in values.items():
        kept.set(key, value)
    kept.text = ours.run
    return kept


def _read_ours(element: Element) -> Ours:
    kept = msgspec.convert(dict(element.attrib), _Kept, strict=False)
    if (kept.lease is None) != (kept.bait is None):
        raise msgspec.ValidationError("lease and bait are given together, or neither for a spare")
    shape = msgspec.convert({"cpus": kept.cpus, "memory_mib": kept.memory_mib, "disk_mib": kept.disk_mib}, Shape)
    return Ours(
        host=kept.host,
        slot=kept.slot,
        generation=kept.generation,
        lease=kept.lease or LeaseId(""),
        bait=kept.bait or "",
        owner=kept.owner,
        environment=kept.environment,
        image=kept.image,
        shape=shape,
        run=element.text or "",
    )


def _domain(accelerator: Accelerator, name: str, uuid: str, cpus: int, memory_mib: int) -> Element:
    domain = Element("domain", type=DOMAIN_TYPES[accelerator])
    _child(domain, "name", name)
    _child(domain, "uuid", uuid)
    _child(domain, "memory", str(memory_mib), unit="MiB")
    _child(domain, "vcpu", str(cpus), placement="static")
    os = SubElement(domain, "os")
    if accelerator is Accelerator.NONE:
        _child(os, "type", "hvm")
        return domain
    _child(os, "type", "hvm", machine=MACHINE)
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    SubElement(domain, "cpu", mode="host-passthrough" if accelerator is Accelerator.KVM else "maximum")
    SubElement(domain, "clock", offset="utc")
    return domain


def _keep_owners(domain: Element) -> None:
    # libvirt must not chown files: the image is shared by all VMs, and an owner could write it. QEMU still runs
    # as libvirt's own QEMU user; images.py gives that user the overlay and nothing else.
    SubElement(domain, "seclabel", type="none", model="dac")


def _boot(domain: Element, kernel: str, initrd: str, cmdline: str) -> None:
    os = domain.find("os")
    assert os is not None
    _child(os, "kernel", kernel)
    _child(os, "initrd", initrd)
    _child(os, "cmdline", cmdline)


def _end_on(domain: Element, reboot: str) -> None:
    _child(domain, "on_poweroff", "destroy")
    _child(domain, "on_reboot", reboot)
    _child(domain, "on_crash", "destroy")


def _devices(domain: Element, emulator: str | None) -> Element:
    devices = SubElement(domain, "devices")
    if emulator is not None:
        _child(devices, "emulator", emulator)
    SubElement(devices, "controller", type="usb", model="none")
    SubElement(devices, "memballoon", model="none")
    return devices


def _root_disk(devices: Element, path: str) -> None:
    disk = SubElement(devices, "disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type="raw")
    SubElement(disk, "source", file=path)
    SubElement(disk, "target", dev="vda", bus="virtio")
    SubElement(disk, "readonly")
    SubElement(disk, "shareable")


def _overlay_disk(devices: Element, path: str) -> None:
    disk = SubElement(devices, "disk", type="file", device="disk")
    # The overlay never outlives its VM, so a flush protects nothing; freed blocks go back to the host.
    SubElement(disk, "driver", name="qemu", type="raw", cache="unsafe", discard="unmap")
    SubElement(disk, "source", file=path)
    SubElement(disk, "target", dev="vdb", bus="virtio")


def _network_card(devices: Element, spec: DomainSpec) -> None:
    card = SubElement(devices, "interface", type="bridge" if spec.bridge else "user")
    SubElement(card, "mac", address=spec.mac)
    if spec.bridge:
        SubElement(card, "source", bridge=spec.bridge)
        SubElement(card, "port", isolated="yes")  # VMs do not reach one another, only what the bridge leads to
    SubElement(card, "model", type="virtio")
    if spec.bridge and spec.network_filter is not None:
        filterref = SubElement(card, "filterref", filter=spec.network_filter)
        if spec.address is not None:
            SubElement(filterref, "parameter", name="IP", value=spec.address)


def _console(devices: Element, path: str) -> None:
    serial = SubElement(devices, "serial", type="file")
    SubElement(serial, "source", path=path, append="on")
    SubElement(serial, "target", port="0")


def _guest_port(devices: Element, path: str) -> None:
    channel = SubElement(devices, "channel", type="unix")
    # QEMU connects to us, again and again: a restarted hostmaster needs only to listen at the same path.
    source = SubElement(channel, "source", mode="connect", path=path)
    SubElement(source, "reconnect", enabled="yes", timeout="1")
    SubElement(channel, "target", type="virtio", name=PORT)


def _child(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element


def _unindent(root: Element) -> None:
    for element in root.iter():
        element.text, element.tail = (element.text or "").strip(), None


def _text(domain: Element) -> str:
    for element in domain.iter():
        for value in (element.text or "", *element.attrib.values()):
            if not value.isprintable():
                raise ValueError(f"<{element.tag}>: {value!r} holds characters that a domain's XML must not have")
    return ET.tostring(domain, encoding="unicode")
