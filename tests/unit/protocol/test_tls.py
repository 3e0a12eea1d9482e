"""Certificates and keys as files: what is refused, with which words, and what happens when they change."""

import datetime as dt
import os
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protocol.errors import TheirMistake
from protocol.link import Identity, Role, Tls, TlsMistake
from protocol.messages import Code
from protocol.tls import identity_of
from tests.unit.protocol.memory_net import Authority, authority

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Copies of a bait's files, to be spoiled."""
    authority().bait()
    source = authority().directory
    for old, new in (("ca.pem", "ca.pem"), ("bait-bait-h1.pem", "own.pem"), ("bait-bait-h1.key", "own.key")):
        shutil.copy2(source / old, tmp_path / new)
    return {"ca": tmp_path / "ca.pem", "certificate": tmp_path / "own.pem", "key": tmp_path / "own.key"}


def certificate_with(*uris: str, names: bool = True) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wnod:host:h1")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=1))
    if names:
        san = [x509.DNSName("h1"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    return builder.sign(key, hashes.SHA256())


def test_the_identity_is_the_uri() -> None:
    assert identity_of(certificate_with("https://a/", "wnod:bait:b-1")) == Identity(Role.BAIT, "b-1")


@pytest.mark.parametrize(
    "uris",
    [(), ("wnod:bait:a", "wnod:bait:b"), ("wnod:host:a", "wnod:bait:a"), ("wnod:root:a",), ("wnod:bait:",),
     ("wnod:bait",), ("wnod:bait:a:b",), ("WNOD:bait:a",)],
)  # fmt: skip
def test_not_exactly_one_identity(uris: tuple[str, ...]) -> None:
    with pytest.raises(TheirMistake) as caught:
        identity_of(certificate_with(*uris))
    assert caught.value.code is Code.WRONG_PEER


def test_a_common_name_is_no_identity() -> None:
    with pytest.raises(TheirMistake):
        identity_of(certificate_with(names=False))


def test_good_files_give_the_identity(files: dict[str, Path]) -> None:
    tls = Tls(**files)
    tls.require(Role.BAIT, "bait-h1")
    with pytest.raises(TlsMistake, match="is for wnod:bait:bait-h1, this daemon is wnod:host:bait-h1"):
        tls.require(Role.HOST, "bait-h1")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused(files: dict[str, Path], mode: int) -> None:
    files["key"].chmod(mode)
    with pytest.raises(TlsMistake, match="chmod 0600"):
        Tls(**files)


@pytest.mark.parametrize("which", ["ca", "certificate", "key"])
def test_a_missing_file_is_named(files: dict[str, Path], which: str) -> None:
    files[which].unlink()
    with pytest.raises(TlsMistake, match=str(files[which])):
        Tls(**files)


@pytest.mark.parametrize("which", ["ca", "certificate", "key"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_file_is_named(files: dict[str, Path], which: str, content: bytes) -> None:
    files[which].write_bytes(content)
    with pytest.raises(TlsMistake, match=str(files[which])):
        Tls(**files)


def test_a_key_of_another_certificate_is_refused(files: dict[str, Path]) -> None:
    authority().bait("bait-h2")
    shutil.copy2(authority().directory / "bait-bait-h2.key", files["key"])
    with pytest.raises(TlsMistake, match="does not belong"):
        Tls(**files)


def certificate_shown(tls: Tls) -> int:
    certificate = tls.serverConnectionForTLS(None).get_certificate(as_cryptography=True)
    assert certificate is not None
    return certificate.serial_number


def changed(path: Path, content: bytes) -> None:
    """Write so that the change is seen even within one tick of the file system's clock."""
    path.write_bytes(content)
    stamp = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(stamp, stamp))


def renewed(tmp_path: Path, name: str) -> bytes:
    """A second certificate for the same key, from the same authority."""
    other = Authority(tmp_path / "again")
    for path in authority().directory.iterdir():
        shutil.copy2(path, other.directory / path.name)
    (other.directory / f"bait-{name}.pem").unlink()
    other.bait(name)
    return (other.directory / f"bait-{name}.pem").read_bytes()


def test_a_renewed_certificate_is_shown_without_a_restart(files: dict[str, Path], tmp_path: Path) -> None:
    tls = Tls(**files)
    before = certificate_shown(tls)
    new = renewed(tmp_path, "bait-h1")
    changed(files["certificate"], new)
    assert certificate_shown(tls) == x509.load_pem_x509_certificate(new).serial_number != before


@pytest.mark.parametrize("content", [b"rubbish", None])
def test_while_new_files_are_unusable_the_old_ones_serve(files: dict[str, Path], content: bytes | None) -> None:
    tls = Tls(**files)
    before = certificate_shown(tls)
    if content is None:
        files["certificate"].unlink()
    else:
        changed(files["certificate"], content)
    assert certificate_shown(tls) == before


def test_a_daemon_does_not_become_somebody_else(files: dict[str, Path]) -> None:
    tls = Tls(**files)
    before = certificate_shown(tls)
    authority().bait("bait-h2")
    for which, suffix in (("certificate", "pem"), ("key", "key")):
        changed(files[which], (authority().directory / f"bait-bait-h2.{suffix}").read_bytes())
    assert certificate_shown(tls) == before
    assert tls.identity.name == "bait-h1"
