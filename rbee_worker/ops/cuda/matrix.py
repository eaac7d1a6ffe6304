"""How a matrix is kept on the device: as floats, as packed planes, or as both.

Products of up to four rows read planes, a quarter to a half of the bytes of floats. Products of
many rows need floats: a copy that is always there, where the memory plan has room for it
(`resident`), or else one that is made each time from the file's own bytes. Where there is room for
them, 8-bit integers are kept as well, for products of 5 to 64 rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.ops.cuda.kernels.block_bytes import BLOCK, integer_bytes
from rbee_worker.ops.cuda.kernels.packed.dequantize import dequantize
from rbee_worker.ops.cuda.kernels.packed.planes import CHUNK, ROWS, WORDS, PackedPart
from rbee_worker.ops.plan import DTYPE_BYTES


@dataclass(frozen=True)
class Raw:
    """Rows of a matrix as their file has them: uint8 [rows, bytes of a row]."""

    data: Tensor
    format: str


@dataclass(frozen=True)
class DeviceMatrix:
    """rows x cols. dense: in the compute dtype, or None; scales: float32, where dense is in 8-bit
    floats: [rows], one for each row (`quantized`), or [rows, cols / 128] (`with_blocks`). parts:
    planes of all rows in order, or none; raw: the file's bytes of all rows in order, kept where
    `dense` is not; integers: the matrix once more, as `kernels.block_bytes.matrix_bytes` writes
    it."""

    rows: int
    cols: int
    dense: Tensor | None
    parts: tuple[PackedPart, ...] = ()
    raw: tuple[Raw, ...] = ()
    scales: Tensor | None = None
    integers: tuple[Tensor, Tensor] | None = None

    def floats(self, dtype: torch.dtype) -> Tensor:
        """The matrix in the compute dtype; made now if it is not kept."""
        if self.dense is not None and self.scales is not None:
            return _scaled(self.dense, self.scales).to(dtype)
        if self.dense is not None:
            return self.dense
        device = self.raw[0].data.device
        out = torch.empty((self.rows, self.cols), dtype=dtype, device=device)
        at = 0
        for raw in self.raw:
            count = len(raw.data)
            dequantize(raw.data, raw.format, count, self.cols, out[at : at + count])
            at += count
        return out

    def rows_of(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """A matrix of these rows, int64 [N], in the compute dtype: [N, cols]"""
        if self.dense is not None and self.scales is not None:
            return _scaled(self.dense[ids], self.scales[ids]).to(dtype)
        if self.dense is not None:
            return self.dense[ids]
        (raw,) = self.raw  # an embedding is one tensor
        some = raw.data[ids].contiguous()
        out = torch.empty((len(ids), self.cols), dtype=dtype, device=ids.device)
        return dequantize(some, raw.format, len(ids), self.cols, out)

    @property
    def has_blocks(self) -> bool:
        """Whether a row has a scale for each 128 columns."""
        return self.scales is not None and self.scales.dim() == 2

    def halves(self) -> tuple[PackedPart, PackedPart] | None:
        """Planes of the first and of the second half of the rows, if both have one format."""
        half = self.rows // 2
        if len(self.parts) == 1 and half % ROWS == 0:
            part = self.parts[0]
            return part.row_range(0, half), part.row_range(half, self.rows)
        if len(self.parts) == 2 and self.parts[0].format == self.parts[1].format:
            first, second = self.parts
            return (first, second) if first.rows == second.rows == half else None
        return None


def operand(matrix: object) -> str | None:
    """What products of few rows read of it: packed "planes", "floats" in the compute type, or "f8",
    8-bit floats with a scale for each row; None: something else."""
    if not isinstance(matrix, DeviceMatrix):
        return None
    if matrix.parts:
        return "planes"
    if matrix.dense is None or matrix.has_blocks:
        return None
    return "floats" if matrix.scales is None else "f8"


@dataclass(frozen=True)
class DeviceStack:
    """Several matrices [count, rows, cols]: in the compute dtype, or in 8-bit floats with scales
    float32 [count, rows, cols / 128]."""

    dense: Tensor
    scales: Tensor | None = None

    def floats(self, dtype: torch.dtype) -> Tensor:
        """The matrices in the compute dtype; made now if they are in 8 bits."""
        if self.scales is None:
            return self.dense
        whole = _scaled(self.dense.flatten(0, 1), self.scales.flatten(0, 1))
        return whole.view(self.dense.shape).to(dtype)


F8 = torch.float8_e4m3fn
_F8_MOST = 448.0  # the largest number of that format


F8_BLOCKS = "F8_B128"  # the format of 8-bit floats with scales for 128 columns of a row
F8_BLOCK = FORMATS[F8_BLOCKS].block  # these columns


def _scaled(values: Tensor, scales: Tensor) -> Tensor:
    """8-bit floats [rows, cols] times their scales, in float32."""
    each = scales if scales.dim() == 2 else scales[:, None]
    wide = values.float().view(len(values), each.shape[1], values.shape[1] // each.shape[1])
    found: Tensor = (wide * each[:, :, None]).flatten(1)
    return found


def with_blocks(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Values [rows, cols] and scales [rows, cols / 128] of the file's bytes of some rows."""
    form = FORMATS[F8_BLOCKS]
    parts = raw.view(len(raw), -1, form.bytes)
    scales = parts[:, :, :4].contiguous().view(torch.float32)[:, :, 0].contiguous()
    return parts[:, :, 4:].contiguous().flatten(1).view(F8), scales


def quantized(dense: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit floats and a scale for each row, so that its largest number is the largest there is."""
    largest = dense.abs().amax(dim=1, keepdim=True).float()
    scales = torch.where(largest > 0, largest / _F8_MOST, 1.0)
    return (dense.float() / scales).to(F8), scales[:, 0].contiguous()


@dataclass(frozen=True)
class Forms:
    """How matrices are kept. planes: packed ones as planes, for products of a few rows; integers,
    resident: and as 8-bit integers, and as floats, beside them. f8: those of floats in 8 bits."""

    planes: bool = True
    resident: bool = True
    integers: bool = True
    f8: bool = False

    def with_integers(self, cols: int) -> bool:
        """Whether packed matrices of so many columns are kept as 8-bit integers too."""
        return self.planes and self.integers and cols % BLOCK == 0


def held_form(format: str, rows: int, cols: int, dtype: str, forms: Forms) -> tuple[str, int]:
    """The name and the bytes of a matrix in this form; see `DeviceMatrix`."""
    dense = rows * cols * DTYPE_BYTES[dtype]
    if format == F8_BLOCKS:
        return "f8", rows * cols + rows * cols // FORMATS[F8_BLOCKS].block * 4
    if format not in WORDS:
        return ("f8", rows * cols + 4 * rows) if forms.f8 else (dtype, dense)
    if not forms.planes:
        return dtype, dense
    name, held = f"{format} planes", planes_bytes(format, rows, cols)
    if forms.with_integers(cols):
        name, held = f"{name}, i8", held + integer_bytes(rows, cols)
    if forms.resident:
        return f"{name} and {dtype}", held + dense
    form = FORMATS[format]
    return f"{name} and bytes", held + rows * cols // form.block * form.bytes


def planes_bytes(format: str, rows: int, cols: int) -> int:
    """The bytes of a packed matrix's planes."""
    height = -(-rows // ROWS) * ROWS
    planes = height * -(-cols // CHUNK) * WORDS[format] * 4
    return planes + (height * cols // 256 * 4 if FORMATS[format].block == 256 else 0)


def part_offsets(parts: Sequence[PackedPart]) -> list[int]:
    """The first row of each part."""
    found, at = [], 0
    for part in parts:
        found.append(at)
        at += part.rows
    return found
