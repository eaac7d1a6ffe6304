"""The counter generator against published vectors and a scalar implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_worker.engine.philox import philox4x32, uniforms

MASK = 0xFFFFFFFF
word = st.integers(0, MASK)

# Known-answer vectors that the authors of the generator publish (Random123, philox 4x32 10).
VECTORS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (MASK, MASK, MASK, MASK),
        (MASK, MASK),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.uint64) for value in values)


def scalar_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """The paper's round, ten times, in plain integers."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (right >> 32) ^ b ^ k, right & MASK, (left >> 32) ^ d ^ m, left & MASK
        k, m = (k + 0x9E3779B9) & MASK, (m + 0xBB67AE85) & MASK
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "answer"), VECTORS)
def test_known_answers(counter, key, answer):
    assert tuple(int(x[0]) for x in philox4x32(words(*counter), words(*key))) == answer
    assert scalar_philox(counter, key) == answer


@given(st.tuples(word, word, word, word), st.tuples(word, word))
def test_words_equal_plain_integers(counter, key):
    got = tuple(int(x[0]) for x in philox4x32(words(*counter), words(*key)))
    assert got == scalar_philox(counter, key)


@given(st.integers(0, 2**64 - 1), word, word, st.integers(0, 7))
def test_a_uniform_is_53_bits_of_its_counter(seed, choice, index, stream):
    a, b, _, _ = scalar_philox((index, choice, stream, 0), (seed & MASK, seed >> 32))
    expected = ((a >> 5) * 2**26 + (b >> 6)) / 2**53
    assert uniforms([seed], [choice], [index], stream)[0] == expected
    assert 0 <= expected < 1


def test_rows_do_not_depend_on_their_neighbours():
    seeds, choices, indices = [7, 2**64 - 1, 7], [0, 3, 1], [5, 0, 2**31]
    together = uniforms(seeds, choices, indices)
    alone = [uniforms([s], [c], [i])[0] for s, c, i in zip(seeds, choices, indices, strict=True)]
    assert together.tolist() == alone
    grid = uniforms(np.array([[1], [2]], dtype=np.uint64), 0, np.arange(4))
    assert grid.shape == (2, 4)
    assert grid[1, 3] == uniforms([2], [0], [3])[0]


def test_every_part_of_the_key_matters():
    base = uniforms([1], [0], [0])[0]
    others = [
        uniforms([2], [0], [0])[0],
        uniforms([1 + 2**32], [0], [0])[0],
        uniforms([1], [1], [0])[0],
        uniforms([1], [0], [1])[0],
        uniforms([1], [0], [0], stream=1)[0],
    ]
    assert len({base, *others}) == 6


def test_numbers_are_spread_evenly_and_do_not_follow_each_other():
    n = 100_000
    u = uniforms(np.uint64(12345), 0, np.arange(n))
    counts = np.bincount((u * 100).astype(int), minlength=100)
    chi_square = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert 58 < chi_square < 155  # 99 degrees of freedom: 0.05 % on either side
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.015
    across = uniforms(np.arange(n, dtype=np.uint64), 0, 0)  # neighbouring seeds
    assert abs(across.mean() - 0.5) < 0.004
    assert abs(np.corrcoef(across[:-1], across[1:])[0, 1]) < 0.015
