"""Decoders of formats whose values are floats: blocks uint8 [n, bytes] into float32 [n, block]."""

from __future__ import annotations

import numpy as np

from rbee_worker.checkpoint.decoding.bits import F32, Bytes

_BEYOND = np.float32(65536)  # above every finite float16


def f32(b: Bytes, out: F32) -> None:
    """A copy."""
    out[:] = b.view(np.float32)


def f64(b: Bytes, out: F32) -> None:
    """Rounded to float32."""
    out[:] = b.view(np.float64)


def bf16(b: Bytes, out: F32) -> None:
    """The upper half of a float32's bits."""
    bits = out.view(np.uint32)
    bits[:] = b.view(np.uint16)
    bits <<= np.uint32(16)


def f16(b: Bytes, out: F32) -> None:
    """Moves sign, exponent (5 bits) and fraction (10 bits) to their places in a float32. A
    multiplication then corrects the exponent, also for subnormals. Four times faster than numpy."""
    bits = out.view(np.int32)
    bits[:] = b.view(np.int16)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: keep only the highest of the sign bit's copies
    out *= np.float32(2.0**112)
    # Infinities and nan, which are rare.
    if max(out.max(initial=0), -out.min(initial=0)) >= _BEYOND:
        out[:] = b.view(np.float16)


# The 256 values of an 8-bit float: sign, 4 exponent bits (bias 7), 3 fraction bits. There are no
# infinities; all ones in exponent and fraction mean nan.
_CODES = np.arange(128)
_EXPONENT, _FRACTION = _CODES >> 3, _CODES & 7
_F8 = np.where(
    _EXPONENT > 0, (8 + _FRACTION) * 2.0 ** (_EXPONENT - 10), _FRACTION * 2.0**-9
).astype(np.float32)
_F8[127] = np.nan
_F8 = np.concatenate([_F8, -_F8])


def f8_b128(b: Bytes, out: F32) -> None:
    """128 8-bit floats (1-4-3), preceded by their float32 scale."""
    np.take(_F8, b[:, 4:], out=out, mode="clip")
    out *= np.ascontiguousarray(b[:, :4]).view(np.float32)
