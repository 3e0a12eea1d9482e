"""Looking a record up by another word than its key finds what looking at each would find."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wnod.indexed import Indexed

Deeds = st.lists(
    st.tuples(st.sampled_from(("put", "drop", "pop", "clear")), st.integers(0, 5), st.integers(0, 3)), max_size=40
)


@given(Deeds)
def test_the_index_says_what_looking_at_each_record_says(deeds: list[tuple[str, int, int]]) -> None:
    indexed: Indexed[int, int] = Indexed(parity=lambda value: value % 2, half=lambda value: value // 2)
    plain: dict[int, int] = {}
    for deed, key, value in deeds:
        if deed == "put":
            indexed[key] = plain[key] = value
        elif deed == "drop" and key in plain:
            del indexed[key], plain[key]
        elif deed == "pop":
            assert indexed.pop(key, None) == plain.pop(key, None)
        elif deed == "clear":
            indexed.clear()
            plain.clear()
    assert indexed == plain
    for word in range(2):
        assert sorted(indexed.where("parity", word)) == sorted(v for v in plain.values() if v % 2 == word)
        assert sorted(indexed.where("half", word)) == sorted(v for v in plain.values() if v // 2 == word)
        one = indexed.one("half", word)
        assert one in plain.values() if one is not None else not indexed.where("half", word)


def test_what_would_leave_the_index_behind_is_refused() -> None:
    indexed: Indexed[int, int] = Indexed(itself=lambda value: value)
    with pytest.raises(TypeError, match="item assignment"):
        indexed.update({1: 1})
    with pytest.raises(TypeError, match="item assignment"):
        indexed.setdefault(1, 1)
    with pytest.raises(KeyError):
        indexed.pop(1)
