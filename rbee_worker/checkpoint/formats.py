"""Weight formats: names, block sizes, bytes; and `Packed`, a tensor exactly as its file holds it.

Torch-free. How a format is decoded lives in `ops`; here stands only what is needed to check sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Format(NamedTuple):
    """`block` consecutive values of a row take `bytes` bytes."""

    name: str
    block: int
    bytes: int
    ggml: int | None  # type number in a GGUF file
    is_float: bool  # every value stands alone: value operations are allowed


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
    )
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's format and shape in HF order (outermost first), without its data."""

    format: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Packed:
    """A tensor in its file's own encoding: rows of blocks, nothing decoded.

    data: uint8 [rows, row_bytes], rows = product of shape[:-1] (1 for vectors and scalars), usually
    a view into a mapped file. Row operations are valid on every format: blocks run along a row.
    """

    data: npt.NDArray[np.uint8]
    format: str
    shape: tuple[int, ...]


class TensorSource(Protocol):
    """Named tensors in HF vocabulary; nothing is read before `read`."""

    def names(self) -> list[str]: ...

    def info(self, name: str) -> TensorInfo:
        """Raises KeyError when there is no such tensor."""
        ...

    def read(self, name: str) -> Packed: ...
