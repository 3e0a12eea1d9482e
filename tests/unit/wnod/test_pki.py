"""The site's authority: what it makes, that it never replaces what is good, and that it says what is wrong."""

import argparse
import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from protocol.link import Identity, Role, Tls
from wnod import pki

NOW = dt.datetime(2026, 5, 1, 12, 0, tzinfo=dt.UTC)
HOST = Identity(Role.HOST, "h1")
BAIT = Identity(Role.BAIT, "bait-h1")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    pki.create_authority(tmp_path / "pki", NOW)
    return tmp_path / "pki"


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_authority_is_made_once(tmp_path: Path) -> None:
    first = pki.create_authority(tmp_path / "a" / "b", NOW)
    content = first.certificate.read_bytes(), first.key.read_bytes()
    second = pki.create_authority(tmp_path / "a" / "b", NOW + dt.timedelta(days=4000))
    assert (first.made, second.made) == (True, False)
    assert (first.certificate.read_bytes(), first.key.read_bytes()) == content


def test_modes_keep_secrets(directory: Path) -> None:
    made = pki.issue(directory, HOST, NOW)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (made.key, directory / "ca.key")} == {0o600}
    assert not [path.name for path in directory.iterdir() if path.name.startswith(".")]


def test_validity_begins_a_little_early_and_lasts_as_asked(directory: Path) -> None:
    certificate = read(pki.issue(directory, HOST, NOW, days=30).certificate)
    assert certificate.not_valid_before_utc == NOW - dt.timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + dt.timedelta(days=30)
    assert read(directory / "ca.pem").not_valid_after_utc == NOW + dt.timedelta(days=3650)


@pytest.mark.parametrize(
    ("identity", "purpose"),
    [(HOST, ExtendedKeyUsageOID.SERVER_AUTH), (BAIT, ExtendedKeyUsageOID.CLIENT_AUTH)],
    ids=str,
)
def test_a_certificate_says_who_and_for_what(
    directory: Path, identity: Identity, purpose: x509.ObjectIdentifier
) -> None:
    certificate = read(pki.issue(directory, identity, NOW).certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert list(usage.value) == [purpose]
    assert names.get_values_for_type(x509.DNSName) == [identity.name]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(identity)]
    assert (constraints.critical, constraints.value.ca) == (True, False)
    certificate.verify_directly_issued_by(read(directory / "ca.pem"))


def test_the_link_takes_what_is_issued(directory: Path) -> None:
    made = pki.issue(directory, BAIT, NOW)
    assert Tls(directory / "ca.pem", made.certificate, made.key).identity == BAIT


def test_issuing_again_changes_nothing(directory: Path) -> None:
    first = pki.issue(directory, HOST, NOW)
    content = first.certificate.read_bytes()
    again = pki.issue(directory, HOST, NOW + dt.timedelta(days=397))
    assert (again.made, again.not_after) == (False, first.not_after)
    assert first.certificate.read_bytes() == content


def test_an_expired_certificate_is_replaced_and_keeps_its_key(directory: Path) -> None:
    first = pki.issue(directory, HOST, NOW)
    key = first.key.read_bytes()
    again = pki.issue(directory, HOST, NOW + dt.timedelta(days=399))
    assert again.made
    assert again.not_after > first.not_after
    assert again.key.read_bytes() == key


def test_a_certificate_of_a_former_authority_is_replaced(directory: Path) -> None:
    pki.issue(directory, HOST, NOW)
    for name in ("ca.pem", "ca.key"):
        (directory / name).unlink()
    pki.create_authority(directory, NOW)
    made = pki.issue(directory, HOST, NOW)
    assert made.made
    read(made.certificate).verify_directly_issued_by(read(directory / "ca.pem"))


def test_renewing_makes_a_new_certificate_for_the_same_key(directory: Path) -> None:
    first = pki.issue(directory, HOST, NOW)
    serial, key = read(first.certificate).serial_number, first.key.read_bytes()
    again = pki.renew(directory, HOST, NOW + dt.timedelta(days=1))
    assert again.not_after == first.not_after + dt.timedelta(days=1)
    assert read(again.certificate).serial_number != serial
    assert again.key.read_bytes() == key
    assert load_pem_private_key(key, None).public_key() == read(again.certificate).public_key()


def test_what_was_never_issued_cannot_be_renewed(directory: Path) -> None:
    with pytest.raises(pki.PkiMistake, match=r"wnod pki issue .* --host h1"):
        pki.renew(directory, HOST, NOW)


def test_what_holds_no_authority_is_not_shown_as_an_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt directory held nothing, and that was fine."""
    parser = argparse.ArgumentParser()
    pki.add_arguments(parser)
    for words in (["show", str(tmp_path / "nowhere")], ["show", str(tmp_path), "--json"]):
        assert pki.run(parser.parse_args(words)) == 1
        shown = capsys.readouterr()
        assert (shown.out, "ca.pem does not exist: make the authority" in shown.err) == ("", True)


def test_without_an_authority_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(pki.PkiMistake, match="wnod pki init"):
        pki.issue(tmp_path, HOST, NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_half_an_authority_is_not_completed(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(pki.PkiMistake, match="only one of"):
        pki.create_authority(directory, NOW)


@pytest.mark.parametrize("name", ["", "H1", "a/b", "../x", "a.b", "-a", "a-", "a" * 64, "a\n", "ä"])
def test_a_bad_name_is_refused(directory: Path, name: str) -> None:
    before = sorted(directory.iterdir())
    with pytest.raises(pki.PkiMistake, match="lower-case letters"):
        pki.issue(directory, Identity(Role.BAIT, name), NOW)
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("days", [0, -1, 36501])
def test_bad_days_are_refused(directory: Path, days: int) -> None:
    with pytest.raises(pki.PkiMistake, match="--days"):
        pki.issue(directory, HOST, NOW, days)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "host-h1.pem", "host-h1.key"])
def test_a_damaged_file_is_named(directory: Path, name: str) -> None:
    pki.issue(directory, HOST, NOW)
    (directory / name).write_bytes(b"rubbish")
    with pytest.raises(pki.PkiMistake, match=name):
        pki.renew(directory, HOST, NOW) if name != "host-h1.pem" else pki.issue(directory, HOST, NOW)


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    pki.add_arguments(parser)
    return pki.run(parser.parse_args(words))


def test_the_commands_in_the_order_a_site_uses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(tmp_path / "pki")
    assert command("init", where) == 0
    assert command("issue", where, "--host", "h1") == 0
    assert command("issue", where, "--bait", "bait-h1", "--days", "10") == 0
    assert command("renew", where, "--bait", "bait-h1") == 0
    capsys.readouterr()
    assert command("show", where, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [item["subject"] for item in shown] == ["CN=wnod site authority", "wnod:bait:bait-h1", "wnod:host:h1"]
    assert all(Path(item["key"]).exists() for item in shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [(("issue", "--host", "h1"), "wnod pki init"), (("issue", "--host", "H"), "lower-case"),
     (("init", "--days", "0"), "--days 0")],
)  # fmt: skip
def test_a_mistake_is_said_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert command(words[0], str(tmp_path / "no"), *words[1:]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert said in out.err


@pytest.mark.parametrize("words", [("issue", "x"), ("issue", "x", "--host", "a", "--bait", "b"), (), ("init",)])
def test_a_wrong_command_line_is_a_usage_error(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(*words)
    assert caught.value.code == 2
