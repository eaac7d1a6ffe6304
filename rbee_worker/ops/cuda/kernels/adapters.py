"""Low-rank adapters: y + scale * B (A x), row by row, with the factors of each row's adapter.

The factors lie anywhere: a table says where those of a slot begin, so loading an adapter launches
and captures nothing anew. Steps of one row for each sequence multiply row by row; others multiply
tiles of a sequence's rows, which all use one adapter. A row's sums have one order in either form,
whatever else is in the step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two, precision

_RANKS = 4  # ranks of a program that multiplies one row by A
_COLUMNS = 64  # columns of y of a program
_TALL = 64  # most rows of a tile
WORDS = 3  # of a part's record: the addresses of A and of B, and the rank


@triton.jit
def _down_row(
    x, x_row, slots, records, h, parts, cols, WORDS: tl.constexpr, WIDE: tl.constexpr,
    BR: tl.constexpr, BK: tl.constexpr, FORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """h [N, parts, WIDE] = A x, BR ranks of one part for one row."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + row)
    record = records + (slot * parts + part) * WORDS
    rank = tl.load(record + 2)
    r, c = tl.program_id(2) * BR + tl.arange(0, BR), tl.arange(0, BK)
    if tl.program_id(2) * BR < rank:
        a = tl.load(record).to(tl.pointer_type(FORM))
        acc = tl.zeros([BR, BK], tl.float32)
        for k in range(0, cols, BK):
            inside = k + c < cols
            mask = (r < rank)[:, None] & inside[None, :]
            some = tl.load(a + r[:, None] * cols + (k + c)[None, :], mask=mask, other=0.0)
            v = tl.load(x + row * x_row + k + c, mask=inside, other=0.0)
            acc += some.to(tl.float32) * v.to(tl.float32)[None, :]
        tl.store(h + (row * parts + part) * WIDE + r, tl.sum(acc, 1), mask=r < rank)


@triton.jit
def _up_row(
    h, slots, records, scales, tiles, y, rows, parts, WORDS: tl.constexpr, WIDE: tl.constexpr,
    BN: tl.constexpr, FORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y [N, rows] += scale * B h, BN columns of one part for one row; tiles [., 3]: a part, its
    first column of y, and how many columns the tile comes after that."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, tile = tl.program_id(0).to(tl.int64), tiles + tl.program_id(1) * 4
    part, first, begin, end = (
        tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    )  # fmt: skip
    slot = tl.load(slots + row)
    record = records + (slot * parts + part) * WORDS
    rank = tl.load(record + 2)
    if rank > 0:
        b = tl.load(record + 1).to(tl.pointer_type(FORM))
        n, r = begin + tl.arange(0, BN), tl.arange(0, WIDE)
        live = r < rank
        mask = (n < end)[:, None] & live[None, :]
        some = tl.load(b + n[:, None].to(tl.int64) * rank + r[None, :], mask=mask, other=0.0)
        low = tl.load(h + (row * parts + part) * WIDE + r, mask=live, other=0.0)
        more = tl.sum(some.to(tl.float32) * low[None, :], 1)
        at = y + row * rows + first + n
        old = tl.load(at, mask=n < end, other=0.0).to(tl.float32)
        new = old + tl.load(scales + slot * parts + part) * more
        tl.store(at, new.to(y.dtype.element_ty), mask=n < end)


@triton.jit
def _down_rows(
    x, x_row, starts, slots, records, h, parts, cols, WORDS: tl.constexpr, WIDE: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, FORM: tl.constexpr, PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """As `_down_row`, all ranks of one part for BM rows of a sequence."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    sequence, part = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    begin += tl.program_id(2) * BM
    if begin < end:
        slot = tl.load(slots + begin)
        record = records + (slot * parts + part) * WORDS
        rank = tl.load(record + 2)
        if rank > 0:
            a = tl.load(record).to(tl.pointer_type(FORM))
            m, r, c = begin + tl.arange(0, BM), tl.arange(0, WIDE), tl.arange(0, BK)
            acc = tl.zeros([BM, WIDE], tl.float32)
            for k in range(0, cols, BK):
                inside = k + c < cols
                mask = (r < rank)[None, :] & inside[:, None]
                some = tl.load(a + r[None, :] * cols + (k + c)[:, None], mask=mask, other=0.0)
                given = (m < end)[:, None] & inside[None, :]
                v = tl.load(x + m[:, None] * x_row + (k + c)[None, :], mask=given, other=0.0)
                acc = tl.dot(v.to(FORM), some, acc, input_precision=PRECISION)
            to = h + (m * parts + part)[:, None] * WIDE + r[None, :]
            tl.store(to, acc, mask=(m < end)[:, None] & (r < rank)[None, :])


@triton.jit
def _up_rows(
    h, starts, slots, records, scales, tiles, y, rows, parts, WORDS: tl.constexpr,
    WIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, FORM: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """As `_up_row`, for BM rows of a sequence."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    sequence, tile = tl.program_id(0), tiles + tl.program_id(1) * 4
    start, stop = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    start += tl.program_id(2) * BM
    if start < stop:
        part, first, begin, end = (
            tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
        )  # fmt: skip
        slot = tl.load(slots + start)
        record = records + (slot * parts + part) * WORDS
        rank = tl.load(record + 2)
        if rank > 0:
            b = tl.load(record + 1).to(tl.pointer_type(FORM))
            m, n, r = start + tl.arange(0, BM), begin + tl.arange(0, BN), tl.arange(0, WIDE)
            live, known = r < rank, (m < stop)[:, None]
            mask = (n < end)[None, :] & live[:, None]
            some = tl.load(b + n[None, :].to(tl.int64) * rank + r[:, None], mask=mask, other=0.0)
            from_ = h + (m * parts + part)[:, None] * WIDE + r[None, :]
            low = tl.load(from_, mask=known & live[None, :], other=0.0)
            more = tl.dot(low, some.to(tl.float32), input_precision=PRECISION)
            at = y + m[:, None] * rows + (first + n)[None, :]
            mask = known & (n < end)[None, :]
            old = tl.load(at, mask=mask, other=0.0).to(tl.float32)
            new = old + tl.load(scales + slot * parts + part) * more
            tl.store(at, new.to(y.dtype.element_ty), mask=mask)


FORMS = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


def column_tiles(parts: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """The tiles of parts of (first column, columns): part, its first column, and the tile's first
    and last column, counted in the part."""
    return [
        (number, first, at, count)
        for number, (first, count) in enumerate(parts)
        for at in range(0, count, _COLUMNS)
    ]


def add_adapters(
    y: Tensor,
    x: Tensor,
    slots: Tensor,
    seq_starts: Tensor,
    records: Tensor,
    scales: Tensor,
    tiles: Tensor,
    *,
    rank: int,
    form: torch.dtype,
    longest_rows: int,
    fixed: bool = False,
    pdl: bool = False,
) -> Tensor:
    """y [N, rows] plus scale * B (A x) for x [N, cols], in y's memory; see `Ops.adapted`.

    slots int64 [N]: each row's slot, of which the rows of a sequence have one. records int64
    [slots, parts, WORDS]: addresses of A [rank, cols] and of B [rows of the part, rank] in `form`,
    and their rank, 0 where a slot adds nothing; scales float32 [slots, parts]; tiles int32: of
    `column_tiles`. rank: the most there may be. longest_rows: of a sequence in this step; 1 if
    every sequence has one. fixed: a row is multiplied in one form, whatever its step has.
    """
    n, rows = y.shape
    if not n:
        return y
    assert y.is_contiguous()
    x = x if x.stride(1) == 1 else x.contiguous()
    cols, parts = x.shape[1], records.shape[1]
    wide = max(16, power_of_two(rank))
    h = torch.empty((n, parts, wide), dtype=torch.float32, device=x.device)
    how = {"WORDS": WORDS, "WIDE": wide, "FORM": FORMS[form], **dependent(pdl)}
    if longest_rows == 1 and not fixed:
        _down_row[(n, parts, triton.cdiv(rank, _RANKS))](
            x, x.stride(0), slots, records, h, parts, cols, BR=_RANKS,
            BK=min(power_of_two(cols), 1024), num_warps=4, **how,
        )  # fmt: skip
        _up_row[(n, len(tiles))](
            h, slots, records, scales, tiles, y, rows, parts, BN=_COLUMNS, num_warps=4, **how
        )
        return y
    sequences = len(seq_starts) - 1
    tall = 16 if fixed else max(16, min(_TALL, power_of_two(longest_rows)))
    high = triton.cdiv(longest_rows, tall)
    how["PRECISION"] = precision(form)
    _down_rows[(sequences, parts, high)](
        x, x.stride(0), seq_starts, slots, records, h, parts, cols, BM=tall, BK=64, num_warps=4,
        **how,
    )  # fmt: skip
    _up_rows[(sequences, len(tiles), high)](
        h, seq_starts, slots, records, scales, tiles, y, rows, parts, BM=tall, BN=_COLUMNS,
        num_warps=4, **how,
    )  # fmt: skip
    return y
