"""The kinds of value that configuration fields take: each with what it is called and how it is checked."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_GUESTS = re.compile(r"[][A-Za-z0-9._:/,@=+~%][][A-Za-z0-9._:/,@=+~%-]*\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Check:
    """Put into Annotated[str, ...]: what is expected, and why a text is not that (empty: it is)."""

    expected: str
    objection: Callable[[str], str]


class ConfigStruct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all configuration types."""


def split_address(address: str) -> tuple[str, int]:
    """`"10.0.0.1:9610"` or `"[::1]:9610"` as host and port. Raises ValueError, worded for the person who typed it."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        raise ValueError("write it as HOST:PORT with a port from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if not _HOST.match(host):
        raise ValueError("the host is a name or an address, an IPv6 address in brackets")
    return host, int(port)


def _objects(parse: Callable[[str], object]) -> Callable[[str], str]:
    def objection(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            return str(error) or "not understood"
        return ""

    return objection


def _path_objection(text: str) -> str:
    if not text.startswith("/"):
        return "write the whole path, starting with /"
    if not text.isprintable() or len(text.encode()) > 1024:
        return "a path has no control characters and at most 1024 bytes"
    if any(part in (".", "..") for part in text.split("/")):
        return "write it without . and .. in it"
    return ""


def _runtime_objection(text: str) -> str:
    if len(text.encode()) > 80:
        return "at most 80 bytes, because socket names below it may have 107 in all"
    return _path_objection(text)


def _guests_objection(text: str) -> str:
    return "" if _GUESTS.match(text) else "guests take letters, digits, . _ : / , @ = + ~ % [ ] -, no hyphen first"


def _target_objection(text: str) -> str:
    if text == "/" or "/.." in text:
        return "guests mount on no path that is / or has .. in it"
    return _guests_objection(text)


def _interface(text: str) -> None:
    address = ipaddress.ip_interface(text)
    if "/" not in text or address.ip == address.network.network_address:
        raise ValueError("write a host's address with its prefix length, as in 10.7.0.21/24")


def _mac_objection(text: str) -> str:
    if not _MAC.match(text):
        return "write six pairs of lower-case hex digits, as in 52:54:00:00:01:15"
    return "its first byte is odd: that is a group address, no card's own" if int(text[1], 16) & 1 else ""


def _word_objection(text: str) -> str:
    return "" if text.isprintable() and " " not in text else "no spaces and no control characters"


AbsolutePath = Annotated[str, Check("an absolute path", _path_objection)]
RuntimePath = Annotated[str, Check("a short absolute path", _runtime_objection)]
Address = Annotated[str, Check("HOST:PORT", _objects(split_address))]
IpAddress = Annotated[str, Check("an IP address", _objects(ipaddress.ip_address))]
Cidr = Annotated[str, Check("an IP address with its prefix length", _objects(_interface))]
Mac = Annotated[str, Check("a MAC address", _mac_objection)]
Plain = Annotated[str, Meta(min_length=1, max_length=255), Check("one word", _word_objection)]
MountSource = Annotated[Plain, Check("what is mounted", _guests_objection)]
MountTarget = Annotated[AbsolutePath, Check("a directory of the guest", _target_objection)]
MountOptions = Annotated[
    str, Meta(max_length=1024), Check("mount options", lambda text: _guests_objection(text) if text else "")
]
DnsName = Annotated[
    str, Check("a host name", lambda text: "" if _HOST.match(text) else "letters, digits, dots and inner hyphens")
]
LrmsWord = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}\Z", description="a word of the LRMS")]
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="seconds")]


class TlsFiles(ConfigStruct, frozen=True):
    """This end's certificate and key, and the site's own CA, as `wnod pki` makes them (PEM)."""

    ca: AbsolutePath
    certificate: AbsolutePath
    key: AbsolutePath
