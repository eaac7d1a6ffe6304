"""Repacking raw rows of blocks into held units, whose layout `blocks.py` describes.

A `quad` reads 16 bytes of 16 rows as 4 vectors of words, a `gather` reads fewer bytes, and the rest
is bit arithmetic on them, so every format is repacked 16 rows at a time. Raw layouts: ggml's block
structs. `repack_grids.py` has the formats that are held as another one.
"""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.repacking import repack_grids
from rbee_worker.ops.cpu.kernels.repacking.bit_planes import (
    bit_plane,
    byte,
    gathered,
    half,
    nibble_planes,
    pair_planes,
    spread,
    store,
)
from rbee_worker.ops.cpu.shared.held import held_as

FLIP = -0x7F7F7F80  # 128 in every byte: turns signed bytes into unsigned ones and back


def q4_0(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    half(pen, p, st, to + 256)
    store(gathered(pen, p + 2, st, 4), to)


def q4_1(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    half(pen, p, st, to + 256)
    half(pen, p + 2, st, to + 288)
    store(gathered(pen, p + 4, st, 4), to)


def q5_0(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    half(pen, p, st, to + 320)
    spread(pen, pen.gather(p + 2, st)).store(to + 256)
    store(gathered(pen, p + 6, st, 4), to)


def q5_1(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    half(pen, p, st, to + 320)
    half(pen, p + 2, st, to + 352)
    spread(pen, pen.gather(p + 4, st)).store(to + 256)
    store(gathered(pen, p + 8, st, 4), to)


def q8_0(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    half(pen, p, st, to + 512)
    store([v ^ FLIP for v in gathered(pen, p + 2, st, 8)], to)


def mxfp4(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    pen.gather(p, st, 1).store_i8(to + 256)
    store(gathered(pen, p + 1, st, 4), to)


def _six_bits(words: list[Vec], to: Ref) -> None:
    """8 scales, then 8 minimums, as bytes; raw, they are 6 bits each in 12 bytes (Q4_K, Q5_K)."""
    for j in range(4):
        a, b, c = (byte(words, 4 * k + j) for k in range(3))
        (a & 63).store_i8(to + 16 * j)
        (b & 63).store_i8(to + (128 + 16 * j))
        ((c & 15) | ((a >> 6) << 4)).store_i8(to + (64 + 16 * j))
        ((c >> 4) | ((b >> 6) << 4)).store_i8(to + (192 + 16 * j))


def q4_k(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    """The low halves of 32 bytes are one block, the high halves are the next."""
    both, *scales = pen.quad(p, st)
    both.store_i16(to + 2304)
    (both >> 16).store_i16(to + 2336)
    _six_bits(scales, to + 2048)
    for j in range(0, 8, 2):
        words = gathered(pen, p + (16 + 16 * j), st, 8)
        store(nibble_planes(words, False), to + 256 * j)
        store(nibble_planes(words, True), to + 256 * (j + 1))


def q5_k(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    both, *scales = pen.quad(p, st)
    both.store_i16(to + 2816)
    (both >> 16).store_i16(to + 2848)
    _six_bits(scales, to + 2560)
    for j in range(0, 8, 2):
        words = gathered(pen, p + (48 + 16 * j), st, 8)
        store(nibble_planes(words, False), to + 320 * j)
        store(nibble_planes(words, True), to + 320 * (j + 1))
    high = gathered(pen, p + 16, st, 8)
    for j in range(8):
        bit_plane(pen, high, j).store(to + (320 * j + 256))


def q6_k(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    """The low halves of 64 bytes are blocks 0 and 1, the high halves 2 and 3; then two bits."""
    half(pen, p + 208, st, to + 3328)
    scales = pen.quad(p + 192, st)
    for j in range(16):
        byte(scales, j).store_i8(to + (3072 + 16 * j))
    for c in range(2):
        for h in range(2):
            words = gathered(pen, p + (64 * c + 32 * h), st, 8)
            store(nibble_planes(words, False), to + 384 * (4 * c + h))
            store(nibble_planes(words, True), to + 384 * (4 * c + h + 2))
        words = gathered(pen, p + (128 + 32 * c), st, 8)
        for j in range(4):
            store(pair_planes(pen, words, 2 * j), to + (384 * (4 * c + j) + 256))


def q3_k(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    """16 scales of 6 bits, minus 32: first the low four bits of all, then the high pairs."""
    half(pen, p + 108, st, to + 1792)
    for j in range(16):
        low = (pen.gather(p + (96 + j % 8), st, 1) >> (4 * (j // 8))) & 15
        high = (pen.gather(p + (104 + j % 4), st, 1) >> (2 * (j // 4))) & 3
        ((low | (high << 4)) - 32).store_i8(to + (1536 + 16 * j))
    mask = gathered(pen, p, st, 8)
    for c in range(2):
        words = gathered(pen, p + (32 + 32 * c), st, 8)
        for j in range(4):
            at = to + 192 * (4 * c + j)
            store(pair_planes(pen, words, 2 * j), at)
            bit_plane(pen, mask, 4 * c + j).store(at + 128)


def q2_k(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    half(pen, p + 80, st, to + 1280)
    half(pen, p + 82, st, to + 1312)
    scales = pen.quad(p, st)
    for j in range(16):
        byte(scales, j).store_i8(to + (1024 + 16 * j))
    for c in range(2):
        words = gathered(pen, p + (16 + 32 * c), st, 8)
        for j in range(4):
            store(pair_planes(pen, words, 2 * j), to + 128 * (4 * c + j))


def iq4_xs(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    """8 scales of 6 bits, minus 32: the high pairs in two bytes, the low four bits in four."""
    half(pen, p, st, to + 2176)
    high = pen.gather(p + 2, st, 2)
    for j in range(8):
        low = (pen.gather(p + (4 + j // 2), st, 1) >> (4 * (j % 2))) & 15
        ((low | (((high >> (2 * j)) & 3) << 4)) - 32).store_i8(to + (2048 + 16 * j))
        store(gathered(pen, p + (8 + 16 * j), st, 4), to + 256 * j)


def pairs(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    store(gathered(pen, p, st, 16), to)


def two_bytes(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    for k, v in enumerate(gathered(pen, p, st, 16)):
        v.store_i16(to + 64 * k)
        (v >> 16).store_i16(to + (64 * k + 32))


def four_bytes(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    store(gathered(pen, p, st, 32), to)


_UNITS: dict[
    str, tuple[Callable[[Pen, Ref, Ref, Ref], None], int]
] = {  # with the raw bytes of a row of a unit
    "q4_0": (q4_0, 18),
    "q4_1": (q4_1, 20),
    "q5_0": (q5_0, 22),
    "q5_1": (q5_1, 24),
    "q8_0": (q8_0, 34),
    "q2_k": (q2_k, 84),
    "q3_k": (q3_k, 110),
    "q4_k": (q4_k, 144),
    "q5_k": (q5_k, 176),
    "q6_k": (q6_k, 210),
    "iq4_nl": (q4_0, 18),
    "iq4_xs": (iq4_xs, 136),
    "mxfp4": (mxfp4, 17),
    "tq1_0": (repack_grids.tq1_0, 54),
    "tq2_0": (repack_grids.tq2_0, 66),
    "bf16": (pairs, 64),
    "f16": (two_bytes, 64),
    "f32": (four_bytes, 128),
}


def build(variant: str) -> Kernel:
    """Kernel `repack.<format>`: groups of 16 rows from `raw` to `out`. A row is `units` units long;
    the next one begins `stride` bytes further on. Thread t makes groups shares[t] ..
    shares[t + 1] - 1 (int64). Formats on grids also take the address of their grid, as
    `grids.digits` makes it."""
    held_bytes = held_as(variant).nbytes
    if variant in repack_grids.POINTS:
        return kernel(f"repack.{variant}")(_gridded(variant, held_bytes))
    write, raw_bytes = _UNITS[variant]
    unit = op(s.Void, Ptr, Ptr, Ptr, target=True)(
        lambda b, t, p, stride, to: write(
            Pen(b, t), Ref(Pen(b, t), p), Ref(Pen(b, t), stride), Ref(Pen(b, t), to)
        )
    )

    def run(
        step: Ptr, tid: Int, nt: Int, raw: Ptr, stride: Ptr, shares: Ptr, units: Int, out: Ptr
    ) -> None:
        for g in range(s.get_i64(shares + 8 * tid), s.get_i64(shares + 8 * tid + 8)):
            row, to = raw + 16 * g * stride, out + g * units * held_bytes
            for u in range(units):
                unit(row + u * raw_bytes, stride, to + u * held_bytes)

    return kernel(f"repack.{variant}")(run)


def _gridded(variant: str, held_bytes: int) -> Callable[..., None]:
    whole, pair = repack_grids.start(variant), repack_grids.pair(variant)
    raw_bytes = repack_grids.POINTS[variant][1]

    def run(
        step: Ptr, tid: Int, nt: Int, raw: Ptr, stride: Ptr, shares: Ptr, units: Int, out: Ptr,
        grid: Ptr,
    ) -> None:  # fmt: skip
        for g in range(s.get_i64(shares + 8 * tid), s.get_i64(shares + 8 * tid + 8)):
            row, to = raw + 16 * g * stride, out + g * units * held_bytes
            for u in range(units):
                whole(row + u * raw_bytes, stride, to + u * held_bytes)
                for j in range(4):
                    pair(row + u * raw_bytes, stride, to + u * held_bytes, grid, j)

    return run
