"""What libvirt says of a machine (its capabilities) and of one QEMU on it (its domain capabilities), as facts. Pure."""

import xml.etree.ElementTree as ET

from hostmaster.edges.domain import DOMAIN_TYPES
from hostmaster.world import Accelerator


def offered_accelerators(capabilities: str) -> frozenset[Accelerator]:
    """What libvirt's capabilities XML lists for the host's own architecture. A listing is no proof: probe."""
    root = ET.fromstring(capabilities)  # noqa: S314 - libvirt's own output; expat resolves no external entities
    arch = root.findtext("host/cpu/arch", "")
    types = {d.get("type") for d in root.iterfind(f"guest/arch[@name='{arch}']/domain")}
    return frozenset(a for a, t in DOMAIN_TYPES.items() if t in types)


def machine_facts(capabilities: str, offered: str) -> tuple[str, ...]:
    """What a saved memory depends on, of libvirt's capabilities and domain capabilities (or "" if it has none).

    Not the frequency of the time stamp counter, which is measured anew, a little differently, at each boot.
    """
    cpu = ET.fromstring(capabilities).find("host/cpu")  # noqa: S314 - as above
    facts = [] if cpu is None else [cpu.findtext("arch", ""), cpu.findtext("model", ""), cpu.findtext("vendor", "")]
    for tag in ("microcode", "signature", "feature"):
        found = () if cpu is None else cpu.iterfind(tag)
        facts += sorted(f"{tag} {sorted(e.attrib.items())}" for e in found)
    if offered:
        root = ET.fromstring(offered)  # noqa: S314 - as above
        facts += [root.findtext(tag, "") for tag in ("arch", "machine", "path")]
    return tuple(facts)


def emulator_path(offered: str) -> str:
    """The QEMU that these domain capabilities are of."""
    return ET.fromstring(offered).findtext("path", "") if offered else ""  # noqa: S314 - as above


def qemu_ids(capabilities: str) -> tuple[int, int] | None:
    """The (uid, gid) that libvirt gives its QEMUs, or None if it runs them as the caller's own user."""
    root = ET.fromstring(capabilities)  # noqa: S314 - as above
    for model in root.iterfind("host/secmodel"):
        label = model.findtext("baselabel", "")
        uid, _, gid = label.replace("+", "").partition(":")
        if model.findtext("model") == "dac" and uid.isdigit() and gid.isdigit():
            return int(uid), int(gid)
    return None
