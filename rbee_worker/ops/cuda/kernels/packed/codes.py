"""The parts of packed blocks, taken from their bytes in plain torch: codes, scales, block words.

A code is what a block holds of one value. Fields of blocks are read as `checkpoint/decoding/blocks`
reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Parts(NamedTuple):
    """codes: uint8 [blocks, values of a block]. scales: uint8 [blocks, 2 bytes] for each scale of
    blocks of 32; [blocks, 4 chunks of 64 values, 4 bytes] in blocks of 256. block: int32 [blocks]:
    a block's float16 scale in the low half, its second one in the high half."""

    codes: Tensor
    scales: tuple[Tensor, ...]
    block: Tensor | None = None


def _fields(b: Tensor, bits: int, width: int) -> Tensor:
    """The lowest `bits` bits of `width` bytes, then their next bits, and so on; then the same for
    the next `width` bytes: uint8 [blocks, fields]."""
    each = [(b.view(len(b), -1, 1, width) >> at) & ((1 << bits) - 1) for at in range(0, 8, bits)]
    return torch.cat(each, 2).view(len(b), -1)


def _nibbles(b: Tensor, width: int) -> Tensor:
    return _fields(b.contiguous(), 4, width)


def _fifth(b: Tensor) -> Tensor:
    """Bits 0 to 31 of four bytes, each as 0 or 16."""
    each = [(b >> at) & 1 for at in range(8)]
    return torch.stack(each, 2).view(len(b), 32) << 4


def _halves(low: Tensor, high: Tensor | None = None) -> Tensor:
    """int32 [blocks] of one or two float16 numbers as bytes [blocks, 2]."""
    both = torch.cat([low, torch.zeros_like(low) if high is None else high], 1)
    return both.contiguous().view(torch.int32)[:, 0]


def _q4_0(b: Tensor) -> Parts:
    return Parts(_nibbles(b[:, 2:], 16), (b[:, :2],))


def _q4_1(b: Tensor) -> Parts:
    return Parts(_nibbles(b[:, 4:], 16), (b[:, :2], b[:, 2:4]))


def _q5_0(b: Tensor) -> Parts:
    return Parts(_nibbles(b[:, 6:], 16) | _fifth(b[:, 2:6]), (b[:, :2],))


def _q5_1(b: Tensor) -> Parts:
    return Parts(_nibbles(b[:, 8:], 16) | _fifth(b[:, 4:8]), (b[:, :2], b[:, 2:4]))


def _q8_0(b: Tensor) -> Parts:
    return Parts(b[:, 2:], (b[:, :2],))


def _mxfp4(b: Tensor) -> Parts:
    """The scale as the upper half of a float32: 2^(e - 128), below e = 2 a subnormal number."""
    e = b[:, :1].int()
    bits = torch.where(e < 2, (e + 1) << 21, (e - 1) << 23)
    return Parts(_nibbles(b[:, 1:], 16), (bits.view(torch.uint8)[:, 2:],))


def _q2_k(b: Tensor) -> Parts:
    """A byte for 16 values: scale in the low half, minimum in the high one."""
    scales = b[:, :16].reshape(-1, 4, 4)
    return Parts(
        _fields(b[:, 16:80].contiguous(), 2, 32), (scales,), _halves(b[:, 80:82], b[:, 82:])
    )


def _q3_k(b: Tensor) -> Parts:
    """Codes are the values, -4 to 3, in three bits; scales are bytes with a sign."""
    low = _nibbles(b[:, 96:104], 8)
    scales = (low | (_fields(b[:, 104:108].contiguous(), 2, 4) << 4)) - 32
    missing = (_fields(b[:, :32].contiguous(), 1, 32) ^ 1) << 2
    q = (_fields(b[:, 32:96].contiguous(), 2, 32) - missing) & 7
    return Parts(q, (scales.view(-1, 4, 4),), _halves(b[:, 108:]))


def _k4_scales(b: Tensor) -> Tensor:
    """Two scales and two minimums for each chunk of 64 values: [blocks, 4, 4]."""
    a, m, x = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = torch.cat([a & 63, (x & 15) | ((a >> 2) & 0x30)], 1).view(-1, 4, 2)
    low = torch.cat([m & 63, (x >> 4) | ((m >> 2) & 0x30)], 1).view(-1, 4, 2)
    return torch.cat([scale, low], 2)


def _q4_k(b: Tensor) -> Parts:
    return Parts(_nibbles(b[:, 16:], 32), (_k4_scales(b),), _halves(b[:, :2], b[:, 2:4]))


def _q5_k(b: Tensor) -> Parts:
    fifth = _fields(b[:, 16:48].contiguous(), 1, 32) << 4
    codes = _nibbles(b[:, 48:], 32) | fifth
    return Parts(codes, (_k4_scales(b),), _halves(b[:, :2], b[:, 2:4]))


def _q6_k(b: Tensor) -> Parts:
    """Codes are the values, -32 to 31, in six bits; scales are bytes with a sign."""
    high = _fields(b[:, 128:192].contiguous(), 2, 32) << 4
    q = ((_nibbles(b[:, :128], 64) | high) - 32) & 63
    return Parts(q, (b[:, 192:208].reshape(-1, 4, 4),), _halves(b[:, 208:]))


def _iq4_xs(b: Tensor) -> Parts:
    """Scales are bytes with a sign, two for each chunk of 64 values."""
    low = torch.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], 2).view(-1, 8)
    each = [(b[:, 2:4] >> at) & 3 for at in range(0, 8, 2)]
    scales = (low | (torch.stack(each, 2).view(-1, 8) << 4)) - 32
    padded = torch.nn.functional.pad(scales.view(-1, 4, 2), (0, 2))
    return Parts(_nibbles(b[:, 8:], 16), (padded,), _halves(b[:, :2]))


def _ternary(codes: Tensor, d: Tensor) -> Parts:
    """Values 0, 1, 2 that mean -d, 0, d, as Q2_K: scales and minimums are 1."""
    ones = torch.full((len(codes), 4, 4), 0x11, dtype=torch.uint8, device=codes.device)
    return Parts(codes, (ones,), _halves(d, d))


def _tq1_0(b: Tensor) -> Parts:
    """Base-3 digits: five in each of 32 and then 16 bytes, four in each of the last 4. A byte is a
    fraction, so multiplying by 3 moves its next digit before the point."""
    places = ((b[:, :32], 5), (b[:, 32:48], 5), (b[:, 48:52], 4))
    shifted = [part * 3**digit for part, digits in places for digit in range(digits)]  # modulo 256
    codes = (torch.cat(shifted, 1).int() * 3) >> 8
    return _ternary(codes.to(torch.uint8), b[:, 52:])


def _tq2_0(b: Tensor) -> Parts:
    return _ternary(_fields(b[:, :64].contiguous(), 2, 32), b[:, 64:])


TAKEN: dict[str, Callable[[Tensor], Parts]] = {  # uint8 [blocks, bytes] -> the parts of the blocks
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
    "IQ4_NL": _q4_0,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
}
