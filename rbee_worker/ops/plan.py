"""`PlanOps`: a backend that holds nothing. A model built with it checks and measures its files.

It has the operations that take weights and no other: a model built with it cannot run.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from rbee_worker.checkpoint.formats import (
    DECODABLE,
    FORMATS,
    Packed,
    TensorInfo,
    TensorSource,
)
from rbee_worker.ops import Weight

DTYPE_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1, "f8": 1}


class Use(NamedTuple):
    """What becomes of a file's tensors of one format that are held alike."""

    tensors: int = 0
    file_bytes: int = 0
    held_bytes: int = 0


class PlanOps:
    """Counts what a backend would hold: matrices in `dtype`, vectors in float32.

    held: what a backend holds a matrix as, from its format, rows and columns: a name and bytes.
    """

    name = "plan"

    def __init__(
        self, dtype: str, *, held: Callable[[str, int, int], tuple[str, int]] | None = None
    ) -> None:
        self.dtype = dtype
        self._held_as = held
        self.device = "none"
        self.uses: dict[tuple[str, str], Use] = {}  # by the file's format and the held one

    @property
    def file_bytes(self) -> dict[str, int]:
        """By the file's format."""
        return self._sums(0, 1)

    @property
    def held_bytes(self) -> dict[str, int]:
        """By the held format."""
        return self._sums(1, 2)

    def _sums(self, name: int, field: int) -> dict[str, int]:
        sums: dict[str, int] = {}
        for names, use in self.uses.items():
            sums[names[name]] = sums.get(names[name], 0) + use[field]
        return sums

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        """Sizes of the stacked matrix, no data."""
        return self.stack([parts])

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        """Sizes of all matrices of a stack, no data."""
        first, count = members[0], len(members)
        rows, cols = sum(p.shape[0] for p in first), first[0].shape[1]
        held = [self._held(p) for p in first]
        for n, (name, size) in enumerate(held):
            self._count(first[n], name, size, count)
        nbytes = count * sum(size for _, size in held)
        formats = "+".join(dict.fromkeys(p.format for p in first))
        return Weight(None, rows, cols, formats, "+".join(dict(held)), nbytes, count)

    def _held(self, part: Packed) -> tuple[str, int]:
        """Format and bytes of a matrix as held."""
        rows, cols = part.shape
        if self._held_as is None:
            return self.dtype, rows * cols * DTYPE_BYTES[self.dtype]
        return self._held_as(part.format, rows, cols)

    def vector(self, parts: Sequence[Packed]) -> Any:
        """Nothing but its size, counted."""
        for part in parts:
            self._count(part, "f32", 4 * prod(part.shape))

    def floats(self, packed: Packed) -> Packed:
        """Zeros of its shape that take no memory."""
        return blank("F32", packed.shape)

    def weights_done(self) -> None:
        """Nothing was put off."""

    def _count(self, part: Packed, held: str, nbytes: int, count: int = 1) -> None:
        """`count` tensors like `part`, which take `nbytes` each."""
        old = self.uses.get((part.format, held), Use())
        self.uses[part.format, held] = Use(
            old.tensors + count,
            old.file_bytes + count * part.data.nbytes,
            old.held_bytes + count * nbytes,
        )


class Outline:
    """A `TensorSource` whose large tensors are zeros that take no memory and touch no file.

    Small ones are read: frequency factors decide how a model is built.
    """

    SMALL = 4096  # bytes

    def __init__(self, source: TensorSource) -> None:
        self._source = source

    def names(self) -> list[str]:
        """The names of `source`."""
        return self._source.names()

    def info(self, name: str) -> TensorInfo:
        """What `source` says."""
        return self._source.info(name)

    def read(self, name: str) -> Packed:
        """The tensor, or its blank outline. Raises as `source` does for an unreadable format."""
        info = self._source.info(name)
        if info.nbytes <= self.SMALL or info.format not in DECODABLE:
            return self._source.read(name)
        return blank(info.format, info.shape)

    def release(self) -> None:
        """Nothing was read that is worth giving back."""


def blank(name: str, shape: tuple[int, ...]) -> Packed:
    """Zeros in format `name` that take no memory."""
    width, each = FORMATS[name].block, FORMATS[name].bytes
    rows = prod(shape[:-1])
    return Packed(np.broadcast_to(np.uint8(0), (rows, shape[-1] // width * each)), name, shape)
