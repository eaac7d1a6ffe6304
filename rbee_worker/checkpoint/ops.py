"""The operations that a table row may apply to a tensor to bring it into HF form, by name.

Row operations move whole rows and work for every format, because a block never spans two rows.
Value operations compute; they take float formats only and return float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.errors import UnsupportedModel


def half_split_rows(packed: Packed, heads: int) -> Packed:
    """Undo the pairing of rotary rows: (0, 1), (2, 3).. of each head become (0, d/2), (1, d/2+1)..

    For q and k weights [heads * d, in] and their biases [heads * d] in GGUF files with interleaved
    pairs. Raises ValueError if the number of rows is not a multiple of 2 * heads.
    """
    data = _elements(packed)
    if heads < 1 or len(data) % (2 * heads):
        raise ValueError(f"{len(data)} rows are not {heads} heads of an even width")
    half = len(data) // heads // 2
    moved = data.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(packed.data.shape)
    return Packed(moved, packed.format, packed.shape)


def _elements(packed: Packed) -> npt.NDArray[np.uint8]:
    """The data along the shape's first dimension: a matrix's rows, a vector's elements."""
    if len(packed.shape) > 1:
        return packed.data
    if FORMATS[packed.format].block != 1:
        raise UnsupportedModel(
            f"a vector in block format {packed.format} cannot be reordered.",
            fix="convert the model again; vectors are kept in F32",
        )
    return packed.data.reshape(packed.shape[0], -1)


def floats(packed: Packed) -> npt.NDArray[np.float32]:
    """The values of a float format as float32, in the tensor's shape.

    Raises UnsupportedModel for a block format, whose values share a scale.
    """
    if not FORMATS[packed.format].is_float:
        raise UnsupportedModel(
            f"values in format {packed.format} cannot be changed on load.",
            fix="use a file that has norms and vectors in F32 or F16",
        )
    return decode(packed)


def packed_floats(values: npt.NDArray[np.float32]) -> Packed:
    """float32 values of any shape as a `Packed`."""
    width = values.shape[-1] if values.ndim else 1
    rows = np.ascontiguousarray(values).reshape(-1, width)
    return Packed(rows.view(np.uint8), "F32", values.shape)


def add_one(packed: Packed) -> Packed:
    """w + 1."""
    return packed_floats(floats(packed) + np.float32(1))


def sub_one(packed: Packed) -> Packed:
    """w - 1: Gemma norms, whose GGUF files store 1 + w."""
    return packed_floats(floats(packed) - np.float32(1))


def neg_log(packed: Packed) -> Packed:
    """log(-w): A_log of state-space models, whose GGUF files store -exp(A_log)."""
    return packed_floats(np.log(-floats(packed)))


def squeeze(packed: Packed) -> Packed:
    """Drop dimensions of length 1."""
    shape = tuple(n for n in packed.shape if n != 1)
    return _reshaped(packed, shape)


def unsqueeze(packed: Packed) -> Packed:
    """[channels, taps] -> [channels, 1, taps]: convolutions, whose GGUF files drop the 1."""
    return _reshaped(packed, (*packed.shape[:-1], 1, packed.shape[-1]))


def column(packed: Packed) -> Packed:
    """[n, 1] -> [n]: a number for each head, which GGUF files store as a column."""
    return _reshaped(packed, packed.shape[:1]) if packed.shape[1:] == (1,) else packed


def neg_log_column(packed: Packed) -> Packed:
    """`neg_log` of a column."""
    return neg_log(column(packed))


def flatten(packed: Packed) -> Packed:
    """[groups, n] -> [groups * n]: a norm's weights; GGUF files have a row per group."""
    return _reshaped(packed, (int(np.prod(packed.shape)),))


def row(packed: Packed) -> Packed:
    """[n] -> [1, n]: a matrix of one row, which GGUF files drop to a vector."""
    return packed if len(packed.shape) > 1 else _reshaped(packed, (1, *packed.shape))


def transpose(packed: Packed) -> Packed:
    """[.., n, m] -> [.., m, n]: small matrices, which files have in both orders.

    Raises UnsupportedModel for a block format, whose blocks lie along a row.
    """
    *before, n, m = packed.shape
    if FORMATS[packed.format].block != 1:
        raise UnsupportedModel(
            f"a matrix in block format {packed.format} cannot be transposed.",
            fix="use a file that has this tensor in F32 or F16",
        )
    turned = packed.data.reshape(-1, n, m, FORMATS[packed.format].bytes).swapaxes(1, 2)
    shape = (*before, m, n)
    return Packed(
        np.ascontiguousarray(turned).reshape(int(np.prod(shape[:-1])), -1), packed.format, shape
    )


def channels(packed: Packed) -> Packed:
    """[n] -> [1, 1, n]: a factor for each channel, which GGUF files store as a vector."""
    return packed if len(packed.shape) > 1 else _reshaped(packed, (1, 1, *packed.shape))


def _reshaped(packed: Packed, shape: tuple[int, ...]) -> Packed:
    """The same bytes under another shape. A block format may not change the length of its rows."""
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    if FORMATS[packed.format].block != 1 and shape[-1:] != packed.shape[-1:]:
        raise UnsupportedModel(
            f"rows in format {packed.format} cannot change their length.",
            fix="use a file that has this tensor in F32 or F16",
        )
    return Packed(np.ascontiguousarray(packed.data).reshape(rows, -1), packed.format, shape)


@dataclass(frozen=True)
class RowOp:
    """An operation and the source of its integer argument: a key of the HF config, or None.

    shape: how a tensor's shape changes; None if it does not.
    """

    apply: Callable[..., Packed]
    argument: str | None = None
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None

    def __call__(self, packed: Packed, config: Mapping[str, Any]) -> Packed:
        if self.argument is None:
            return self.apply(packed)
        return self.apply(packed, int(config[self.argument]))


def _column_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] if shape[1:] == (1,) else shape


OPS: dict[str, RowOp] = {
    "half_split_q": RowOp(half_split_rows, "num_attention_heads"),
    "half_split_k": RowOp(half_split_rows, "num_key_value_heads"),
    "add_one": RowOp(add_one),
    "sub_one": RowOp(sub_one),
    "neg_log": RowOp(neg_log),
    "squeeze": RowOp(squeeze, shape=lambda shape: tuple(n for n in shape if n != 1)),
    "unsqueeze": RowOp(unsqueeze, shape=lambda shape: (*shape[:-1], 1, shape[-1])),
    "column": RowOp(column, shape=_column_shape),
    "neg_log_column": RowOp(neg_log_column, shape=_column_shape),
    "flatten": RowOp(flatten, shape=lambda shape: (int(np.prod(shape)),)),
    "transpose": RowOp(transpose, shape=lambda shape: (*shape[:-2], shape[-1], shape[-2])),
    "channels": RowOp(channels, shape=lambda shape: shape if len(shape) > 1 else (1, 1, *shape)),
    "row": RowOp(row, shape=lambda shape: shape if len(shape) > 1 else (1, *shape)),
}
