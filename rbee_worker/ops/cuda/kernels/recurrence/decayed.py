"""Products of the rows of a chunk, of which each state decays by itself: for RWKV by chunks.

    M_ts = sum over n of x_t[n] y_s[n] e^(sum over s < k < t of l_k[n]) for s < t, l_k[n] <= 0

Rows are taken 16 at a time (Yang et al. 2023, Gated Linear Attention, section 4.3): between two
blocks the decay is a product of one behind s to the end of its block, of whole blocks and of one
from the start of t's block on, each at most 1; in a block every pair has its own sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.recurrence.exact import both_dot

_FASTEST = tl.constexpr(-0.6065306597126334)  # -e^-0.5, the logarithm of the least weight


@triton.jit
def logarithms(decay, stride, base, t, low, high, key, live, KIND: tl.constexpr):
    """Those of the decays of rows t, [rows, states], 0 for rows that are not from low to high.
    KIND, with d the numbers of `decay`: "moving", -e^(base + d); "fixed", -e^base; "sigmoid",
    -e^-0.5 sigmoid(d)."""
    there = ((t >= low) & (t < high))[:, None] & live[None, :]
    if KIND == "fixed":
        found = -tl.exp(base)[None, :]
    else:
        d = tl.load(decay + t[:, None] * stride + key[None, :], mask=there, other=0.0)
        d = d.to(tl.float32)
        if KIND == "moving":
            found = -tl.exp(base[None, :] + d)
        else:
            found = _FASTEST / (1.0 + tl.exp(-d))
    return tl.where(there, found, 0.0)


@triton.jit
def rows_of(x, stride, t, high, key, live):
    """Rows t, float32 [rows, states], 0 for those from `high` on."""
    there = (t < high)[:, None] & live[None, :]
    return tl.load(x + t[:, None] * stride + key[None, :], mask=there, other=0.0).to(tl.float32)


@triton.jit
def write_products(
    x, x_stride, y, y_stride, decay, decay_stride, base, extra, to, first, high, key, live,
    KIND: tl.constexpr, SELF: tl.constexpr, SP: tl.constexpr, ROWS: tl.constexpr,
    WAY: tl.constexpr,
):  # fmt: skip
    """Store M [ROWS, ROWS] of the rows from `first` on at `to`; what is above its diagonal stays,
    and so do rows from `high` on. On it are the sums of x_t y_t extra. SELF: l_t counts too, for
    s < t."""
    i = tl.arange(0, 16)
    at = to + i[:, None] * ROWS + i[None, :]
    for a in range(tl.cdiv(tl.minimum(high - first, ROWS), 16)):
        begin = first + a * 16
        t = begin + i
        rows = rows_of(x, x_stride, t, high, key, live)
        own = rows_of(y, y_stride, t, high, key, live)
        diagonal = tl.sum(rows * own * extra[None, :], 1)
        if SELF:
            rows *= tl.exp(logarithms(decay, decay_stride, base, t, begin, high, key, live, KIND))
        before = logarithms(decay, decay_stride, base, t - 1, begin, high, key, live, KIND)
        left = rows * tl.exp(tl.cumsum(before, 0))
        gap = tl.zeros([SP], tl.float32)
        for back in range(a):
            start = begin - (back + 1) * 16
            s, stop = start + i, tl.minimum(start + 16, high)
            behind = logarithms(decay, decay_stride, base, s + 1, start, stop, key, live, KIND)
            behind = tl.cumsum(behind, 0, reverse=True) + gap[None, :]
            right = rows_of(y, y_stride, s, high, key, live) * tl.exp(behind)
            tl.store(at + a * 16 * ROWS + (a - back - 1) * 16, both_dot(left, tl.trans(right), WAY))
            every = logarithms(decay, decay_stride, base, s, start, stop, key, live, KIND)
            gap += tl.sum(every, 0)
        tile = tl.where(i[:, None] == i[None, :], diagonal[:, None], 0.0)
        far = tl.zeros([16, SP], tl.float32)  # the sums between rows t and s
        for back in range(16):
            last = 15 - back
            only = begin + last + tl.arange(0, 1)
            there = (i > last)[:, None]
            one = rows_of(y, y_stride, only, high, key, live)
            column = tl.sum(tl.where(there, rows * one * tl.exp(far), 0.0), 1)
            tile += tl.where((i == last)[None, :], column[:, None], 0.0)
            here = logarithms(decay, decay_stride, base, only, begin, high, key, live, KIND)
            far += tl.where(there, here, 0.0)
        tl.store(at + a * 16 * ROWS + a * 16, tile)
