"""The unit files: understood by systemd, hardened, and in step with the exit codes and directories of the code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bait import close, starter
from wnod import service
from wnod.config import BaitConfig, HostmasterConfig

SYSTEMD = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
ROLES = {"hostmaster": HostmasterConfig, "bait": BaitConfig}
MOST_EXPOSURE = 1.5


def settings(role: str) -> dict[str, list[str]]:
    """Every setting of a unit file with its values, in order; comments left out."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / f"wnod-{role}.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_the_unit_runs_the_daemon_with_its_documented_file(role: str) -> None:
    unit = settings(role)
    assert unit["ExecStart"] == [f"/opt/wnod/bin/python -m {role} --config /etc/wnod/{role}.yaml"]
    assert unit["Type"] == ["notify"]
    assert (Path(SYSTEMD).parents[1] / role / "__main__.py").exists()


@pytest.mark.parametrize("role", ROLES)
def test_wrong_configuration_is_not_tried_again(role: str) -> None:
    codes = settings(role)["RestartPreventExitStatus"][0].split()
    assert codes == [str(service.USAGE), str(service.CONFIG)]


@pytest.mark.parametrize("role", ROLES)
def test_systemd_waits_longer_for_the_stop_than_we_do(role: str) -> None:
    assert int(settings(role)["TimeoutStopSec"][0]) > service.STOP_LIMIT_S


def test_whatever_ends_the_bait_its_node_is_closed_before_it_starts_again() -> None:
    (argv,) = settings("bait")["ExecStopPost"]
    assert argv == "-/opt/wnod/bin/python -m bait.close --config /etc/wnod/bait.yaml --json"  # "-": never a failed stop
    assert int(settings("bait")["TimeoutStopSec"][0]) > close.LIMIT_S + 10
    assert close.LIMIT_S + int(settings("bait")["RestartSec"][0]) + 5 < starter.LIMIT_S  # who waits is still served


@pytest.mark.parametrize("role", ROLES)
def test_the_directories_are_the_configurations_defaults(role: str) -> None:
    unit = settings(role)
    defaults = ROLES[role].__struct_defaults__
    assert f"/var/lib/{unit['StateDirectory'][0]}" in defaults
    assert f"/run/{unit['RuntimeDirectory'][0]}" in defaults


def test_a_stop_of_the_hostmaster_ends_nothing_but_itself() -> None:
    unit = settings("hostmaster")
    assert unit["KillMode"] == ["process"]
    assert not any("libvirt" in value for name in ("BindsTo", "PartOf", "Requires") for value in unit.get(name, []))


@pytest.mark.parametrize("role", ROLES)
def test_the_kernel_names_the_real_uid_of_who_connects(role: str) -> None:
    assert "PrivateUsers" not in settings(role)


def test_users_reach_the_baits_hook_and_qemu_its_overlay() -> None:
    assert settings("bait")["RuntimeDirectoryMode"] == ["0755"]
    assert settings("hostmaster")["RuntimeDirectoryMode"] == ["0711"]
    assert settings("hostmaster")["StateDirectoryMode"] == ["0711"]


needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@needs_systemd
@pytest.mark.parametrize("role", ROLES)
def test_systemd_finds_nothing_wrong(role: str, tmp_path: Path) -> None:
    text = (SYSTEMD / f"wnod-{role}.service").read_text()
    unit = tmp_path / f"wnod-{role}.service"
    unit.write_text(text.replace("/opt/wnod/bin/python", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if f"wnod-{role}" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
@pytest.mark.parametrize("role", ROLES)
def test_the_exposure_stays_small(role: str) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SYSTEMD / f"wnod-{role}.service")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSURE


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="systemd-sysusers is not installed")
def test_the_accounts_are_understood() -> None:
    argv = ["systemd-sysusers", "--dry-run", str(SYSTEMD / "wnod.sysusers.conf")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not a valid" not in done.stderr
    accounts = re.findall(r"^u (\S+)", (SYSTEMD / "wnod.sysusers.conf").read_text(), re.MULTILINE)
    assert accounts == ["wnod-host", "wnod-bait"]
