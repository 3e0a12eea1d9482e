"""The fixture that catches lost failures is itself tried: a guard that cannot bark is none."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "dropped": "from twisted.internet.defer import fail\ndef test_it(): fail(ValueError('lost'))\n",
    "logged": "from twisted.logger import Logger\ndef test_it():\n"
    "    try: 1 / 0\n    except ZeroDivisionError: Logger().failure('x')\n",
    "meant": "from twisted.internet.defer import fail\ndef test_it(logged_failures):\n"
    "    fail(ValueError('lost'))\n    assert len(logged_failures.flush(ValueError)) == 1\n",
    "fine": "def test_it(): pass\n",
}


@pytest.mark.parametrize(("case", "code"), [("dropped", 1), ("logged", 1), ("meant", 0), ("fine", 0)])
def test_a_lost_failure_fails_the_test(tmp_path: Path, case: str, code: int) -> None:
    here = Path(__file__).parent.parent
    (tmp_path / "conftest.py").write_text((here / "conftest.py").read_text())
    (tmp_path / "test_case.py").write_text(CASES[case])
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
