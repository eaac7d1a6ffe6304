"""Packed tensors to plain torch tensors: the definition of every block format.

Block layouts are those of ggml (github.com/ggml-org/ggml, src/ggml-common.h); results equal
`gguf.quants.dequantize` bit for bit. Work goes in spans of rows that fit the cache, so the memory
needed beyond the result is below a megabyte for each thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import DECODABLE, FORMATS, Packed
from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.reference import gridded

# Values decoded at a time: they fit the cache, and torch runs operations this small on the calling
# thread (its own threads meet at a barrier after each one, which stalls on a busy machine).
SPAN_VALUES = 1 << 15
THREADED_VALUES = 1 << 22  # tensors at least this large are decoded by several threads

F32 = torch.float32


def dequantize(packed: Packed, dtype: torch.dtype = F32) -> Tensor:
    """The values of `packed`, in its shape; decoded in float32, then rounded to `dtype`.

    Raises UnsupportedModel for a format that has no decoder.
    """
    if packed.format not in DECODABLE:
        raise UnsupportedModel(
            f"weights in format {packed.format} cannot be computed with.",
            fix=f"use a checkpoint in one of {', '.join(sorted(DECODABLE))}",
        )
    cols = packed.shape[-1] if packed.shape else 1
    threads = torch.get_num_threads()
    with torch.inference_mode(False):  # or the threads could not write to what is made here
        out = torch.empty((prod(packed.shape[:-1]), cols), dtype=dtype)
        if out.numel() < THREADED_VALUES or threads == 1:
            _fill(out, packed)
        else:
            part = -(-len(out) // threads)
            with ThreadPoolExecutor(threads) as pool:
                spans = [slice(at, at + part) for at in range(0, len(out), part)]
                list(pool.map(lambda span: _fill(out[span], packed, span.start), spans))
        return out.view(packed.shape)


def as_floats(packed: Packed) -> Packed:
    """The values of `packed` as F32, in its shape. Raises UnsupportedModel."""
    if packed.format == "F32":
        return packed
    values = dequantize(packed).numpy()
    rows = prod(packed.shape[:-1])
    return Packed(values.reshape(rows, -1).view(np.uint8), "F32", packed.shape)


def _fill(out: Tensor, packed: Packed, first: int = 0) -> None:
    """Write the values of rows first.. of `packed` into the rows of `out`."""
    width = FORMATS[packed.format].bytes
    decode = _DECODERS[packed.format]
    rows, cols = out.shape
    step = max(1, SPAN_VALUES // max(cols, 1))
    for at in range(0, rows, step):
        end = min(at + step, rows)
        # A copy: mapped files are read-only and not always aligned, torch wants neither.
        span = np.array(packed.data[first + at : first + end], order="C")
        out[at:end] = decode(torch.from_numpy(span.reshape(-1, width))).view(-1, cols)


# Decoders: blocks uint8 [n, bytes] -> float32 [n, block]


def _f32(b: Tensor) -> Tensor:
    return b.view(torch.float32)


def _f16(b: Tensor) -> Tensor:
    return b.view(torch.float16).to(F32)


def _bf16(b: Tensor) -> Tensor:
    return b.view(torch.bfloat16).to(F32)


def _f64(b: Tensor) -> Tensor:
    return b.view(torch.float64).to(F32)


def _half(b: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block, as float32 [n, 1]."""
    return b[:, at : at + 2].contiguous().view(torch.float16).to(F32)


def _nibbles(b: Tensor) -> Tensor:
    """Low nibbles, then high nibbles, of each row: uint8 [n, 2 * width]."""
    return torch.cat((b & 15, b >> 4), 1)


def _q4_0(b: Tensor) -> Tensor:
    q = _nibbles(b[:, 2:]).view(torch.int8) - 8
    return q * _half(b, 0)


def _q4_1(b: Tensor) -> Tensor:
    return (_nibbles(b[:, 4:]) * _half(b, 0)).add_(_half(b, 2))


def _fifth_bits(b: Tensor) -> Tensor:
    """Bits 0..31 of four bytes a row, each as 0 or 16: uint8 [n, 32]."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return ((b[:, :, None] >> shifts & 1) << 4).view(len(b), 32)


def _q5_0(b: Tensor) -> Tensor:
    q = (_nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6])).view(torch.int8) - 16
    return q * _half(b, 0)


def _q5_1(b: Tensor) -> Tensor:
    q = _nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8])
    return (q * _half(b, 0)).add_(_half(b, 2))


def _q8_0(b: Tensor) -> Tensor:
    return b[:, 2:].view(torch.int8) * _half(b, 0)


def _q2_k(b: Tensor) -> Tensor:
    """16 groups of 16: 4-bit scale and minimum each, 2-bit values in two halves of 128."""
    scales, n = b[:, :16], len(b)
    d, dmin = _half(b, 80), _half(b, 82)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8).view(4, 1)
    q = (b[:, 16:80].reshape(n, 2, 1, 32) >> shifts) & 3
    scale = (d * (scales & 15)).view(n, 16, 1)
    low = (dmin * (scales >> 4)).view(n, 16, 1)
    return (q.view(n, 16, 16) * scale).sub_(low).view(n, 256)


def _q3_k(b: Tensor) -> Tensor:
    """16 groups of 16: 6-bit scales less 32, values of 2 bits and an inverted third bit."""
    n = len(b)
    low, top = b[:, 96:104], b[:, 104:108]
    low4 = torch.cat((low & 15, low >> 4), 1)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8).view(4, 1)
    high2 = ((top.view(n, 1, 4) >> shifts) & 3).view(n, 16)
    scales = (low4 | (high2 << 4)).view(torch.int8) - 32
    q = ((b[:, 32:96].reshape(n, 2, 1, 32) >> shifts) & 3).view(n, 256)
    bits = torch.arange(8, dtype=torch.uint8).view(8, 1)
    missing = (((b[:, :32].reshape(n, 1, 32) >> bits) & 1) ^ 1).view(n, 256) << 2
    values = q.view(torch.int8) - missing.view(torch.int8)
    return (values.view(n, 16, 16) * (_half(b, 108) * scales).view(n, 16, 1)).view(n, 256)


def _scale_min_k4(b: Tensor) -> tuple[Tensor, Tensor]:
    """Twelve bytes as eight 6-bit scales and eight 6-bit minimums: two uint8 [n, 8]."""
    a, m, x = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scale = torch.cat((a & 63, (x & 15) | ((a >> 2) & 0x30)), 1)
    low = torch.cat((m & 63, (x >> 4) | ((m >> 2) & 0x30)), 1)
    return scale, low


def _k4(b: Tensor, q: Tensor) -> Tensor:
    """Values q uint8 [n, 8, 32] of Q4_K and Q5_K with their scales and minimums."""
    n = len(b)
    scale, low = _scale_min_k4(b[:, 4:16])
    d = (_half(b, 0) * scale).view(n, 8, 1)
    m = (_half(b, 2) * low).view(n, 8, 1)
    return (q * d).sub_(m).view(n, 256)


def _halves(q: Tensor) -> Tensor:
    """Four spans of 32 bytes: their low, then their high nibbles, each: uint8 [n, 8, 32]."""
    n = len(q)
    q = q.reshape(n, 4, 1, 32)
    return torch.cat((q & 15, q >> 4), 2).view(n, 8, 32)


def _q4_k(b: Tensor) -> Tensor:
    return _k4(b, _halves(b[:, 16:144]))


def _q5_k(b: Tensor) -> Tensor:
    bits = torch.arange(8, dtype=torch.uint8).view(8, 1)
    fifth = ((b[:, 16:48].reshape(len(b), 1, 32) >> bits) & 1) << 4
    return _k4(b, _halves(b[:, 48:176]) | fifth)


def _q6_k(b: Tensor) -> Tensor:
    """16 groups of 16: 8-bit scales, values of 4 + 2 bits less 32, in two halves of 128."""
    n = len(b)
    low = b[:, :128].reshape(n, 2, 1, 64)
    low = torch.cat((low & 15, low >> 4), 2).view(n, 256)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8).view(4, 1)
    high = ((b[:, 128:192].reshape(n, 2, 1, 32) >> shifts) & 3).view(n, 256)
    q = (low | (high << 4)).view(torch.int8) - 32
    scale = (_half(b, 208) * b[:, 192:208].view(torch.int8)).view(n, 16, 1)
    return (q.view(n, 16, 16) * scale).view(n, 256)


_IQ4 = torch.tensor(  # the values of a nibble in IQ4_NL and IQ4_XS
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.int8
)
_FP4 = torch.tensor(  # twice the values of a nibble in MXFP4: sign, two bits of exponent, one more
    [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=torch.int8
)


def _iq4_nl(b: Tensor) -> Tensor:
    return _IQ4[_nibbles(b[:, 2:]).long()] * _half(b, 0)


def _iq4_xs(b: Tensor) -> Tensor:
    """8 groups of 32: 6-bit scales less 32, high pairs in two bytes, then the low four bits."""
    n = len(b)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)
    high = ((b[:, 2:4, None] >> shifts) & 3).view(n, 8)
    low = torch.stack((b[:, 4:8] & 15, b[:, 4:8] >> 4), 2).view(n, 8)
    scale = (low | (high << 4)).view(torch.int8) - 32
    q = b[:, 8:].reshape(n, 8, 16)
    values = _IQ4[torch.cat((q & 15, q >> 4), 2).long()]  # [n, 8, 32]
    return (values * (_half(b, 0) * scale).view(n, 8, 1)).view(n, 256)


def _mxfp4(b: Tensor) -> Tensor:
    """The scale is an exponent e alone: 2^(e - 128), since the table has values doubled."""
    e = b[:, :1].int()
    d = torch.where(e < 2, (e + 1) << 21, (e - 1) << 23).view(torch.float32)  # below 2: subnormal
    return _FP4[_nibbles(b[:, 1:]).long()] * d


def _f8_b128(b: Tensor) -> Tensor:
    """128 8-bit floats (1-4-3) behind their float32 scale."""
    scale = b[:, :4].contiguous().view(F32)
    return b[:, 4:].contiguous().view(torch.float8_e4m3fn).to(F32) * scale


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "F64": _f64,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "F8_B128": _f8_b128,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
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
