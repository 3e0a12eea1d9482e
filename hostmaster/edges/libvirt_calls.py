"""What is asked of libvirt, call by call: each function blocks, and belongs on a thread of events.Connection's pool.

No virDomain leaves this file. What was asked for is judged by looking at the domain again, not by libvirt's error
code, so each call may be repeated after its answer was lost.
"""

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt

from hostmaster.edges.capabilities import emulator_path, machine_facts
from hostmaster.edges.domain import (
    MACHINE,
    NAMESPACE,
    PROBE_PREFIX,
    is_probe,
    layout,
    metadata_xml,
    read_domain,
    restored_xml,
)
from hostmaster.edges.events import is_broken
from hostmaster.world import Accelerator, Domain, DomainRefused, DomainSpec, DomainState, HypervisorUnavailable, Ours

_PARTIAL = ".partial"

_STATES = {
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.STOPPED,
}
"""All others (running, blocked, in shutdown, no state) still use the host's resources: running."""


def create(connection: Any, xml: str, uuid: str, console: str) -> None:
    """Start it, unless a domain of this UUID exists."""
    if _find(connection, uuid) is not None:
        return
    if console:
        _own_console(console)
    try:
        connection.createXML(xml, 0)
    except libvirt.libvirtError as e:
        # An earlier attempt whose answer got lost may have arrived meanwhile.
        if is_broken(e) or _find(connection, uuid) is None:
            raise


def start(connection: Any, xml: str) -> None:
    """Start it, once."""
    connection.createXML(xml, 0)


def destroy(connection: Any, uuid: str, is_ours: Callable[[str], bool]) -> None:
    """Return when there is no such domain; DomainRefused if `is_ours` says no of its XML."""
    domain = _find(connection, uuid)
    if domain is None:
        return
    with _gone_is_fine():
        if not is_ours(domain.XMLDesc(0)):
            raise DomainRefused(f"domain {domain.name()} ({uuid}) is not ours: it is left alone")
        _end(domain)
    _until_gone(connection, uuid)


def _until_gone(connection: Any, uuid: str) -> None:
    for _ in range(40):  # one that ended by itself is still being taken off libvirt's list
        if _find(connection, uuid) is None:
            return
        time.sleep(0.05)
    raise HypervisorUnavailable(f"domain {uuid} still exists after it was ended")


def _end(domain: Any) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError as e:
        if is_broken(e):
            raise
        if _state(domain)[0] is not DomainState.STOPPED:
            raise HypervisorUnavailable(f"libvirt could not destroy {domain.name()}: {e}") from e
    if domain.isPersistent():  # somebody defined it by hand
        domain.undefine()


def bring_to(connection: Any, uuid: str, wanted: DomainState) -> None:
    """Pause or unpause; DomainRefused if there is no such domain."""
    domain = _find(connection, uuid)
    if domain is None:
        raise DomainRefused(f"no domain {uuid}")
    if _state(domain)[0] is wanted:
        return
    try:
        domain.suspend() if wanted is DomainState.PAUSED else domain.resume()
    except libvirt.libvirtError as e:
        if is_broken(e) or _state(domain)[0] is not wanted:
            raise


def save(connection: Any, uuid: str, path: str) -> None:
    """Write beside `path`, and rename what is whole; libvirt marks a file that it has not finished."""
    beside = path + _PARTIAL
    domain = _find(connection, uuid)
    if domain is not None:
        with _gone_is_fine():
            if not is_ours(domain.XMLDesc(0)):
                raise DomainRefused(f"domain {domain.name()} ({uuid}) is not ours: it is left alone")
            _write_memory(connection, domain, beside)
        _until_gone(connection, uuid)
    if _saved_uuid(connection, beside) == uuid:
        with contextlib.suppress(FileNotFoundError):  # an earlier call whose answer got lost may be the first to do it
            Path(beside).replace(path)
    if _saved_uuid(connection, path) != uuid:
        raise DomainRefused(f"no domain {uuid}, and nothing whole was saved of it at {path}")


def _write_memory(connection: Any, domain: Any, path: str) -> None:
    try:
        domain.saveFlags(path, None, 0)
    except libvirt.libvirtError as e:
        # An earlier call whose answer got lost may have been at it, and libvirt does one after the other.
        if is_broken(e) or _find(connection, domain.UUIDString()) is not None:
            raise


def _saved_uuid(connection: Any, path: str) -> str:
    """Whose memory is in that file; empty if there is none, or not all of it."""
    try:
        return read_domain(connection.saveImageGetXMLDesc(path, 0), DomainState.STOPPED).uuid
    except libvirt.libvirtError as e:
        if is_broken(e):
            raise
        return ""


def restore(connection: Any, path: str, spec: DomainSpec) -> None:
    """Start from the file, unless a domain of this UUID exists."""
    if _find(connection, spec.uuid) is not None:
        return
    try:
        xml = restored_xml(connection.saveImageGetXMLDesc(path, 0), spec)
    except ValueError as e:
        raise DomainRefused(f"restore {path}: {e}") from e
    if spec.console:
        _own_console(spec.console)
    try:
        _restore(connection, path, xml, spec)
    except libvirt.libvirtError as e:
        # An earlier attempt whose answer got lost may have arrived meanwhile.
        if is_broken(e) or _find(connection, spec.uuid) is None:
            raise


def _restore(connection: Any, path: str, xml: str, spec: DomainSpec) -> None:
    if spec.accelerator is not Accelerator.NONE:
        # Whether it was paused when it was saved or not.
        connection.restoreFlags(path, xml, libvirt.VIR_DOMAIN_SAVE_RUNNING)
        return
    connection.restore(path)  # the test driver takes no XML for it
    relabel(connection, spec.uuid, spec.ours)


def relabel(connection: Any, uuid: str, ours: Ours) -> None:
    """Replace our metadata; DomainRefused if there is no such domain, or if it is not ours."""
    domain = _find(connection, uuid)
    if domain is None:
        raise DomainRefused(f"no domain {uuid}")
    if not is_ours(domain.XMLDesc(0)):
        raise DomainRefused(f"domain {domain.name()} ({uuid}) is not ours: it is left alone")
    kind, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
    domain.setMetadata(kind, metadata_xml(ours), "wnod", NAMESPACE, live)


def identity(connection: Any, emulator: str | None) -> str:
    """A hash of all that a saved memory's reader must share with its writer, as far as anybody can see it."""
    try:
        offered = connection.getDomainCapabilities(emulator, None, MACHINE, None, 0)
    except libvirt.libvirtError as e:
        if e.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        offered = ""  # the test driver
    versions = (connection.getLibVersion(), connection.getVersion(), platform.release())
    facts = (*versions, layout(), *machine_facts(connection.getCapabilities(), offered))
    return hashlib.sha256(repr((facts, _file_facts(emulator_path(offered)))).encode()).hexdigest()


def _file_facts(path: str) -> tuple[int, ...]:
    """An update of QEMU's package need not change its version."""
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns


Described = dict[tuple[str, int], Domain]
"""Domains by UUID and libvirt's number of this start, as they were first read: only `relabel` changes our metadata."""

_NOT_STARTED = -1
"""libvirt's number of every domain that is defined and does not run: somebody may edit it, so it is read each time."""


def list_all(connection: Any, known: Described) -> tuple[tuple[Domain, ...], Described]:
    """One call for the states of all; only a domain that was not there before is asked for its description."""
    found, described = [], {}
    for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE):
        key = (domain.UUIDString(), domain.ID())
        state, why = _seen(stats["state.state"], stats["state.reason"])
        with _gone_is_fine():
            first = known.get(key) or read_domain(domain.XMLDesc(0), DomainState.RUNNING)
            if domain.ID() != _NOT_STARTED:
                described[key] = first
            same = state is DomainState.RUNNING
            found.append(first if same else replace(first, state=state, reason=first.reason or why))
    return tuple(found), described


def remove_probes(connection: Any) -> None:
    """Remove the probe guests that an earlier life has left."""
    for domain in connection.listAllDomains(0):
        with _gone_is_fine():
            if domain.name().startswith(PROBE_PREFIX):
                destroy(connection, domain.UUIDString(), is_probe)


def _find(connection: Any, uuid: str) -> Any:
    """The domain, or None if there is certainly none."""
    with _gone_is_fine():
        return connection.lookupByUUIDString(uuid)
    return None


def _state(domain: Any) -> tuple[DomainState, str]:
    return _seen(*domain.state())


def _seen(state: int, reason: int) -> tuple[DomainState, str]:
    if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR:
        return DomainState.PAUSED, "input/output error on a disk: is the host's disk full?"
    return _STATES.get(state, DomainState.RUNNING), ""


def is_ours(xml: str) -> bool:
    """Whether this domain carries our metadata."""
    return read_domain(xml, DomainState.RUNNING).ours is not None


def _own_console(path: str) -> None:
    # Made here, the file is ours to read and to delete; libvirt appends to what exists.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))


class _gone_is_fine(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a statement, like suppress
    def __exit__(self, kind: Any, error: BaseException | None, _traceback: Any) -> bool:
        return isinstance(error, libvirt.libvirtError) and error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
