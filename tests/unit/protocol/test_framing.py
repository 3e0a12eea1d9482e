"""Frames: the chunks make no difference, memory stays bounded, and nothing but TheirMistake comes out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import OurMistake, TheirMistake
from protocol.framing import FIRST_LENGTH, HEADER, MAX_LENGTH, Frames, frame

BODIES = st.lists(st.binary(min_size=1, max_size=60), max_size=8)


def fed(frames: Frames, stream: bytes, cuts: list[int]) -> tuple[list[bytes], str | None]:
    """What comes out of a stream that arrives in these chunks: bodies, and the mistake if there is one."""
    bodies: list[bytes] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    try:
        for start, end in itertools.pairwise(edges):
            for body in frames.feed(stream[start:end]):
                bodies.append(body)
    except TheirMistake as e:
        return bodies, str(e)
    return bodies, None


@given(BODIES, st.lists(st.integers(0, 1000)))
def test_any_chunks_give_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    frames = Frames()
    assert fed(frames, b"".join(map(frame, bodies)), cuts) == (bodies, None)
    assert len(frames) == 0


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_any_chunks_of_garbage_give_the_same_result(stream: bytes, cuts: list[int]) -> None:
    assert fed(Frames(first=8, limit=40), stream, cuts) == fed(Frames(first=8, limit=40), stream, [])


@given(st.lists(st.binary(max_size=50), max_size=40))
def test_no_more_than_one_frame_is_held(chunks: list[bytes]) -> None:
    frames = Frames(first=20, limit=30)
    for chunk in chunks:
        fed(frames, chunk, [])
        assert len(frames) < HEADER + 30


@given(BODIES, st.integers(41, 2**32 - 1) | st.just(0))
def test_good_frames_before_a_bad_length_are_kept(bodies: list[bytes], length: int) -> None:
    bodies = [body[:40] for body in bodies]
    stream = b"".join(map(frame, bodies)) + length.to_bytes(4, "big")
    got, mistake = fed(Frames(first=40, limit=40), stream, [])
    assert got == bodies
    assert mistake is not None
    assert str(length) in mistake


def test_after_a_mistake_nothing_is_read_or_held_any_more() -> None:
    frames = Frames()
    for said in (bytes(4), frame(b"good"), b"x" * 1000):
        with pytest.raises(TheirMistake):
            list(frames.feed(said))
    assert len(frames) == 0


def test_a_bad_length_is_refused_before_its_body_arrives() -> None:
    with pytest.raises(TheirMistake):
        list(Frames(limit=MAX_LENGTH, first=MAX_LENGTH).feed((MAX_LENGTH + 1).to_bytes(4, "big")))


def test_the_first_frame_has_its_own_limit() -> None:
    long = frame(b"x" * (FIRST_LENGTH + 1))
    assert list(Frames().feed(frame(b"{}") + long)) == [b"{}", b"x" * (FIRST_LENGTH + 1)]
    with pytest.raises(TheirMistake):
        list(Frames().feed(long))


def test_the_largest_frame_passes() -> None:
    body = b"x" * MAX_LENGTH
    assert list(Frames(first=MAX_LENGTH).feed(frame(body))) == [body]


@pytest.mark.parametrize("body", [b"", b"x" * (MAX_LENGTH + 1)])
def test_a_body_that_fits_no_frame_is_our_mistake(body: bytes) -> None:
    with pytest.raises(OurMistake):
        frame(body)
