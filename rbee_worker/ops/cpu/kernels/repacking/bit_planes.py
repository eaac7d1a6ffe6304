"""Bytes of 16 rows, gathered into vectors, become planes of held units (`blocks.py`).

A word is a vector whose lanes each hold four columns of a row, a byte each; 8 words are 32 columns.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.product.blocks import M1, M2, M4


def gathered(pen: Pen, p: Ref, st: Ref, count: int) -> list[Vec]:
    """`count` words, four bytes of each row, from p on. `count` is a multiple of 4."""
    assert count % 4 == 0
    return [word for k in range(0, count, 4) for word in pen.quad(p + 4 * k, st)]


def byte(words: list[Vec], j: int) -> Vec:
    """Byte j of each row as a number."""
    return (words[j // 4] >> (8 * (j % 4))) & 255


def half(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    """Copy a 16-bit number of each row from p to `to`."""
    pen.gather(p, st, 2).store_i16(to)


def store(planes: list[Vec], to: Ref) -> None:
    """Write vectors one after another."""
    for k, v in enumerate(planes):
        v.store(to + 64 * k)


def spread(pen: Pen, h: Vec) -> Vec:
    """32 bits, bit c of column c, as a held one-bit plane: a transpose of 8 x 4 bits."""
    plane = pen.izeros()
    for k in range(8):
        plane = plane | (bits_to_bytes(h >> (4 * k)) << k)
    return plane


def bits_to_bytes(bits: Vec) -> Vec:
    """The four lowest bits of each lane, each as the lowest bit of a byte."""
    return ((bits & 15) * 0x00204081) & M1


def bit_plane(pen: Pen, words: list[Vec], j: int) -> Vec:
    """Bit j of 8 words' bytes as a held one-bit plane."""
    plane = pen.izeros()
    for k, v in enumerate(words):
        plane = plane | (((v >> j) & M1) << k)
    return plane


def pair_planes(pen: Pen, words: list[Vec], shift: int) -> list[Vec]:
    """Two bits, at `shift`, of 8 words' bytes as a held two-bit plane."""
    planes = []
    for part in (words[:4], words[4:]):
        plane = pen.izeros()
        for k, v in enumerate(part):
            plane = plane | (((v >> shift) & M2) << (2 * k))
        planes.append(plane)
    return planes


def nibble_planes(words: list[Vec], high: bool) -> list[Vec]:
    """The low or high halves of 8 words' bytes as a held nibble plane."""
    return [
        ((a >> 4) & M4) | (b & (M4 << 4) - (1 << 32)) if high else (a & M4) | ((b & M4) << 4)
        for a, b in zip(words[:4], words[4:], strict=True)
    ]
