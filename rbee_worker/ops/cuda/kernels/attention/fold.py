"""The parts of attention that its kernels share: pages to tiles of keys, scores, online softmax.

The softmax is the online one (Milakov & Gimelshein 2018) in powers of two. A tile in which a row
sees no key leaves the row's numbers bitwise unchanged; the exponent is an explicit fused
multiply-add, so that masked and unmasked tiles round in the same way.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_columns(rows, valid, START: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr):
    """Columns START .. START + WIDTH of rows of DIM numbers; zero where a row is not valid.

    rows: pointers to the rows' first numbers [R, 1]; valid: bool [R, 1]. -> [R, WIDTH]
    """
    column = START + tl.arange(0, WIDTH)[None, :]
    if START + WIDTH > DIM:
        return tl.load(rows + column, mask=valid & (column < DIM), other=0.0)
    return tl.load(rows + column, mask=valid, other=0.0)


@triton.jit
def load_blocks(table, key, valid, BLOCK: tl.constexpr):
    """The cache blocks of the positions `key` [T] of a sequence; table: its row of the table."""
    return tl.load(table + key // BLOCK, mask=valid, other=0)


@triton.jit
def load_tile(
    k, v, blocks, key, valid, k_block, k_row, v_block, v_row,
    BLOCK: tl.constexpr, K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, LATENT: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """Keys and values at positions `key` [T] of one sequence and head, as type DOT: each in its two
    parts (0 instead of a part without columns). With LATENT the values are the keys' first columns.

    k, v: pointers to the head's first block; blocks [T]: see `load_blocks`.
    """
    block = blocks.to(tl.int64)
    inside = key % BLOCK
    some = valid[:, None]
    k_rows = k + (block * k_block + inside * k_row)[:, None]
    k0 = load_columns(k_rows, some, 0, K0, K_DIM).to(DOT)
    k1 = 0
    if K1 > 0:
        k1 = load_columns(k_rows, some, K0, K1, K_DIM).to(DOT)
    v1 = 0
    if LATENT:
        v0 = k0
        if V1 > 0:
            v1 = k1
    else:
        v_rows = v + (block * v_block + inside * v_row)[:, None]
        v0 = load_columns(v_rows, some, 0, V0, V_DIM).to(DOT)
        if V1 > 0:
            v1 = load_columns(v_rows, some, V0, V1, V_DIM).to(DOT)
    return k0, k1, v0, v1


@triton.jit
def raw_scores(
    q0, q1, k0, k1, slope, behind, scale, cap, cap_scale, reach,
    K1: tl.constexpr, CAP: tl.constexpr, SLOPES: tl.constexpr,
):  # fmt: skip
    """Scores [M, T] of queries (q0, q1) and keys (k0, k1), before masking; see `Sight.arguments`.

    behind [M or 1, T]: a key's position minus the query's. slope [M]: of a bias that grows with it
    (SLOPES 1), or the address of the number for distance 0 (2), which has `reach` neighbours on
    either side.
    """
    x = tl.dot(q0, tl.trans(k0), input_precision="ieee")
    if K1 > 0:
        x = tl.dot(q1, tl.trans(k1), x, input_precision="ieee")
    if CAP:  # tanh(y) = 1 - 2 / (exp(2 y) + 1)
        x = cap * (1.0 - 2.0 / (tl.exp(x * cap_scale) + 1.0))
    elif SLOPES:
        x = x * scale
    if SLOPES == 2:
        x += tl.load(slope[:, None] + tl.minimum(tl.maximum(behind, -reach), reach))
    elif SLOPES:
        x = tl.fma(behind.to(tl.float32), slope[:, None], x)
    return x


@triton.jit
def fold(top, total, acc0, acc1, x, factor, v0, v1, V1: tl.constexpr):
    """Add a tile's scores x [M, T] (-inf: not seen) and values to a row's softmax.

    top [M]: the highest exponent so far; total [M]: the sum of 2 ** (exponent - top); acc0, acc1:
    the sum of the values, weighted likewise, in float32.
    """
    high = tl.maximum(top, tl.max(x, 1) * factor)
    safe = tl.where(high == float("-inf"), 0.0, high)  # rows that have seen nothing yet
    keep = tl.exp2(top - safe)
    p = tl.exp2(tl.fma(x, factor, -safe[:, None]))
    total = total * keep + tl.sum(p, 1)
    share = p.to(v0.dtype)
    acc0 = tl.dot(share, v0, acc0 * keep[:, None], input_precision="ieee")
    if V1 > 0:
        acc1 = tl.dot(share, v1, acc1 * keep[:, None], input_precision="ieee")
    return high, total, acc0, acc1


@triton.jit
def seen_keys(
    at, upto, key, length, window, chunk,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """bool: which of a sequence's `length` keys, at positions `key`, the queries at `at` see.
    upto: if CAUSAL, the last position that they see."""
    if CAUSAL:
        seen = (key <= upto) & (key < length)
    else:
        seen = key < length
        if WINDOW:
            seen = seen & (key < at + window)
    if WINDOW:
        seen = seen & (key > at - window)
    if CHUNK:
        seen = seen & (key >= at - at % chunk)
    return seen


@triton.jit
def lowest_seen(at, window, chunk, WINDOW: tl.constexpr, CHUNK: tl.constexpr):
    """The first key that a query at `at` sees."""
    low = at * 0
    if WINDOW:
        low = tl.maximum(at - window + 1, 0)
    if CHUNK:
        low = at - at % chunk
    return low


@triton.jit
def end_seen(at, length, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """One more than the last of `length` keys that a query at `at` sees; if CAUSAL, at: the last
    position that it sees."""
    end = length
    if CAUSAL:
        end = tl.minimum(at + 1, length)
    elif WINDOW:
        end = tl.minimum(at + window, length)
    return end


@triton.jit
def add_sink(top, total, acc0, acc1, sink, V1: tl.constexpr):
    """A score `sink` [M] (as an exponent of two) whose value is zero."""
    high = tl.maximum(top, sink)
    keep = tl.exp2(top - high)
    total = total * keep + tl.exp2(sink - high)
    acc0 = acc0 * keep[:, None]
    if V1 > 0:
        acc1 = acc1 * keep[:, None]
    return high, total, acc0, acc1


@triton.jit
def store_columns(rows, valid, x, START: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr):
    """x [R, WIDTH] to columns START .. of rows (pointers [R, 1]) of DIM numbers, where valid."""
    column = START + tl.arange(0, WIDTH)[None, :]
    mask = valid & (column < DIM) if START + WIDTH > DIM else valid
    tl.store(rows + column, x.to(rows.dtype.element_ty), mask=mask)
