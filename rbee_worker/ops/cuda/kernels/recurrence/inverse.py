"""The inverse of a unit lower triangular matrix of 64 rows, for delta rules by chunks.

Blocks of 16 on the diagonal by forward substitution, those below from them: with the matrix
1 + A, the inverse's block (i, j) is -(1 + A)_ii^-1 times the sum of A_ik T_kj over j <= k < i.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _substituted(found, below, k):
    """Row k of an inverse, of which the rows before are there: found float32 [16, 16]."""
    at = tl.arange(0, 16) == k
    row = tl.sum(tl.where(at[:, None], below, 0.0), 0)
    new = tl.sum(row[:, None] * found, 0)
    return found - tl.where(at[:, None], new[None, :], 0.0)


@triton.jit
def small_inverses(a, b, c, d):
    """(1 + a)^-1 for a float32 [16, 16] and three more; only what is below their diagonals
    counts."""
    i = tl.arange(0, 16)
    below = i[:, None] > i[None, :]
    a, b = tl.where(below, a, 0.0), tl.where(below, b, 0.0)
    c, d = tl.where(below, c, 0.0), tl.where(below, d, 0.0)
    one = (i[:, None] == i[None, :]).to(tl.float32)
    of_a, of_b, of_c, of_d = one, one, one, one
    for k in range(1, 16):
        of_a, of_b = _substituted(of_a, a, k), _substituted(of_b, b, k)
        of_c, of_d = _substituted(of_c, c, k), _substituted(of_d, d, k)
    return of_a, of_b, of_c, of_d


@triton.jit
def product(a, b):
    """a b of float32 [16, 16], exactly."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def write_inverse(at, a, a10, a20, a21, a30, a31, a32, a1, a2, a3, STRIDE: tl.constexpr):
    """Store (1 + A)^-1 at `at`, whose rows lie STRIDE apart, from the blocks of A; a, a1, a2, a3:
    those on the diagonal. Blocks above it are not touched."""
    t0, t1, t2, t3 = small_inverses(a, a1, a2, a3)
    t10 = -product(t1, product(a10, t0))
    t21 = -product(t2, product(a21, t1))
    t32 = -product(t3, product(a32, t2))
    t20 = -product(t2, product(a20, t0) + product(a21, t10))
    t31 = -product(t3, product(a31, t1) + product(a32, t21))
    t30 = -product(t3, product(a30, t0) + product(a31, t10) + product(a32, t20))
    i = tl.arange(0, 16)
    place = at + i[:, None] * STRIDE + i[None, :]
    tl.store(place, t0)
    tl.store(place + 16 * STRIDE, t10)
    tl.store(place + 16 * STRIDE + 16, t1)
    tl.store(place + 32 * STRIDE, t20)
    tl.store(place + 32 * STRIDE + 16, t21)
    tl.store(place + 32 * STRIDE + 32, t2)
    tl.store(place + 48 * STRIDE, t30)
    tl.store(place + 48 * STRIDE + 16, t31)
    tl.store(place + 48 * STRIDE + 32, t32)
    tl.store(place + 48 * STRIDE + 48, t3)
