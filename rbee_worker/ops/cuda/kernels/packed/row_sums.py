"""How a program sums products over whole rows: ROWS_N rows of activations times R rows of a matrix.

Constants that go through all functions: CHUNKS of a row, W words of a chunk, FORMAT, whether it has
blocks of 256 values (BLOCK); R rows and C chunks that a program has at a time. `number` is the
program's: its rows begin at number * R. The order of a sum depends on C, R and the program's warps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.packed.chunks import inside, load_words, unpack, weigh


@triton.jit
def load_chunks(data, block, c, number, R: tl.constexpr, C: tl.constexpr, CHUNKS: tl.constexpr,
          W: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The words of chunks c of rows number * R to number * R + R - 1, and as the last one their
    block's word (of formats that have one)."""
    r = number % (32 // R) * R + tl.arange(0, R)
    group = (number // (32 // R)).to(tl.int64)
    ok = inside(c, CHUNKS, C)[:, None]
    start = data + group * (CHUNKS * W * 32)
    words = load_words(start + (c * (W * 32))[:, None] + r[None, :], ok, W)
    if BLOCK:
        start = block + group * (CHUNKS // 4 * 32)
        p = start + (c // 4 * 32)[:, None] + r[None, :]
        words = words + (tl.load(p, mask=ok, other=0),)
    return words


@triton.jit
def _add(acc, words, x8, scales, sums, c, ROWS_N: tl.constexpr, C: tl.constexpr,
         CHUNKS: tl.constexpr, W: tl.constexpr, FORMAT: tl.constexpr,
         BLOCK: tl.constexpr):  # fmt: skip
    """acc, ROWS_N tensors [chunks, R], plus the products of the words with each row of x."""
    values = unpack(words, FORMAT)
    of_block = words[W if BLOCK else 0]
    ok = inside(c, CHUNKS, C)
    out = (weigh(acc[0], words, values, of_block, x8, scales, sums, c, ok, FORMAT, BLOCK),)
    for j in tl.static_range(1, ROWS_N):
        out = out + (
            weigh(acc[j], words, values, of_block, x8 + j * (CHUNKS * 8), scales + j * CHUNKS,
                  sums + j * CHUNKS, c, ok, FORMAT, BLOCK),
        )  # fmt: skip
    return out


@triton.jit
def matrix_sums(t, data, block, x8, scales, sums, number, stop, ROWS_N: tl.constexpr,
            CHUNKS: tl.constexpr, W: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
            R: tl.constexpr, C: tl.constexpr, DOUBLE: tl.constexpr):  # fmt: skip
    """ROWS_N tensors [C, R] of partial sums over whole rows. With few rows of activations, t has
    the first words; DOUBLE: the next words are loaded before the present ones are used. With more,
    the arithmetic takes longer than the loads, and registers are scarce: the words are loaded when
    they are used, in a loop that is not unrolled, as its end is no constant."""
    c = tl.arange(0, C)
    acc = (tl.zeros([C, R], tl.float32),) * ROWS_N
    if ROWS_N > 2:
        for c0 in range(0, stop, C):
            at = c0 + c
            words = load_chunks(data, block, at, number, R, C, CHUNKS, W, BLOCK)
            acc = _add(acc, words, x8, scales, sums, at, ROWS_N, C, CHUNKS, W, FORMAT, BLOCK)
    else:
        for c0 in range(C, CHUNKS, C):
            at = c0 - C + c
            if DOUBLE:
                t2 = load_chunks(data, block, c0 + c, number, R, C, CHUNKS, W, BLOCK)
            acc = _add(acc, t, x8, scales, sums, at, ROWS_N, C, CHUNKS, W, FORMAT, BLOCK)
            if not DOUBLE:
                t2 = load_chunks(data, block, c0 + c, number, R, C, CHUNKS, W, BLOCK)
            t = t2
        at = (CHUNKS - 1) // C * C + c
        acc = _add(acc, t, x8, scales, sums, at, ROWS_N, C, CHUNKS, W, FORMAT, BLOCK)
    return acc


@triton.jit
def pair_sums(t, u, data, block, up_data, up_block, x8, scales, sums, number,
          ROWS_N: tl.constexpr, CHUNKS: tl.constexpr, W: tl.constexpr, FORMAT: tl.constexpr,
          BLOCK: tl.constexpr, R: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """`matrix_sums` for two matrices at a time: those of the second one follow."""
    c = tl.arange(0, C)
    acc = (tl.zeros([C, R], tl.float32),) * ROWS_N
    ups = (tl.zeros([C, R], tl.float32),) * ROWS_N
    for c0 in range(C, CHUNKS, C):
        at = c0 - C + c
        acc = _add(acc, t, x8, scales, sums, at, ROWS_N, C, CHUNKS, W, FORMAT, BLOCK)
        t = load_chunks(data, block, c0 + c, number, R, C, CHUNKS, W, BLOCK)
        ups = _add(ups, u, x8, scales, sums, at, ROWS_N, C, CHUNKS, W, FORMAT, BLOCK)
        u = load_chunks(up_data, up_block, c0 + c, number, R, C, CHUNKS, W, BLOCK)
    at = (CHUNKS - 1) // C * C + c
    acc = _add(acc, t, x8, scales, sums, at, ROWS_N, C, CHUNKS, W, FORMAT, BLOCK)
    return acc + _add(ups, u, x8, scales, sums, at, ROWS_N, C, CHUNKS, W, FORMAT, BLOCK)


@triton.jit
def totals(acc, R: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """float32 [R, COUNT]: the sums over chunks of COUNT of the tensors [C, R] in acc, from number
    FIRST on. One reduction, because each waits for all warps."""
    if COUNT == 1:
        return tl.sum(acc[FIRST], 0)[:, None]
    elif COUNT == 2:
        return tl.sum(tl.join(acc[FIRST], acc[FIRST + 1]), 0)
    elif COUNT == 4:
        even = tl.join(acc[FIRST], acc[FIRST + 2])
        odd = tl.join(acc[FIRST + 1], acc[FIRST + 3])
        return tl.reshape(tl.sum(tl.join(even, odd), 0), (R, 4))
    else:
        a = tl.join(tl.join(acc[FIRST], acc[FIRST + 4]), tl.join(acc[FIRST + 2], acc[FIRST + 6]))
        b = tl.join(
            tl.join(acc[FIRST + 1], acc[FIRST + 5]), tl.join(acc[FIRST + 3], acc[FIRST + 7])
        )
        return tl.reshape(tl.sum(tl.join(a, b), 0), (R, 8))
