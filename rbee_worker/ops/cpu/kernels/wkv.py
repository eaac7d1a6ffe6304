"""RWKV's operations: the row before, mixing, and recurrences of a matrix for each head.

Threads share cells of 16 columns of each sequence, or heads or cells of each row. The rows of a
sequence are taken in order, and every sum in one order, so a row's result depends only on the state
before it. Strides are in floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.kernels.slots import first_row, kept_of
from rbee_worker.ops.cpu.shared import step as header

f32 = np.float32
CELL = 16  # columns; ops/cells.py describes the memory layout of states
PIECE = 64  # columns of a row that a thread mixes together
LEAST = f32(1e-12)  # length of a direction before it is one
FASTEST = f32(-math.exp(-0.5))  # logarithm of the least weight


def _previous(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int, width: Int,
) -> None:  # fmt: skip
    """`Wkv.previous`. group, tensor, layer, slot_bytes: see `kept_of`, also below."""
    sequences = s.get_i64(step + header.B)
    items = s.idiv(width + CELL - 1, CELL) * sequences
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        i, q = CELL * s.idiv(item, sequences), s.imod(item, sequences)
        left = width - i
        kept = kept_of(step, group, tensor, layer, slot_bytes, q) + 4 * i
        last = load_upto(kept, left)
        for t in range(first_row(step, q), first_row(step, q + 1)):
            store_upto(y + 4 * (t * y_stride + i), last, left)
            last = load_upto(x + 4 * (t * x_stride + i), left)
        store_upto(kept, last, left)


def _lerp(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, z: Ptr, z_stride: Int, factors: Ptr, moving: Ptr, moving_stride: Int,
    y: Ptr, y_stride: Int, width: Int, parts: Int,
) -> None:  # fmt: skip
    """y = x + (z - x) * (factors + moving), of which one may be 0 for none."""
    cells = s.idiv(width + PIECE - 1, PIECE)
    n = s.get_i64(step + header.N) * cells
    for item in range(share(tid, nt, n), share(tid + 1, nt, n)):
        t, c = s.idiv(item, cells), PIECE * s.imod(item, cells)
        for i in range(c, s.smaller(c + PIECE, width), CELL):
            left = width - i
            a = load_upto(x + 4 * (t * x_stride + i), left)
            apart = s.sub(load_upto(z + 4 * (t * z_stride + i), left), a)
            for part in range(parts):
                at = part * width + i
                f = s.zeros()
                if factors != 0:
                    f = load_upto(factors + 4 * at, left)
                if moving != 0:
                    f = s.add(f, load_upto(moving + 4 * (t * moving_stride + at), left))
                store_upto(y + 4 * (t * y_stride + at), s.fma(apart, f, a), left)


def _decay(
    step: Ptr, tid: Int, nt: Int,
    decay: Ptr, decay_stride: Int, base: Ptr, y: Ptr, y_stride: Int, width: Int,
) -> None:  # fmt: skip
    """y = exp(-exp(base + decay)), in one row if decay is 0 for none."""
    cells = s.idiv(width + PIECE - 1, PIECE)
    n = cells
    if decay != 0:
        n = s.get_i64(step + header.N) * cells
    for item in range(share(tid, nt, n), share(tid + 1, nt, n)):
        t, c = s.idiv(item, cells), PIECE * s.imod(item, cells)
        for i in range(c, s.smaller(c + PIECE, width), CELL):
            left = width - i
            v = load_upto(base + 4 * i, left)
            if decay != 0:
                v = s.add(v, load_upto(decay + 4 * (t * decay_stride + i), left))
            store_upto(y + 4 * (t * y_stride + i), vmath.exp_weight(s.negated(vmath.exp(v))), left)


@device
def _triple(a: Ptr, b: Ptr, c: Ptr, count: Int) -> Float:
    """The sum of a * b * c over `count` floats."""
    sums = s.zeros()
    for i in range(0, count, CELL):
        left = count - i
        both = s.mul(load_upto(a + 4 * i, left), load_upto(b + 4 * i, left))
        sums = s.fma(both, load_upto(c + 4 * i, left), sums)
    return s.total(sums)


def _plain(
    step: Ptr, tid: Int, nt: Int,
    r: Ptr, r_stride: Int, k: Ptr, k_stride: Int, v: Ptr, v_stride: Int, w: Ptr, w_stride: Int,
    bonus: Ptr, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int, heads: Int, size: Int,
) -> None:  # fmt: skip
    """`Wkv.wkv`, of the weights w of `_decay`; a cell is of one head."""
    sequences = s.get_i64(step + header.B)
    cells = s.idiv(size + CELL - 1, CELL)  # of a head
    items = heads * cells * sequences
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        cell, q = s.idiv(item, sequences), s.imod(item, sequences)
        head, part = s.idiv(cell, cells), CELL * s.imod(cell, cells)
        left, mine, own = size - part, 4 * head * size, 4 * (head * size + part)
        kept = kept_of(step, group, tensor, layer, slot_bytes, q) + 4 * CELL * size * cell
        for t in range(first_row(step, q), first_row(step, q + 1)):
            out, keys = r + 4 * t * r_stride + mine, k + 4 * t * k_stride + mine
            weights, value = (
                w + 4 * t * w_stride + mine,
                load_upto(v + 4 * t * v_stride + own, left),
            )
            total = s.mul(s.fill(_triple(out, keys, bonus + mine, size)), value)
            for n in range(size):
                h = s.load_f32(kept + 4 * CELL * n)
                total = s.fma(s.splat_f32(out + 4 * n), h, total)
                given = s.mul(s.splat_f32(keys + 4 * n), value)
                s.store_f32(kept + 4 * CELL * n, s.fma(s.splat_f32(weights + 4 * n), h, given))
            store_upto(y + 4 * t * y_stride + own, total, left)


def _terms(
    step: Ptr, tid: Int, nt: Int,
    r: Ptr, r_stride: Int, k: Ptr, k_stride: Int, v: Ptr, v_stride: Int,
    decay: Ptr, decay_stride: Int, rate: Ptr, rate_stride: Int,
    removal: Ptr, renewal: Ptr, bonus: Ptr,
    w: Ptr, c: Ptr, u: Ptr, back: Ptr, stride: Int, z: Ptr, z_stride: Int, heads: Int, size: Int,
) -> None:  # fmt: skip
    """w, c, u, back = u * a, and z of `Wkv.wkv_delta`; stride: of the first four."""
    rows = s.get_i64(step + header.N) * heads
    one = s.fill(f32(1.0))
    for item in range(share(tid, nt, rows), share(tid + 1, nt, rows)):
        t, at = s.idiv(item, heads), size * s.imod(item, heads)
        put = 4 * (t * stride + at)
        squares = s.zeros()
        for i in range(0, size, CELL):
            left = size - i
            key = load_upto(k + 4 * (t * k_stride + at + i), left)
            a = vmath.sigmoid(load_upto(rate + 4 * (t * rate_stride + at + i), left))
            store_upto(back + put + 4 * i, a, left)
            more = s.fma(s.sub(a, one), load_upto(renewal + 4 * (at + i), left), one)
            store_upto(c + put + 4 * i, s.mul(key, more), left)
            d = s.mul(key, load_upto(removal + 4 * (at + i), left))
            store_upto(u + put + 4 * i, d, left)
            squares = s.fma(d, d, squares)
            rest = vmath.sigmoid(load_upto(decay + 4 * (t * decay_stride + at + i), left))
            store_upto(w + put + 4 * i, vmath.exp_weight(s.mul(rest, s.fill(FASTEST))), left)
        length = s.maximum(s.sqrt(s.fill(s.total(squares))), s.fill(LEAST))
        own = s.fill(_triple(r + 4 * (t * r_stride + at), c + put, bonus + 4 * at, size))
        for i in range(0, size, CELL):
            left = size - i
            d = s.div(load_upto(u + put + 4 * i, left), length)
            store_upto(u + put + 4 * i, d, left)
            store_upto(back + put + 4 * i, s.mul(d, load_upto(back + put + 4 * i, left)), left)
            value = load_upto(v + 4 * (t * v_stride + at + i), left)
            store_upto(z + 4 * (t * z_stride + at + i), s.mul(own, value), left)


def _delta(
    step: Ptr, tid: Int, nt: Int,
    r: Ptr, r_stride: Int, v: Ptr, v_stride: Int,
    w: Ptr, c: Ptr, u: Ptr, back: Ptr, stride: Int, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int, heads: Int, size: Int,
) -> None:  # fmt: skip
    """y of `Wkv.wkv_delta`, of the terms of `_terms`; a cell is of one head."""
    sequences = s.get_i64(step + header.B)
    cells = s.idiv(size + CELL - 1, CELL)  # of a head
    items = heads * cells * sequences
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        cell, q = s.idiv(item, sequences), s.imod(item, sequences)
        head, part = s.idiv(cell, cells), CELL * s.imod(cell, cells)
        left, mine, own = size - part, 4 * head * size, 4 * (head * size + part)
        kept = kept_of(step, group, tensor, layer, slot_bytes, q) + 4 * CELL * size * cell
        for t in range(first_row(step, q), first_row(step, q + 1)):
            at, out = 4 * t * stride + mine, r + 4 * t * r_stride + mine
            value, gone = load_upto(v + 4 * t * v_stride + own, left), s.zeros()
            for n in range(size):
                h = s.load_f32(kept + 4 * CELL * n)
                gone = s.fma(s.splat_f32(u + at + 4 * n), h, gone)
            gone, total = s.negated(gone), s.zeros()
            for n in range(size):
                h = s.load_f32(kept + 4 * CELL * n)
                given = s.mul(s.splat_f32(c + at + 4 * n), value)
                h = s.fma(s.splat_f32(w + at + 4 * n), h, given)
                h = s.fma(s.splat_f32(back + at + 4 * n), gone, h)
                s.store_f32(kept + 4 * CELL * n, h)
                total = s.fma(s.splat_f32(out + 4 * n), h, total)
            store_upto(y + 4 * t * y_stride + own, total, left)


_KINDS: dict[str, Callable[..., None]] = {
    "previous": _previous,
    "lerp": _lerp,
    "decay": _decay,
    "plain": _plain,
    "terms": _terms,
    "delta": _delta,
}


def build(variant: str) -> Kernel:
    """`wkv.previous`, `wkv.lerp`, `wkv.decay`, `wkv.plain`, `wkv.terms` or `wkv.delta`."""
    return kernel(f"wkv.{variant}")(_KINDS[variant])
