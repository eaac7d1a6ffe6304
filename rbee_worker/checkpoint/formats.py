"""Weight formats (names, block sizes, byte sizes) and `Packed`, a tensor exactly as its file holds
it.

This module knows only sizes; `decoding` knows how a format's values are computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rbee_worker.errors import UnsupportedModel


class Format(NamedTuple):
    """`block` consecutive values of a row take `bytes` bytes."""

    name: str
    block: int
    bytes: int
    ggml: int | None  # type number in a GGUF file
    is_float: bool  # each value has its own bytes, so operations on single values are allowed


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("F32", 1, 4, 0, True),
        Format("F16", 1, 2, 1, True),
        Format("BF16", 1, 2, 30, True),
        Format("F64", 1, 8, 28, True),
        Format("Q4_0", 32, 18, 2, False),
        Format("Q4_1", 32, 20, 3, False),
        Format("Q5_0", 32, 22, 6, False),
        Format("Q5_1", 32, 24, 7, False),
        Format("Q8_0", 32, 34, 8, False),
        Format("Q2_K", 256, 84, 10, False),
        Format("Q3_K", 256, 110, 11, False),
        Format("Q4_K", 256, 144, 12, False),
        Format("Q5_K", 256, 176, 13, False),
        Format("Q6_K", 256, 210, 14, False),
        Format("I8", 1, 1, 24, False),
        Format("I16", 1, 2, 25, False),
        Format("I32", 1, 4, 26, False),
        Format("I64", 1, 8, 27, False),
        # Known by size only, so that such files can be inspected; see `DECODABLE`.
        Format("U8", 1, 1, None, False),
        Format("U16", 1, 2, None, False),
        Format("U32", 1, 4, None, False),
        Format("U64", 1, 8, None, False),
        Format("BOOL", 1, 1, None, False),
        Format("C64", 1, 8, None, False),
        Format("F8_E4M3", 1, 1, None, False),
        Format("F8_E5M2", 1, 1, None, False),
        Format("F8_E8M0", 1, 1, None, False),
        Format("Q8_1", 32, 40, 9, False),
        Format("Q8_K", 256, 292, 15, False),
        Format("IQ2_XXS", 256, 66, 16, False),
        Format("IQ2_XS", 256, 74, 17, False),
        Format("IQ3_XXS", 256, 98, 18, False),
        Format("IQ1_S", 256, 50, 19, False),
        Format("IQ4_NL", 32, 18, 20, False),
        Format("IQ3_S", 256, 110, 21, False),
        Format("IQ2_S", 256, 82, 22, False),
        Format("IQ4_XS", 256, 136, 23, False),
        Format("IQ1_M", 256, 56, 29, False),
        Format("TQ1_0", 256, 54, 34, False),
        Format("TQ2_0", 256, 66, 35, False),
        Format("MXFP4", 32, 17, 39, False),
        # In no file: 128 F8_E4M3 values preceded by their float32 scale, made by `scaled`.
        Format("F8_B128", 128, 132, None, False),
    )
}

GGML_FORMATS: dict[int, Format] = {f.ggml: f for f in FORMATS.values() if f.ggml is not None}

FLOATS: frozenset[str] = frozenset(f.name for f in FORMATS.values() if f.is_float)

# Formats whose values can be computed with; the bytes of the others can be read at most.
DECODABLE: frozenset[str] = FLOATS | {
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "F8_B128"),
}
INTEGERS: frozenset[str] = frozenset({"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"})


def is_packed(formats: Iterable[str]) -> bool:
    """Whether weights in any of these formats are quantized."""
    return not (FLOATS | INTEGERS).issuperset(formats)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's format and its shape in HF order (outermost first), without its data."""

    format: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Packed:
    """A tensor in its file's own encoding: rows of blocks, not decoded.

    data: uint8 [rows, row_bytes], where rows is the product of shape[:-1] (1 for vectors and
    scalars); usually a view of a mapped file. A block never spans two rows, so whole rows can be
    moved in every format.
    """

    data: npt.NDArray[np.uint8]
    format: str
    shape: tuple[int, ...]


def refuse_unreadable(format: str, tensor: str, where: str) -> None:
    """Raise UnsupportedModel for a format that can be neither decoded nor read as integers."""
    if format not in DECODABLE and format not in INTEGERS:
        raise UnsupportedModel(
            f"{where}: tensor {tensor!r} is in format {format}, which cannot be read yet.",
            fix=f"use a version of the model in one of: {', '.join(sorted(DECODABLE))}",
        )


class TensorSource(Protocol):
    """Named tensors in HF vocabulary. Data is read by `read` only."""

    def names(self) -> list[str]: ...

    def info(self, name: str) -> TensorInfo:
        """Raises KeyError when there is no such tensor."""
        ...

    def read(self, name: str) -> Packed: ...

    def release(self) -> None:
        """Let mapped pages leave memory; they are read from the files again when needed."""
        ...
