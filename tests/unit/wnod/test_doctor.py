"""The doctor: each check sees the good case and the bad one, and every bad finding names a remedy."""

import datetime as dt
import json
import os
import pwd
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.ids import Shape
from protocol.tls import Identity, Role
from tests.fakes.site import CONFIG
from wnod.cli import main
from wnod.commands.doctor import print_findings
from wnod.config import BaitLrms, Environment, HypervisorConfig, TlsFiles
from wnod.doctor import _run, certificates, clock, examine, hypervisor, images, journals, network, slurm
from wnod.doctor.finding import CommandFailed, Finding, Verdict, output_of
from wnod.journal import Journal
from wnod.pki import create_authority, issue

NOW = dt.datetime.now(dt.UTC)
OK, WARN, BAD, SKIP = Verdict.OK, Verdict.WARN, Verdict.BAD, Verdict.SKIP


def only(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert isinstance(finding, Finding)
    if finding.verdict in (WARN, BAD):
        assert finding.remedy, finding
    return finding


def says(text: str) -> Callable[[Sequence[str]], str]:
    return lambda argv: text


def fails(text: str) -> Callable[[Sequence[str]], str]:
    def ask(argv: Sequence[str]) -> str:
        raise CommandFailed(text)

    return ask


# --- commands --------------------------------------------------------------------------------------------------


def test_commands_that_fail_say_how() -> None:
    assert output_of(["echo", "hello; there"]) == "hello; there\n"
    with pytest.raises(CommandFailed, match="not installed"):
        output_of(["wnod-no-such-command"])
    with pytest.raises(CommandFailed, match="exit code 3: why"):
        output_of(["sh", "-c", "echo first >&2; echo why >&2; exit 3"])
    with pytest.raises(CommandFailed, match="no answer in 0 s"):
        output_of(["sleep", "9"], limit_s=0.05)


# --- clock, hypervisor ------------------------------------------------------------------------------------------


def test_clock() -> None:
    assert only(clock.check_clock(says("yes\n"))).verdict is OK
    assert only(clock.check_clock(says("no\n"))).verdict is WARN
    assert only(clock.check_clock(fails("not installed"))).verdict is SKIP


QEMU = HypervisorConfig(bridge="br0")


def libvirt(version: int, capabilities: str) -> Callable[[Sequence[str]], str]:
    return says(json.dumps({"libvirt": version, "hypervisor": 7002000, "kind": "QEMU", "capabilities": capabilities}))


def test_libvirt() -> None:
    good = "<host><secmodel>\n  <model>apparmor</model></secmodel><secmodel><model>dac</model></secmodel></host>"
    answer, separation = hypervisor.check_libvirt(QEMU, libvirt(9_000_000, good))
    assert (answer.verdict, answer.text) == (OK, "qemu:///system: libvirt 9.0.0, QEMU 7.2.0")
    assert (separation.verdict, separation.text) == (OK, "security drivers: apparmor, dac")
    old, alone = hypervisor.check_libvirt(QEMU, libvirt(6_000_000, "<secmodel><model>dac</model></secmodel>"))
    assert (old.verdict, alone.verdict) == (BAD, WARN)
    absent = only(hypervisor.check_libvirt(QEMU, fails("no answer in 20 s")))
    assert absent.verdict is BAD
    assert "no answer in 20 s" in absent.text


def test_libvirts_own_test_driver_is_asked_for_real() -> None:
    config = msgspec.structs.replace(QEMU, uri="test:///default")
    answer = next(iter(hypervisor.check_libvirt(config)))
    assert (answer.verdict, "TEST" in answer.text) == (OK, True)
    wrong = msgspec.structs.replace(QEMU, uri="nothing:///here")
    assert only(hypervisor.check_libvirt(wrong)).verdict is BAD


def test_virtlogd(tmp_path: Path) -> None:
    root = f"{tmp_path}/"
    (tmp_path / "etc" / "libvirt").mkdir(parents=True)
    (tmp_path / "run" / "libvirt").mkdir(parents=True)
    assert only(hypervisor.check_virtlogd(QEMU, root)).verdict is SKIP
    conf = tmp_path / "etc" / "libvirt" / "qemu.conf"
    conf.write_text('#stdio_handler = "file"\n')
    assert only(hypervisor.check_virtlogd(QEMU, root)).verdict is BAD
    conf.write_text('stdio_handler = "file"\n')
    assert only(hypervisor.check_virtlogd(QEMU, root)).verdict is OK
    conf.unlink()
    (tmp_path / "run" / "libvirt" / "virtlogd-sock").touch()
    assert only(hypervisor.check_virtlogd(QEMU, root)).verdict is OK
    assert not list(hypervisor.check_virtlogd(msgspec.structs.replace(QEMU, uri="test:///default"), root))


def test_emulator() -> None:
    assert only(hypervisor.check_emulator(msgspec.structs.replace(QEMU, emulator="/bin/true"))).verdict is OK
    assert only(hypervisor.check_emulator(msgspec.structs.replace(QEMU, emulator="/no/qemu"))).verdict is BAD


# --- Slurm --------------------------------------------------------------------------------------------------------

SLURM = BaitLrms(cluster="site")
SETTINGS = """\
Configuration data as of now
ClusterName             = site
JobSubmitPlugins        = lua
MaxNodeCount            = 64
RequeueExit             = 198
RequeueExitHold         = 199
SchedulerParameters     = bf_interval=1,nohold_on_prolog_fail
"""


@pytest.mark.parametrize(
    ("partitions", "select", "verdict"),
    [
        ("PartitionName=batch LLN=YES Nodes=b1,b2 TotalNodes=2\nPartitionName=vwn LLN=NO TotalNodes=2", "CR_CPU", OK),
        ("PartitionName=batch LLN=NO Nodes=b1,b2 TotalNodes=2", "CR_CPU_MEMORY,CR_LLN", OK),
        ("PartitionName=batch LLN=NO Nodes=b1 TotalNodes=1", "CR_CPU", OK),
        ("PartitionName=batch LLN=NO Nodes=b1,b2 TotalNodes=2", "CR_CPU_MEMORY", WARN),
    ],
)
def test_a_partition_that_fills_one_bait_before_the_next_is_told(
    partitions: str, select: str, verdict: Verdict
) -> None:
    answers = {
        "node": "NodeName=b1 State=IDLE Partitions=batch,long \n",
        "partition": partitions,
        "config": f"SelectTypeParameters    = {select}\n",
    }
    finding = only(slurm.check_spread("b1", SLURM, lambda argv: answers[argv[argv.index("show") + 1]]))
    assert finding.verdict is verdict
    assert verdict is OK or ("batch" in finding.text and "LLN=YES" in finding.remedy)
    assert not list(slurm.check_spread("b1", SLURM, fails("scontrol: exit code 1")))


def test_slurm_is_set_up() -> None:
    asked: list[Sequence[str]] = []
    finding = only(slurm.check_settings(SLURM, lambda argv: asked.append(argv) or SETTINGS))  # type: ignore[func-returns-value]
    assert (finding.verdict, asked) == (OK, [["scontrol", "show", "config"]])
    elsewhere = msgspec.structs.replace(SLURM, commands="/opt/slurm/bin")
    only(slurm.check_settings(elsewhere, lambda argv: asked.append(argv) or SETTINGS))  # type: ignore[func-returns-value]
    assert asked[1][0] == "/opt/slurm/bin/scontrol"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("= site", "= other", "ClusterName"),
        ("= 199", "= 19,1990", "RequeueExitHold=199"),
        ("RequeueExitHold         = 199\n", "", "RequeueExitHold=199"),
        ("= 198", "= (null)", "RequeueExit=198"),
        ("= 198", "= 190-197,199-200", "RequeueExit=198"),
        ("RequeueExit             = 198\n", "", "RequeueExit=198"),
        ("= 64", "= 0", "MaxNodeCount"),
    ],
)
def test_slurm_is_not_set_up(old: str, new: str, words: str) -> None:
    finding = only(slurm.check_settings(SLURM, says(SETTINGS.replace(old, new))))
    assert finding.verdict is BAD
    assert words in finding.remedy


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("= lua", "= (null)", "job_submit.lua"),
        ("= lua", "= all_partitions,lua5", "job_submit.lua"),
        (",nohold_on_prolog_fail", "", "nohold_on_prolog_fail"),
    ],
)
def test_slurm_lets_happen_what_it_should_not(old: str, new: str, words: str) -> None:
    finding = only(slurm.check_settings(SLURM, says(SETTINGS.replace(old, new))))
    assert finding.verdict is WARN
    assert words in finding.remedy


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ("(null)", OK),
        ("socket=/run/munge", OK),
        ("cred_expire=10", OK),
        ("cred_expire=9", WARN),
        ("a=1,cred_expire=5", WARN),
    ],
)
def test_a_requeued_job_waits_for_longer_than_its_bait_looks_away(info: str, verdict: Verdict) -> None:
    finding = only(slurm.check_settings(SLURM, says(f"{SETTINGS}AuthInfo                = {info}\n")))
    assert finding.verdict is verdict
    assert (verdict is OK) == ("lrms.running_s" not in finding.remedy)


@pytest.mark.parametrize("codes", ["100,198", "1-2,190-198", "190-200"])
def test_codes_may_be_a_range(codes: str) -> None:
    assert only(slurm.check_settings(SLURM, says(SETTINGS.replace("= 198", f"= {codes}")))).verdict is OK


@pytest.mark.parametrize(
    ("timeout", "verdict"), [("300 sec", OK), ("0 sec", OK), ("225 sec", WARN), ("301 sec", BAD), ("120 sec", BAD)]
)
def test_slurm_gives_a_silent_node_up_later_than_its_vms_are_paused(timeout: str, verdict: Verdict) -> None:
    ask = says(f"{SETTINGS}SlurmdTimeout           = {timeout}\n")
    assert only(slurm.check_fence(CONFIG, SLURM, ask)).verdict is verdict


def test_slurm_does_not_answer() -> None:
    assert only(slurm.check_settings(SLURM, fails("scontrol: exit code 1"))).verdict is BAD


def test_slurm_commands(tmp_path: Path) -> None:
    here = msgspec.structs.replace(SLURM, commands=str(tmp_path))
    (tmp_path / "scontrol").touch(mode=0o755)
    finding = only(slurm.check_commands(here))
    assert (finding.verdict, "squeue, sinfo" in finding.text) == (BAD, True)
    for name in slurm.COMMANDS:
        (tmp_path / name).touch(mode=0o755)
    assert only(slurm.check_commands(here)).verdict is OK


# --- network ---------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_and_one_that_is_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = f"127.0.0.1:{listening.getsockname()[1]}"
        daemon, port = network.check_ports("bait", str(tmp_path), (taken, None))
        assert (daemon.verdict, port.verdict) == (WARN, BAD)
        assert "ss -ltnp" in port.remedy
        assert only(network.check_reachable("hostmaster", taken)).verdict is OK
    daemon, port = network.check_ports("bait", str(tmp_path), (taken,))
    assert port.verdict is OK
    assert only(network.check_reachable("hostmaster", taken)).verdict is BAD


def test_bridge(tmp_path: Path) -> None:
    (tmp_path / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    verdicts = [only(network.check_bridge(name, str(tmp_path))).verdict for name in ("br0", "eth0", "nothing")]
    assert verdicts == [OK, BAD, BAD]


# --- certificates, journal, images ----------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    create_authority(tmp_path, NOW)
    made = issue(tmp_path, Identity(Role.BAIT, "b1"), NOW, days=100)
    return TlsFiles(ca=str(tmp_path / "ca.pem"), certificate=str(made.certificate), key=str(made.key))


def certificate(tls: TlsFiles, name: str = "b1", days: float = 0) -> Finding:
    *_, last = certificates.check_tls("bait", name, tls, NOW + dt.timedelta(days=days))
    return last


def test_a_certificate_that_is_good_ending_ended_and_not_begun(tls: TlsFiles) -> None:
    assert certificate(tls).verdict is OK
    assert (certificate(tls, days=80).verdict, "renew" in certificate(tls, days=80).remedy) == (WARN, True)
    assert (certificate(tls, days=101).verdict, certificate(tls, days=-2).verdict) == (BAD, BAD)


def test_a_certificate_of_somebody_else(tls: TlsFiles, tmp_path: Path) -> None:
    finding = certificate(tls, name="b2")
    assert (finding.verdict, "b2" in finding.remedy) == (BAD, True)
    (tmp_path / "other").mkdir()
    create_authority(tmp_path / "other", NOW)
    foreign = msgspec.structs.replace(tls, ca=str(tmp_path / "other" / "ca.pem"))
    assert (certificate(foreign).verdict, "not from the CA" in certificate(foreign).text) == (BAD, True)


def test_a_missing_or_broken_certificate(tls: TlsFiles) -> None:
    Path(tls.certificate).write_text("no certificate")
    assert certificate(tls).verdict is BAD
    os.unlink(tls.certificate)
    assert certificate(tls).verdict is BAD


def test_a_secret_that_its_daemon_cannot_read(tls: TlsFiles, tmp_path: Path) -> None:
    """Root, who asks, can read it; wnod-host cannot, and no guest gets its key."""
    me, other = (
        pwd.getpwuid(os.geteuid()),
        next(user for user in pwd.getpwall() if user.pw_uid not in (0, os.geteuid())),
    )
    secrets = {"tls.key": tls.key, "munge key": f"{tls.key}.none"}

    def found(ask: Any, state: str = "/none") -> list[Finding]:
        return list(certificates.check_readers(secrets, "wnod-hostmaster", state, ask))

    (finding,) = found(says(f"{other.pw_name}\n"))
    assert (finding.name, finding.verdict) == ("tls.key", BAD)
    assert f"belongs to {me.pw_name}, the daemon runs as {other.pw_name}" in finding.text
    assert finding.remedy == f"chown {other.pw_name} {tls.key}"
    assert found(says(f"{me.pw_name}\n")) == []
    for ask in (fails("systemctl: not installed"), says("\n"), says("no-such-user\n")):
        assert found(ask) == [], "nobody knows who it will be"
        assert found(ask, str(tmp_path)) == [], "whose the state directory is"


def test_a_secret_that_others_can_read(tls: TlsFiles) -> None:
    assert only(certificates.check_secret("key", tls.key)).verdict is OK
    os.chmod(tls.key, 0o640)
    finding = only(certificates.check_secret("key", tls.key))
    assert (finding.verdict, finding.remedy) == (BAD, f"chmod 0600 {tls.key}")
    assert only(certificates.check_secret("key", f"{tls.key}.none")).verdict is BAD


def test_journal(tmp_path: Path) -> None:
    assert only(journals.check_journal(str(tmp_path), "bait", "b1")).verdict is WARN
    Journal(str(tmp_path / journals.FILE), "bait", "b1").close()
    assert only(journals.check_journal(str(tmp_path), "bait", "b1")).verdict is OK
    assert only(journals.check_journal(str(tmp_path), "bait", "b2")).verdict is BAD
    (tmp_path / journals.FILE).write_bytes(b"damaged" * 1000)
    finding = only(journals.check_journal(str(tmp_path), "bait", "b1"))
    assert (finding.verdict, "troubleshoot" in finding.remedy) == (BAD, True)


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    shape = Shape(cpus=1, memory_mib=64, disk_mib=16)
    environment = Environment(image=str(tmp_path), sha256="ab" * 32, largest=shape, default=shape)
    finding = only(images.check_image("debian12", environment))
    assert (finding.verdict, finding.name) == (BAD, "image debian12")


# --- all together -----------------------------------------------------------------------------------------------------


def test_a_check_that_fails_is_a_finding_and_the_others_go_on() -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("surprise")

    first, second = _run([("one", broken), ("two", lambda: [Finding("two", OK, "fine")])])
    assert (first.verdict, "surprise" in first.text, bool(first.remedy)) == (BAD, True, True)
    assert second.verdict is OK


def test_nothing_configured_is_said(tmp_path: Path) -> None:
    assert [f.verdict for f in examine(str(tmp_path)) if f.name == "config"] == [BAD]


def test_mistakes_of_configuration_are_findings(tmp_path: Path) -> None:
    (tmp_path / "bait.yaml").write_text("bait: B1\n")
    texts = [f.text for f in examine(str(tmp_path)) if f.name == "config bait"]
    assert len(texts) == 4
    assert any("did you mean 'b1'?" in text for text in texts)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--etc", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"name", "verdict", "text", "remedy"} == set(found[0])
    print_findings([Finding("a\x1b", BAD, "b\n", "c"), Finding("d", OK, "e", "never shown")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["VERDICT  CHECK  FOUND", "bad      a\\x1b  b\\n", "ok       d      e", "-> a\\x1b: c"]
