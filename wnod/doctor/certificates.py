"""Are certificate, key and secrets good, for long enough, and for this daemon's eyes only?"""

import contextlib
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from protocol.errors import TheirMistake
from protocol.tls import Identity, Role, Tls, TlsMistake
from wnod.commands.text import user_name
from wnod.config import TlsFiles
from wnod.doctor.finding import CommandFailed, Finding, Verdict, output_of

SOON = timedelta(days=30)


def check_tls(
    role: Literal["host", "bait"], name: str, files: TlsFiles, now: datetime | None = None
) -> Iterator[Finding]:
    """The files load as the daemon would load them, are from the same CA, name this daemon, and are not ending."""
    yield from check_secret("tls.key", files.key)
    try:
        Tls(files.ca, files.certificate, files.key).require(Role(role), name)
        ca = x509.load_pem_x509_certificate(Path(files.ca).read_bytes())
        own = x509.load_pem_x509_certificate(Path(files.certificate).read_bytes())
        own.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError) as error:
        text = f"{files.certificate} is not from the CA in {files.ca}: {error}"
        yield Finding("certificate", Verdict.BAD, text, "copy ca.pem and the certificate from the same pki directory")
    except (TlsMistake, TheirMistake, OSError) as error:
        yield Finding("certificate", Verdict.BAD, str(error), f"wnod pki issue DIR --{role} {name}")
    else:
        yield _dates(Identity(Role(role), name), own, now or datetime.now(UTC))


def _dates(who: Identity, certificate: x509.Certificate, now: datetime) -> Finding:
    end = certificate.not_valid_after_utc
    remedy = f"wnod pki renew DIR --{who.role} {who.name}, copy the files; the daemon reads them by itself"
    if now >= end:
        return Finding("certificate", Verdict.BAD, f"{who}: ended {end:%Y-%m-%d}", remedy)
    if now < certificate.not_valid_before_utc:
        return Finding("certificate", Verdict.BAD, f"{who}: not valid yet", "is this machine's clock right?")
    verdict = Verdict.WARN if now >= end - SOON else Verdict.OK
    return Finding("certificate", verdict, f"{who}: valid until {end:%Y-%m-%d}", remedy if verdict else "")


def check_secret(name: str, path: str) -> Iterator[Finding]:
    """A secret file exists and only its owner can read it (a group may if it cannot write)."""
    try:
        info = os.stat(path)
    except OSError as error:
        yield Finding(name, Verdict.BAD, f"{path}: {error.strerror}", "create it, or correct the path")
        return
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        yield Finding(name, Verdict.BAD, f"{path}: mode {mode:04o}: others can read it", f"chmod 0600 {path}")
    else:
        yield Finding(name, Verdict.OK, f"{path}: mode {mode:04o}")


def check_readers(
    secrets: Mapping[str, str], unit: str, state: str, ask: Callable[[Sequence[str]], str] = output_of
) -> Iterator[Finding]:
    """The daemon's own user owns the secrets, and not who made them: root, who mostly asks, could read them anyway."""
    reader = _runs_as(unit, state, ask)
    for name, path in secrets.items() if reader else ():
        with contextlib.suppress(OSError):  # `check_secret` tells
            owner = os.stat(path).st_uid
            if owner != reader:
                text = f"{path}: belongs to {user_name(owner)}, the daemon runs as {user_name(reader)}"
                remedy = f"chown {user_name(reader)} {path}"
                yield Finding(name, Verdict.BAD, f"{text} and cannot read it", remedy)


def _runs_as(unit: str, state: str, ask: Callable[[Sequence[str]], str]) -> int | None:
    """The uid that systemd gives the daemon, else whose its state directory is. None: nobody knows."""
    try:
        return pwd.getpwnam(ask(["systemctl", "show", "--property=User", "--value", unit]).strip()).pw_uid
    except (CommandFailed, KeyError):
        with contextlib.suppress(OSError):
            return os.stat(state).st_uid
    return None
