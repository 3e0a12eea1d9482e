"""The design's table of crash points is covered: what it names is there."""

from pathlib import Path

import pytest

from tests.crash.points import points
from tests.crash.table import TABLE

ROOT = Path(__file__).resolve().parents[2]
NOT_BUILT = {30}


def test_all_35_rows_are_there() -> None:
    assert list(TABLE) == list(range(1, 36))
    assert {number for number, (_, tried) in TABLE.items() if not tried} == NOT_BUILT


@pytest.mark.parametrize("tried", sorted({tried for _, names in TABLE.values() for tried in names}))
def test_what_the_table_names_exists(tried: str) -> None:
    file, _, word = tried.partition("::")
    if word:
        assert word in (ROOT / file).read_text()
    else:
        assert tried in points()
