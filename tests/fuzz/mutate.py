"""Inputs that are almost right: good ones, damaged at random. Same seed, same inputs."""

import random
from collections.abc import Callable, Sequence

LONGEST = 16_384
_NUMBERS = (
    b"0",
    b"-1",
    b"1e9",
    b"9007199254740993",
    b"18446744073709551616",
    b"1" * 400,
    b"0.5",
    b"null",
    b"true",
    b"NaN",
)
_PIECES = (
    b"\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x00\x10\x00\x01", b"\xed\xa0\x80", b"\\ud800", b"\\u0000",
    b"\n", b" ", b"%", b"%ff", b'"', b"}", b"{", b"[" * 3000, b'{"a":' * 600, b"A" * 9000, b'"n":2,',
    b'"type":"error",',
)  # fmt: skip

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _flip(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 9) :]


def _repeat(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randrange(1, 200))
    return data[:end] + data[start:end] * rng.randrange(1, 4) + data[end:]


def _insert(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_PIECES) + data[at:]


def _number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    places = [n for n, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return data
    start = end = rng.choice(places)
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    return data[:start] + rng.choice(_NUMBERS) + data[end:]


def _splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _noise(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return rng.randbytes(rng.randrange(64))


def _same(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _cut,
    _drop,
    _repeat,
    _insert,
    _number,
    _number,
    _splice,
    _noise,
    _same,
)


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, damaged a few times."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        data = rng.choice(MUTATIONS)(rng, data, seeds)[:LONGEST]
    return data


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """The data in order, in as many chunks as a network might make of it."""
    edges = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 2, 5, 20))))
    return [data[start:end] for start, end in zip([0, *edges], [*edges, len(data)], strict=True)]
