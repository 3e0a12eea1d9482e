"""The fixture that catches lost failures is itself tried: a guard that cannot bark is none."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "dropped": "from twisted.internet.defer import fail\ndef test_it(): fail(ValueError('lost'))\n",
    "dropped in a cycle": "from twisted.internet.defer import fail\ndef test_it():\n"
    "    lost = fail(ValueError('lost'))\n    lost.itself = lost\n",
    "dropped by a coroutine": "from twisted.internet.defer import Deferred\nasync def it(): raise ValueError('lost')\n"
    "def test_it():\n    lost = Deferred.fromCoroutine(it())\n    lost.itself = lost\n",
    "dropped by a callback": "from twisted.internet.defer import Deferred\n"
    "def test_it():\n    lost = Deferred()\n    lost.itself = lost\n"
    "    lost.addCallback(lambda _: 1 / 0)\n    lost.callback(None)\n",
    "dropped in a chain": "from twisted.internet.defer import Deferred, fail\n"
    "def test_it():\n    lost = Deferred()\n    lost.itself = lost\n"
    "    lost.addCallback(lambda _: fail(ValueError('lost')))\n    lost.callback(None)\n",
    "looked at": "from twisted.internet.defer import fail\ndef test_it():\n"
    "    seen = fail(ValueError('seen'))\n    seen.itself = seen\n    seen.addErrback(lambda _: None)\n",
    "logged": "from twisted.logger import Logger\ndef test_it():\n"
    "    try: 1 / 0\n    except ZeroDivisionError: Logger().failure('x')\n",
    "meant": "from twisted.internet.defer import fail\ndef test_it(logged_failures):\n"
    "    fail(ValueError('lost'))\n    assert len(logged_failures.flush(ValueError)) == 1\n",
    "fine": "def test_it(): pass\n",
}


FINE = ("meant", "fine", "looked at")


@pytest.mark.parametrize("case", CASES)
def test_a_lost_failure_fails_the_test(tmp_path: Path, case: str) -> None:
    here = Path(__file__).parent.parent
    (tmp_path / "conftest.py").write_text((here / "conftest.py").read_text())
    (tmp_path / "test_case.py").write_text(CASES[case])
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == (case not in FINE), done.stdout + done.stderr
