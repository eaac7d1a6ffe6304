"""Packed tensors become float32 arrays: the definition of every block format, without torch.

Block layouts are those of ggml (github.com/ggml-org/ggml, src/ggml-common.h). Results equal
`gguf.quants.dequantize` bit for bit. Rows are decoded in spans that fit the CPU's cache, so beside
the result each thread needs less than a megabyte.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from rbee_worker.checkpoint.decoding import blocks, floats, gridded
from rbee_worker.checkpoint.decoding.bits import F32, Bytes
from rbee_worker.checkpoint.formats import DECODABLE, FORMATS, Packed
from rbee_worker.errors import UnsupportedModel

__all__ = ["DECODERS", "F32", "as_floats", "decode", "decode_spans"]

SPAN_VALUES = 1 << 15  # values decoded at a time, so that a span's arrays fit the CPU's cache
THREADED_VALUES = 1 << 22  # tensors at least this large are decoded by several threads

Decoder = Callable[[Bytes, F32], None]  # blocks uint8 [n, bytes] into float32 [n, block]

DECODERS: dict[str, Decoder] = {
    "F32": floats.f32,
    "F16": floats.f16,
    "BF16": floats.bf16,
    "F64": floats.f64,
    "F8_B128": floats.f8_b128,
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
    "IQ1_S": gridded.iq1_s,
    "IQ1_M": gridded.iq1_m,
    "IQ2_XXS": gridded.iq2_xxs,
    "IQ2_XS": gridded.iq2_xs,
    "IQ2_S": gridded.iq2_s,
    "IQ3_XXS": gridded.iq3_xxs,
    "IQ3_S": gridded.iq3_s,
    "TQ1_0": gridded.tq1_0,
    "TQ2_0": gridded.tq2_0,
}


def decode(packed: Packed, *, threads: int = 1) -> F32:
    """The values of `packed`, in its shape. Large tensors are decoded by `threads` threads.

    Raises UnsupportedModel for a format that has no decoder.
    """
    rows, cols = prod(packed.shape[:-1]), packed.shape[-1] if packed.shape else 1
    out = np.empty((rows, cols), np.float32)

    def fill(span: slice) -> None:
        _decode_rows(packed, span, out[span])

    _each_span(packed, fill, threads)
    return out.reshape(packed.shape)


def decode_spans(packed: Packed, take: Callable[[slice, F32], None], *, threads: int = 1) -> None:
    """Call `take(rows, values)` for every span of rows of `packed`: the span and its values as
    float32 [rows, columns]. With more than one thread, `take` is called from all of them.

    Raises as `decode`.
    """
    cols = packed.shape[-1] if packed.shape else 1

    def decoded(span: slice) -> None:
        out = np.empty((span.stop - span.start, cols), np.float32)
        _decode_rows(packed, span, out)
        take(span, out)

    _each_span(packed, decoded, threads)


def as_floats(packed: Packed, *, threads: int = 1) -> Packed:
    """The values of `packed` as F32, in its shape. Raises as `decode`."""
    if packed.format == "F32":
        return packed
    values = decode(packed, threads=threads)
    data = values.reshape(prod(packed.shape[:-1]), -1).view(np.uint8)
    return Packed(data, "F32", packed.shape)


def _each_span(packed: Packed, work: Callable[[slice], None], threads: int) -> None:
    """Call `work` with every span of rows, from several threads if the tensor is large."""
    if packed.format not in DECODABLE:
        raise UnsupportedModel(
            f"weights in format {packed.format} cannot be computed with.",
            fix=f"use a checkpoint in one of {', '.join(sorted(DECODABLE))}",
        )
    rows, cols = prod(packed.shape[:-1]), packed.shape[-1] if packed.shape else 1
    step = max(1, SPAN_VALUES // max(cols, 1))
    spans = [slice(at, min(at + step, rows)) for at in range(0, rows, step)]
    if rows * cols < THREADED_VALUES or threads == 1:
        for span in spans:
            work(span)
        return
    from concurrent.futures import ThreadPoolExecutor  # imported late: few models need it

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, spans))


def _decode_rows(packed: Packed, span: slice, out: F32) -> None:
    """Write the values of some rows of `packed` into `out` [rows, columns]."""
    form = FORMATS[packed.format]
    raw = np.ascontiguousarray(packed.data[span]).reshape(-1, form.bytes)
    # A damaged file may hold any scale: the result is then infinite or nan, and no numpy warning.
    with np.errstate(all="ignore"):
        DECODERS[packed.format](raw, out.reshape(-1, form.block))
