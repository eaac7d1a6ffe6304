"""Decoders of the IQ formats on grids, and of the ternary ones; see `dequant`.

Blocks of 256: a float16 d, scales s that count as 2s + 1, and values that are points of a grid
(`grids.py`) with signs, or in IQ1 an eighth more or less. No product here is rounded, so the order
of factors does not matter. Layouts: ggml, src/ggml-common.h.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from rbee_worker.ops.reference import grids

F32, I32 = torch.float32, torch.int32
_NIBBLES = torch.tensor([0, 4], dtype=torch.uint8)
_PAIRS = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)
_BITS = torch.arange(8, dtype=torch.uint8)


@cache
def _levels(name: str) -> Tensor:
    return torch.from_numpy(grids.levels(name))


def _half(b: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block, as float32 [n, 1]."""
    return b[:, at : at + 2].contiguous().view(torch.float16).to(F32)


def _u16(b: Tensor, first: int, last: int) -> Tensor:
    """Bytes first .. last - 1 of each block as 16-bit numbers: int32 [n, count]."""
    return b[:, first:last].contiguous().view(torch.int16).to(I32) & 0xFFFF


def _u32(b: Tensor, first: int, last: int) -> Tensor:
    """Bytes first .. last - 1 of each block as 32-bit numbers: int64 [n, count]."""
    return b[:, first:last].contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def _spread(b: Tensor, shifts: Tensor, mask: int) -> Tensor:
    """Every byte's fields, lowest first: uint8 [n, fields]."""
    return ((b[:, :, None] >> shifts) & mask).view(len(b), -1)


def _fields(words: Tensor, width: int) -> Tensor:
    """The four lowest fields of `width` bits of each word, lowest first: [n, 4 * words]."""
    shifts = torch.arange(4, dtype=words.dtype) * width
    return ((words[:, :, None] >> shifts) & ((1 << width) - 1)).view(len(words), -1)


def _even_signs(seven: Tensor) -> Tensor:
    """7 sign bits each -> 8: the last makes their number even. uint8."""
    parity = seven ^ (seven >> 4)
    parity = parity ^ (parity >> 2)
    parity = (parity ^ (parity >> 1)) & 1
    return (seven | (parity << 7)).to(torch.uint8)


def _signed(grid: str, index: Tensor, signs: Tensor) -> Tensor:
    """Points of a grid with the signs of their values, a bit each, 32 bytes: int8 [n, 256]."""
    n = len(index)
    minus = ((signs.view(n, 32, 1) >> _BITS) & 1).view(torch.int8)
    return (_levels(grid)[index.long()].view(n, 32, 8) * (1 - 2 * minus)).view(n, 256)


def _scaled(values: Tensor, d: Tensor, scales: Tensor, factor: float) -> Tensor:
    """values [n, 256] * d [n, 1] * (2 * scales + 1) [n, groups] * factor: float32 [n, 256]."""
    n, groups = scales.shape
    scale = (d * (2 * scales.to(F32) + 1) * factor).view(n, groups, 1)
    return (values.view(n, groups, -1) * scale).view(n, 256)


def iq2_xxs(b: Tensor) -> Tensor:
    """Each 32: four indices; four times 7 signs and a scale in 32 bits."""
    n = len(b)
    groups = b[:, 2:].reshape(n, 8, 8)
    words = _u32(groups[:, :, 4:].reshape(n, 32), 0, 32)
    index = groups[:, :, :4].reshape(n, 32)
    values = _signed("IQ2_XXS", index, _even_signs(_fields(words, 7)))
    return _scaled(values, _half(b, 0), words >> 28, 0.125)


def iq2_xs(b: Tensor) -> Tensor:
    """Each 8: 9 bits of index, 7 signs; each 16 a scale."""
    q = _u16(b, 2, 66)
    values = _signed("IQ2_XS", q & 511, _even_signs(q >> 9))
    return _scaled(values, _half(b, 0), _spread(b[:, 66:], _NIBBLES, 15), 0.125)


def iq2_s(b: Tensor) -> Tensor:
    """Each 8: a byte of index, a byte of signs, two high bits of index; each 16 a scale."""
    index = b[:, 2:34].to(I32) | (_spread(b[:, 66:74], _PAIRS, 3).to(I32) << 8)
    values = _signed("IQ2_S", index, b[:, 34:66].contiguous())
    return _scaled(values, _half(b, 0), _spread(b[:, 74:], _NIBBLES, 15), 0.125)


def iq3_xxs(b: Tensor) -> Tensor:
    """Each 4 an index; each 32 four times 7 signs and a scale in 32 bits."""
    words = _u32(b, 66, 98)
    values = _signed("IQ3_XXS", b[:, 2:66], _even_signs(_fields(words, 7)))
    return _scaled(values, _half(b, 0), words >> 28, 0.25)


def iq3_s(b: Tensor) -> Tensor:
    """Each 4: a byte of index and a ninth bit; a byte of signs for 8; each 32 a scale."""
    index = b[:, 2:66].to(I32) | (_spread(b[:, 66:74], _BITS, 1).to(I32) << 8)
    values = _signed("IQ3_S", index, b[:, 74:106].contiguous())
    return _scaled(values, _half(b, 0), _spread(b[:, 106:], _NIBBLES, 15), 1.0)


def _nudged(index: Tensor, down: Tensor) -> Tensor:
    """8 times (points of IQ1's grid +- 1/8), down where `down` [n, 32 or 8] says: int8 [n, 256]."""
    n = len(index)
    values = _levels("IQ1")[index.long()].view(n, down.shape[1], -1) * 8
    return (values + (1 - 2 * down.to(torch.int8)).view(n, -1, 1)).view(n, 256)


def iq1_s(b: Tensor) -> Tensor:
    """Each 8 a byte of index; each 32: four times 3 high bits, a scale of 3 bits, up or down."""
    high = _u16(b, 34, 50)
    index = b[:, 2:34].to(I32) | (_fields(high, 3) << 8)
    return _scaled(_nudged(index, high >> 15), _half(b, 0), (high >> 12) & 7, 0.125)


def iq1_m(b: Tensor) -> Tensor:
    """Each 8: a byte of index, 3 high bits, up or down; each 16 a scale of 3 bits, 4 of them in 16
    bits, whose highest four are a part of d."""
    high, words = _spread(b[:, 32:48], _NIBBLES, 15), _u16(b, 48, 56)
    index = b[:, :32].to(I32) | ((high & 7).to(I32) << 8)
    parts = (words >> 12) << torch.arange(0, 16, 4, dtype=I32)
    d = parts.sum(1, dtype=I32).to(torch.int16).view(torch.float16).to(F32).view(-1, 1)
    return _scaled(_nudged(index, high >> 3), d, _fields(words, 3), 0.125)


def tq1_0(b: Tensor) -> Tensor:
    """Values -1, 0, 1, five to a byte of 32 and of 16 bytes, four to one of 4: digits of base 3,
    each found as the next one above the point after a multiplication by 3."""
    powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8).view(5, 1)
    spans = ((b[:, :32], powers), (b[:, 32:48], powers), (b[:, 48:52], powers[:4]))
    digits = [(span[:, None, :] * by).flatten(1) for span, by in spans]  # modulo 256
    q = ((torch.cat(digits, 1).to(torch.int16) * 3) >> 8).to(torch.int8) - 1
    return q * _half(b, 52)


def tq2_0(b: Tensor) -> Tensor:
    """2-bit values less 1, in two halves of 128 as in Q2_K."""
    q = (b[:, :64].reshape(len(b), 2, 1, 32) >> _PAIRS.view(4, 1)) & 3
    return (q.view(len(b), 256).view(torch.int8) - 1) * _half(b, 64)
