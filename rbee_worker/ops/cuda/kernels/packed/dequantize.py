"""Packed weights become floats on the device, in every format that `checkpoint` can decode.

Values equal `gguf.quants.dequantize` to the last bit in float32; other types are rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.ops.cuda.kernels.packed import blocks, gridded
from rbee_worker.ops.cuda.kernels.packed.tables import table

_FLOATS = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
_VALUES: dict[str, Any] = {
    "Q4_0": blocks.q4_0,
    "Q4_1": blocks.q4_1,
    "Q5_0": blocks.q5_0,
    "Q5_1": blocks.q5_1,
    "Q8_0": blocks.q8_0,
    "Q2_K": blocks.q2_k,
    "Q3_K": blocks.q3_k,
    "Q4_K": blocks.q4_k,
    "Q5_K": blocks.q5_k,
    "Q6_K": blocks.q6_k,
    "IQ4_NL": blocks.iq4_nl,
    "IQ4_XS": blocks.iq4_xs,
    "MXFP4": blocks.mxfp4,
    "F8_B128": blocks.f8_b128,
    "TQ1_0": blocks.tq1_0,
    "TQ2_0": blocks.tq2_0,
    "IQ1_S": gridded.iq1_s,
    "IQ1_M": gridded.iq1_m,
    "IQ2_XXS": gridded.iq2_xxs,
    "IQ2_XS": gridded.iq2_xs,
    "IQ2_S": gridded.iq2_s,
    "IQ3_XXS": gridded.iq3_xxs,
    "IQ3_S": gridded.iq3_s,
}
READABLE = frozenset(_FLOATS) | frozenset(_VALUES)
_PROGRAM_VALUES = 2048  # values that a program of four warps computes: 16 a thread


@triton.jit
def _dequantize(
    raw,
    out,
    table,
    count,
    row_blocks,
    row_stride,
    VALUE: tl.constexpr,
    SIZE: tl.constexpr,
    BYTES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """`count` blocks of BYTES bytes and SIZE values, `row_blocks` of them a row of `out`; its rows
    are `row_stride` apart. VALUE: a function of `blocks.py` or `gridded.py`."""
    b = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)[:, None]
    e = tl.arange(0, SIZE)[None, :]
    real = b < count
    b = tl.minimum(b, count - 1)  # of the last program: read again, written once
    value = VALUE(raw + b.to(tl.int64) * BYTES, e, table)
    row = b // row_blocks
    at = row.to(tl.int64) * row_stride + (b - row * row_blocks) * SIZE + e
    tl.store(out + at, value.to(out.dtype.element_ty), mask=real)


def dequantize(
    raw: torch.Tensor, format: str, rows: int, cols: int, out: torch.Tensor
) -> torch.Tensor:
    """Write the values of `raw`, uint8 rows of whole blocks as in the file, contiguous, into `out`.

    out: [rows, cols], float32, bfloat16 or float16; its rows may be a slice of a larger tensor's,
    their values must be adjacent. A value beyond float16 becomes infinite. Returns `out`.
    """
    form = FORMATS[format]
    assert format in READABLE
    assert (raw.dtype, raw.is_contiguous()) == (torch.uint8, True)
    assert (out.shape, out.stride(1)) == ((rows, cols), 1)
    assert raw.numel() * form.block == rows * cols * form.bytes
    if rows == 0:
        return out
    if format in _FLOATS:
        assert raw.storage_offset() % form.bytes == 0
        return out.copy_(raw.view(-1).view(_FLOATS[format]).view(rows, cols))
    assert raw.data_ptr() % 4 == 0
    count = rows * cols // form.block
    assert count < 1 << 31
    per_program = _PROGRAM_VALUES // form.block
    looked_up = table(format, raw.device)
    _dequantize[(triton.cdiv(count, per_program),)](
        raw,
        out,
        raw if looked_up is None else looked_up,
        count,
        cols // form.block,
        out.stride(0),
        VALUE=_VALUES[format],
        SIZE=form.block,
        BYTES=form.bytes,
        BLOCKS=per_program,
        num_warps=4,
    )
    return out
