"""The site's own certificate authority: `wnod pki init`, `issue`, `renew` and `show`.

A directory holds ca.pem and ca.key and, for each daemon, ROLE-NAME.pem and ROLE-NAME.key. It belongs on an
administrator's machine; a daemon gets ca.pem and its own two files. Nothing that exists and is good is replaced.
"""

import argparse
import datetime as dt
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import TheirMistake
from protocol.tls import Identity, Role, identity_of

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 398
BACKDATE: Final = dt.timedelta(hours=1)
"""A clock that is a little slow still accepts a new certificate."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PURPOSE: Final = {Role.HOST: ExtendedKeyUsageOID.SERVER_AUTH, Role.BAIT: ExtendedKeyUsageOID.CLIENT_AUTH}


class PkiMistake(Exception):
    """The authority cannot do this; the text names the file or value and the remedy."""


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate as it is on disk. `made`: by this call."""

    subject: str
    certificate: Path
    key: Path
    not_after: dt.datetime
    made: bool

    def as_json(self) -> dict[str, Any]:
        """For --json; times are ISO 8601 in UTC."""
        return {
            "subject": self.subject,
            "certificate": str(self.certificate),
            "key": str(self.key),
            "not_after": self.not_after.isoformat(),
            "made": self.made,
        }


def create_authority(directory: Path, now: dt.datetime, days: int = CA_DAYS) -> Issued:
    """Make the authority in `directory`; one that is complete is left as it is. Raises PkiMistake."""
    certificate, key = directory / "ca.pem", directory / "ca.key"
    if certificate.exists() and key.exists():
        return _described(_read_certificate(certificate), certificate, key, made=False)
    if certificate.exists() or key.exists():
        raise PkiMistake(f"{directory} has only one of ca.pem and ca.key: restore the other or remove it")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(secret, now, days)
    _write(key, _key_pem(secret), 0o600)
    _write(certificate, authority.public_bytes(Encoding.PEM), 0o644)
    return _described(authority, certificate, key, made=True)


def issue(directory: Path, identity: Identity, now: dt.datetime, days: int = LEAF_DAYS) -> Issued:
    """Make key and certificate for one daemon; one that is valid and from this authority is left as it is.

    Raises PkiMistake.
    """
    certificate, key = _paths(directory, identity)
    authority, _ = _read_authority(directory)
    if certificate.exists() and key.exists():
        existing = _read_certificate(certificate)
        if now < existing.not_valid_after_utc and _is_from(authority, existing):
            return _described(existing, certificate, key, made=False)
    if not key.exists():
        _write(key, _key_pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
    return _signed(directory, identity, now, days)


def renew(directory: Path, identity: Identity, now: dt.datetime, days: int = LEAF_DAYS) -> Issued:
    """Make a new certificate for the daemon's existing key, valid from now. Raises PkiMistake."""
    _, key = _paths(directory, identity)
    if not key.exists():
        raise PkiMistake(f"{key} does not exist: use `wnod pki issue {directory} --{identity.role} {identity.name}`")
    return _signed(directory, identity, now, days)


def issued(directory: Path) -> list[Issued]:
    """Every certificate in the directory, the authority first. Raises PkiMistake."""
    if not (directory / "ca.pem").exists():
        raise _no_authority(directory / "ca.pem", directory)
    paths = sorted(directory.glob("*.pem"), key=lambda path: (path.name != "ca.pem", path.name))
    return [_described(_read_certificate(path), path, path.with_suffix(".key"), made=False) for path in paths]


def _signed(directory: Path, identity: Identity, now: dt.datetime, days: int) -> Issued:
    authority, secret = _read_authority(directory)
    certificate, key = _paths(directory, identity)
    leaf = _leaf(identity, _read_key(key), authority, secret, (now, days))
    _write(certificate, leaf.public_bytes(Encoding.PEM), 0o644)
    return _described(leaf, certificate, key, made=True)


def _is_from(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _paths(directory: Path, identity: Identity) -> tuple[Path, Path]:
    if not _NAME.fullmatch(identity.name):
        raise PkiMistake(
            f"--{identity.role} {identity.name!r}: a name has 1 to 63 lower-case letters, digits and inner hyphens"
        )
    stem = f"{identity.role}-{identity.name}"
    return directory / f"{stem}.pem", directory / f"{stem}.key"


def _authority(secret: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wnod site authority")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(secret.public_key())
    builder = _builder(name, secret.public_key(), name, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
    return builder.add_extension(identifier, critical=False).sign(secret, hashes.SHA256())


def _leaf(
    identity: Identity, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate,
    secret: ec.EllipticCurvePrivateKey, validity: tuple[dt.datetime, int],
) -> x509.Certificate:  # fmt: skip
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
    names = x509.SubjectAlternativeName(
        [x509.DNSName(identity.name), x509.UniformResourceIdentifier(str(identity))]
    )  # fmt: skip
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key())
    builder = _builder(name, key.public_key(), authority.subject, *validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_PURPOSE[identity.role]]), critical=True)
    builder = builder.add_extension(names, critical=False).add_extension(signer, critical=False)
    return builder.sign(secret, hashes.SHA256())


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    if not 1 <= days <= 36500:
        raise PkiMistake(f"--days {days}: expected 1 to 36500")
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - BACKDATE).not_valid_after(now + dt.timedelta(days=days))


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates, key_cert_sign=sign_certificates, crl_sign=sign_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _read_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        return _read_certificate(directory / "ca.pem"), _read_key(directory / "ca.key")
    except FileNotFoundError as e:
        raise _no_authority(e.filename, directory) from e


def _no_authority(missing: object, directory: Path) -> PkiMistake:
    return PkiMistake(f"{missing} does not exist: make the authority with `wnod pki init {directory}`")


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as e:
        raise PkiMistake(f"{path} is not a PEM certificate ({e}): restore it or remove it") from e


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as e:
        raise PkiMistake(f"{path} is not an unencrypted PEM key ({e}): restore it or remove it") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiMistake(f"{path} is not an elliptic-curve key: restore it or remove it")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file at once, durable and never readable by others in between."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _described(certificate: x509.Certificate, path: Path, key: Path, made: bool) -> Issued:
    try:
        subject = str(identity_of(certificate))
    except TheirMistake:
        subject = certificate.subject.rfc4514_string()
    return Issued(subject, path, key, certificate.not_valid_after_utc, made)


# --- the command line --------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the subcommands of `wnod pki`; run() carries them out."""
    commands = parser.add_subparsers(dest="pki_command", required=True, metavar="COMMAND")
    _command(commands, "init", "make the site's authority", f"validity of the authority (default {CA_DAYS})", CA_DAYS)
    for verb, text in (("issue", "make key and certificate for a daemon"), ("renew", "make a new certificate")):
        one = _command(commands, verb, text, f"validity (default {LEAF_DAYS})", LEAF_DAYS)
        who = one.add_mutually_exclusive_group(required=True)
        who.add_argument("--host", metavar="NAME", help="for the hostmaster of this host")
        who.add_argument("--bait", metavar="NAME", help="for this bait, named like its LRMS node")
    _command(commands, "show", "list what the directory holds", None, 0)


def _command(commands: Any, verb: str, text: str, days: str | None, default: int) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(verb, help=text, description=text)
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the authority keeps its files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    if days is not None:
        parser.add_argument("--days", type=int, default=default, metavar="N", help=days)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `wnod pki` command. 0: done (also when there was nothing to do), 1: not possible."""
    try:
        results = _COMMANDS[args.pki_command](args, dt.datetime.now(dt.UTC))
    except PkiMistake as e:
        print(f"wnod pki: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"wnod pki: {e.filename}: {e.strerror}", file=sys.stderr)
        return 1
    print(json.dumps([item.as_json() for item in results]) if args.json else _table(results))
    return 0


def _identity(args: argparse.Namespace) -> Identity:
    return Identity(Role.HOST, args.host) if args.host is not None else Identity(Role.BAIT, args.bait)


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace, dt.datetime], list[Issued]]]] = {
    "init": lambda args, now: [create_authority(args.directory, now, args.days)],
    "issue": lambda args, now: [issue(args.directory, _identity(args), now, args.days)],
    "renew": lambda args, now: [renew(args.directory, _identity(args), now, args.days)],
    "show": lambda args, now: issued(args.directory),
}


def _table(results: list[Issued]) -> str:
    lines = [
        f"{item.subject}: {item.certificate}, valid until {item.not_after:%Y-%m-%d}"
        + (" (new)" if item.made else "")
        for item in results
    ]  # fmt: skip
    return "\n".join(lines)
