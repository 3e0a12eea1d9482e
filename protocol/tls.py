"""Who is at the other end: TLS 1.3 with the site's own CA, and the name in the certificate.

Both ends show a certificate. The URI in its subject alternative names, `wnod:bait:NAME` or `wnod:host:NAME`,
is the identity; nothing a peer says later can change it. Files are read again when they change, so that a
renewed certificate needs no restart.
"""

import enum
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from protocol.errors import TheirMistake
from protocol.messages import Code

SCHEME = "wnod"
T = TypeVar("T")
_log = Logger()


class TlsMistake(Exception):
    """A certificate, key or CA file cannot be used; the text names the file and the remedy."""


class Role(enum.StrEnum):
    """What a certificate lets its owner be."""

    HOST = "host"
    BAIT = "bait"


@dataclass(frozen=True, slots=True)
class Identity:
    """A role and a name, as a certificate proves them."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}:{self.role}:{self.name}"


def identity_of(certificate: x509.Certificate) -> Identity:
    """Read the one identity in a certificate. Raises TheirMistake(WRONG_PEER) if there is not exactly one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as e:
        raise TheirMistake(f"certificate without usable alternative names: {e}", Code.WRONG_PEER) from e
    ours = [uri for uri in uris if uri.startswith(f"{SCHEME}:")]
    if len(ours) != 1:
        raise TheirMistake(f"certificate with {len(ours)} {SCHEME} identities, expected 1: {uris}", Code.WRONG_PEER)
    return _parse(ours[0])


def _parse(uri: str) -> Identity:
    match uri.split(":"):
        case [_, ("host" | "bait") as role, name] if name:
            return Identity(Role(role), name)
    raise TheirMistake(f"certificate for {uri!r}: expected {SCHEME}:host:NAME or {SCHEME}:bait:NAME", Code.WRONG_PEER)


def peer_identity(transport: object) -> Identity:
    """The identity of the peer of a TLS transport whose handshake is complete. Raises TheirMistake."""
    assert isinstance(transport, TLSMemoryBIOProtocol), transport
    connection: SSL.Connection = transport.getHandle()  # type: ignore[no-untyped-call]
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        raise TheirMistake("no certificate", Code.WRONG_PEER)
    return identity_of(certificate)


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: SSL.Context
    certificate: x509.Certificate
    stamp: tuple[tuple[int, int], ...]


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class Tls:
    """This end's certificate and key, and the CA that peers must come from.

    The constructor reads the files and raises TlsMistake if they cannot be used. Later changes are picked up
    at the next connection; while the new files cannot be used, the old ones serve on and that is logged.
    """

    def __init__(self, ca: Path | str, certificate: Path | str, key: Path | str) -> None:
        self._ca = Path(ca)
        self._certificate = Path(certificate)
        self._key = Path(key)
        self._loaded = self._load()

    @property
    def identity(self) -> Identity:
        """What this end's own certificate says it is. Raises TlsMistake."""
        try:
            return identity_of(self._loaded.certificate)
        except TheirMistake as e:
            raise TlsMistake(f"certificate {self._certificate}: {e}; issue one with `wnod pki issue`") from e

    def require(self, role: Role, name: str) -> None:
        """Check that the own certificate is for this role and name. Raises TlsMistake."""
        expected = Identity(role, name)
        if self.identity != expected:
            raise TlsMistake(
                f"certificate {self._certificate} is for {self.identity}, this daemon is {expected}: "
                f"issue one with `wnod pki issue DIR --{role} {name}`"
            )

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:  # noqa: N802, N803 - Twisted's name
        """One accepted connection (called by Twisted)."""
        return SSL.Connection(self._context(), None)

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:  # noqa: N802, N803 - Twisted's name
        """One outgoing connection (called by Twisted)."""
        return SSL.Connection(self._context(), None)

    def _context(self) -> SSL.Context:
        try:
            if self._stamp() != self._loaded.stamp:
                self._loaded = self._reloaded()
                _log.info("read the changed TLS files: {certificate}", certificate=str(self._certificate))
        except (TlsMistake, OSError) as e:
            _log.error("changed TLS files are not used: {why}", why=str(e))
        return self._loaded.context

    def _reloaded(self) -> _Loaded:
        loaded = self._load()
        before, after = self._loaded.certificate, loaded.certificate
        try:
            if identity_of(before) != identity_of(after):
                raise TlsMistake(f"certificate {self._certificate} now has another identity; restart the daemon")
        except TheirMistake as e:
            raise TlsMistake(f"certificate {self._certificate}: {e}") from e
        return loaded

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        states = (os.stat(path) for path in (self._ca, self._certificate, self._key))
        return tuple((state.st_mtime_ns, state.st_ino) for state in states)

    def _load(self) -> _Loaded:
        try:
            return self._read()
        except OSError as e:
            raise TlsMistake(f"TLS file {e.filename}: {e.strerror}; make it with `wnod pki issue`") from e

    def _read(self) -> _Loaded:
        stamp = self._stamp()
        authorities = _parsed("ca", self._ca, x509.load_pem_x509_certificates)
        chain = _parsed("certificate", self._certificate, x509.load_pem_x509_certificates)
        context = _context()
        _trust(context, authorities)
        self._show(context, chain)
        return _Loaded(context, chain[0], stamp)

    def _show(self, context: SSL.Context, chain: list[x509.Certificate]) -> None:
        key: Any = _parsed("key", self._key, lambda pem: load_pem_private_key(pem, password=None), read=_read_secret)
        try:
            context.use_certificate(chain[0])
            for certificate in chain[1:]:
                context.add_extra_chain_cert(certificate)
            context.use_privatekey(key)
            context.check_privatekey()
        except (SSL.Error, crypto.Error, TypeError, ValueError) as e:
            raise TlsMistake(f"key {self._key} does not belong to certificate {self._certificate}") from e


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    # No TLS session is ever continued: each connection proves its certificate again.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_id(SCHEME.encode())
    return context


def _trust(context: SSL.Context, authorities: list[x509.Certificate]) -> None:
    store = context.get_cert_store()
    assert store is not None
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))


def _parsed(field: str, path: Path, parse: Callable[[bytes], T], read: Callable[[Path], bytes] = Path.read_bytes) -> T:
    try:
        return parse(read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise TlsMistake(f"{field} {path} is not a readable PEM file: {e}") from e


def _read_secret(path: Path) -> bytes:
    """Read a key through one descriptor, so that what was checked is what is used."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise TlsMistake(f"key {path} has mode {mode:04o}: others may read it; remedy: chmod 0600 {path}")
        return file.read()
