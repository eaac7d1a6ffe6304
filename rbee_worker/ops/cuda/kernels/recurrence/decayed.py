"""Products of the rows of a chunk, of which each state decays by itself: for RWKV by chunks.

    M_ts = sum over n of x_t[n] y_s[n] e^(sum over s < k < t of l_k[n]) for s < t, l_k[n] <= 0

Rows are taken 16 at a time (Yang et al. 2023, Gated Linear Attention, section 4.3): between two
blocks the decay is a product of one behind s to the end of its block, of whole blocks and of one
from the start of t's block on, each at most 1; in a block every pair has its own sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.recurrence.exact import dot


@triton.jit
def logarithms(decay, stride, base, t, low, high, key, live, KIND: tl.constexpr):
    """Those of the decays of rows t, [rows, states], 0 for rows that are not from low to high.
    KIND, with d the numbers of `decay`: "moving", -e^(base + d); "fixed", -e^base."""
    there = ((t >= low) & (t < high))[:, None] & live[None, :]
    if KIND == "fixed":
        found = -tl.exp(base)[None, :]
    else:
        d = tl.load(decay + t[:, None] * stride + key[None, :], mask=there, other=0.0)
        found = -tl.exp(base[None, :] + d.to(tl.float32))
    return tl.where(there, found, 0.0)


@triton.jit
def rows_of(x, stride, t, high, key, live):
    """Rows t, float32 [rows, states], 0 for those from `high` on."""
    there = (t < high)[:, None] & live[None, :]
    return tl.load(x + t[:, None] * stride + key[None, :], mask=there, other=0.0).to(tl.float32)


@triton.jit
def _in_block(
    x, x_stride, y, y_stride, decay, decay_stride, bases, extras, begin, high, first_key,
    SIZE: tl.constexpr, KIND: tl.constexpr, SP: tl.constexpr,
):  # fmt: skip
    """M of 16 rows among themselves, and on its diagonal the sums of x_t y_t extra: 16 states at a
    time. Sums from the block's start are made in float64 and split in two, so that a difference of
    large ones is as exact as a sum of its own."""
    i = tl.arange(0, 16)
    t = begin + i
    found = tl.zeros([16, 16], tl.float32)
    for some in range(0, SP, 16):
        live, key = some + i < SIZE, first_key + some + i
        rows = rows_of(x, x_stride, t, high, key, live)
        own = rows_of(y, y_stride, t, high, key, live)
        base = tl.load(bases + key, mask=live, other=0.0)
        extra = tl.load(extras + key, mask=live, other=0.0)
        passed = logarithms(decay, decay_stride, base, t, begin, high, key, live, KIND)
        passed = tl.maximum(passed, -1e4)  # e^-10000 is 0 as well, and sums stay finite
        exact = tl.cumsum(passed.to(tl.float64), 0)
        before = exact - passed.to(tl.float64)
        upto, start = exact.to(tl.float32), before.to(tl.float32)
        more = (before - start.to(tl.float64)).to(tl.float32)
        less = (exact - upto.to(tl.float64)).to(tl.float32)
        far = (start[:, None, :] - upto[None, :, :]) + (more[:, None, :] - less[None, :, :])
        each = rows[:, None, :] * own[None, :, :] * tl.exp(tl.minimum(far, 0.0))
        found += tl.where(i[:, None] > i[None, :], tl.sum(each, 2), 0.0)
        bonus = tl.sum(rows * own * extra[None, :], 1)
        found += tl.where(i[:, None] == i[None, :], bonus[:, None], 0.0)
    return found


@triton.jit
def write_products(
    x, x_stride, y, y_stride, decay, decay_stride, bases, extras, to, block, first, high, first_key,
    SIZE: tl.constexpr, KIND: tl.constexpr, SP: tl.constexpr, ROWS: tl.constexpr,
    WAY: tl.constexpr,
):  # fmt: skip
    """Store 16 rows of M [ROWS, ROWS] at `to`: block `block` of the rows from `first` on. What is
    above the block on the diagonal stays. On the diagonal are the sums of x_t y_t extra."""
    i, n = tl.arange(0, 16), tl.arange(0, SP)
    live, key = n < SIZE, first_key + n
    at = to + (block * 16 + i)[:, None] * ROWS + i[None, :]
    begin = first + block * 16
    tile = _in_block(
        x, x_stride, y, y_stride, decay, decay_stride, bases, extras, begin, high, first_key, SIZE,
        KIND, SP,
    )  # fmt: skip
    tl.store(at + block * 16, tile.to(to.dtype.element_ty))
    base = tl.load(bases + key, mask=live, other=0.0)
    before = logarithms(decay, decay_stride, base, begin + i - 1, begin, high, key, live, KIND)
    left = rows_of(x, x_stride, begin + i, high, key, live) * tl.exp(tl.cumsum(before, 0))
    gap = tl.zeros([SP], tl.float32)
    for back in range(block):
        start = begin - (back + 1) * 16
        s, stop = start + i, tl.minimum(start + 16, high)
        behind = logarithms(decay, decay_stride, base, s + 1, start, stop, key, live, KIND)
        behind = tl.cumsum(behind, 0, reverse=True) + gap[None, :]
        right = rows_of(y, y_stride, s, high, key, live) * tl.exp(behind)
        product = dot(left, tl.trans(right), WAY)
        tl.store(at + (block - back - 1) * 16, product.to(to.dtype.element_ty))
        every = logarithms(decay, decay_stride, base, s, start, stop, key, live, KIND)
        gap += tl.sum(every, 0)
