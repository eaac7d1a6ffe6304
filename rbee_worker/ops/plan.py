"""`PlanOps`: a backend that stores nothing. A model built with it checks and measures its files.

It has only the operations that take weights, so a model built with it cannot run.
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
from rbee_worker.ops.adapted import Sites

DTYPE_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1, "f8": 1}


class Use(NamedTuple):
    """The tensors of one file format that are stored in one form: how many, and their sizes."""

    tensors: int = 0
    file_bytes: int = 0
    held_bytes: int = 0


class PlanOps:
    """Counts what a backend would store: matrices in `dtype`, vectors in float32.

    held: gives the form of a stored matrix (name, bytes) for its file format, rows and columns.
    sites, sees, mtp: as in `Ops`.
    """

    name = "plan"
    sees = True
    mtp = False

    def __init__(
        self, dtype: str, *, held: Callable[[str, int, int], tuple[str, int]] | None = None
    ) -> None:
        self.dtype = dtype
        self.sites: Sites | None = None
        self._held_as = held
        self.device = "none"
        self.uses: dict[tuple[str, str], Use] = {}  # by (format in the file, stored form)

    @property
    def file_bytes(self) -> dict[str, int]:
        """Bytes in the file, by the file's format."""
        return self._sums(0, 1)

    @property
    def held_bytes(self) -> dict[str, int]:
        """Bytes in memory, by the stored form."""
        return self._sums(1, 2)

    def _sums(self, name: int, field: int) -> dict[str, int]:
        sums: dict[str, int] = {}
        for names, use in self.uses.items():
            sums[names[name]] = sums.get(names[name], 0) + use[field]
        return sums

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        """The stacked matrix's sizes, without data."""
        return self.stack([parts])

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        """The sizes of all matrices in a stack, without data."""
        first, count = members[0], len(members)
        rows, cols = sum(p.shape[0] for p in first), first[0].shape[1]
        held = [self._held(p) for p in first]
        for n, (name, size) in enumerate(held):
            self._count(first[n], name, size, count)
        nbytes = count * sum(size for _, size in held)
        formats = "+".join(dict.fromkeys(p.format for p in first))
        return Weight(None, rows, cols, formats, "+".join(dict(held)), nbytes, count)

    def _held(self, part: Packed) -> tuple[str, int]:
        """The stored form of a matrix, and its bytes."""
        rows, cols = part.shape
        if self._held_as is None:
            return self.dtype, rows * cols * DTYPE_BYTES[self.dtype]
        return self._held_as(part.format, rows, cols)

    def vector(self, parts: Sequence[Packed]) -> Any:
        """Count the vector's size; there is no data."""
        for part in parts:
            self._count(part, "f32", 4 * prod(part.shape))

    def floats(self, packed: Packed) -> Packed:
        """Zeros of its shape, which take no memory."""
        return blank("F32", packed.shape)

    def weights_done(self) -> None:
        """Nothing to do: no work was deferred."""

    def _count(self, part: Packed, held: str, nbytes: int, count: int = 1) -> None:
        """Add `count` tensors like `part`, which take `nbytes` each."""
        old = self.uses.get((part.format, held), Use())
        self.uses[part.format, held] = Use(
            old.tensors + count,
            old.file_bytes + count * part.data.nbytes,
            old.held_bytes + count * nbytes,
        )


class Outline:
    """A `TensorSource` whose large tensors are zeros that take no memory and read no file.

    Small ones are read, because frequency factors decide how a model is built.
    """

    SMALL = 4096  # bytes up to which a tensor is read

    def __init__(self, source: TensorSource) -> None:
        self._source = source

    def names(self) -> list[str]:
        """The names of `source`."""
        return self._source.names()

    def info(self, name: str) -> TensorInfo:
        """As `source` says."""
        return self._source.info(name)

    def read(self, name: str) -> Packed:
        """The tensor, or zeros in its place. Raises as `source` does for an unreadable format."""
        info = self._source.info(name)
        if info.nbytes <= self.SMALL or info.format not in DECODABLE:
            return self._source.read(name)
        return blank(info.format, info.shape)

    def release(self) -> None:
        """Nothing to release."""


def blank(name: str, shape: tuple[int, ...]) -> Packed:
    """Zeros in format `name`, which take no memory."""
    width, each = FORMATS[name].block, FORMATS[name].bytes
    rows = prod(shape[:-1])
    return Packed(np.broadcast_to(np.uint8(0), (rows, shape[-1] // width * each)), name, shape)
