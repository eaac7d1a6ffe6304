"""Tile shapes that `rbee-worker warmup` has measured on a card, kept beside the compiled kernels.

A file for each card's name. One that cannot be read, and a shape that nobody would try now, count
as not there: the tables of `kernels.gemv` and `kernels.skinny_shapes` then choose.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from rbee_worker.ops.cuda.kernels.gemv import GemvShape
from rbee_worker.ops.cuda.kernels.skinny_shapes import SkinnyShape
from rbee_worker.ops.cuda.shape_candidates import gemv_shapes, skinny_shapes

FEW = (1, 8, 64)  # rows of x that shapes are measured for, and serve up to


class Product(NamedTuple):
    """A product of up to `few` rows (one of `FEW`) with a matrix [rows, cols] of `dtype`; gated:
    gates and ups are its halves."""

    few: int
    rows: int
    cols: int
    gated: bool
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Its key in the file."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.few} rows x {self.rows} x {self.cols} {dtype}{' gated' * self.gated}"


class Measured(msgspec.Struct, frozen=True):
    """shape: the numbers of the fastest shape, none if it is the tables' own; us: microseconds with
    it; table_us: with the tables' own."""

    shape: tuple[int, ...]
    us: float
    table_us: float


Shape = GemvShape | SkinnyShape


class KeptShapes:
    """The file of one card, in a folder of kernels; read once."""

    def __init__(self, folder: Path, card: str) -> None:
        self._path = folder / f"shapes-{re.sub('[^a-z0-9]+', '-', card.lower())}.json"
        self.found = self._read()
        self._shapes: dict[Product, Shape | None] = {}

    def of(self, few: int, rows: int, cols: int, gated: bool, dtype: torch.dtype) -> Shape | None:
        """The shape that was fastest for such a product; None: the tables' own."""
        if not self.found:
            return None
        product = Product(few, rows, cols, gated, dtype)
        if product not in self._shapes:
            kept = self.found.get(product.name)
            self._shapes[product] = None if kept is None else _candidate(product, kept.shape)
        return self._shapes[product]

    def add(self, new: Mapping[str, Measured]) -> str:
        """Keep more of them. Returns why they could not be written, or ""."""
        self.found = self._read() | dict(new)
        self._shapes.clear()
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self.found))
            temporary.replace(self._path)
        except OSError as error:
            return f"{self._path}: {error.strerror or error}"
        return ""

    def lines(self) -> list[str]:
        """What is kept, for people."""
        return [
            f"{name}: {one.us:.1f} us"
            + (f", {one.table_us:.1f} with the tables' shape" if one.shape else " (tables' shape)")
            for name, one in sorted(self.found.items())
        ]

    def _read(self) -> dict[str, Measured]:
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Measured])
        return {}


def _candidate(product: Product, numbers: tuple[int, ...]) -> Shape | None:
    """The shape with these numbers, if it is one that would be tried."""
    for shape in candidates(product):
        if tuple(map(int, shape)) == numbers:
            return shape
    return None


def candidates(product: Product) -> list[Shape]:
    """The shapes worth trying."""
    if product.few == 1:
        return [*gemv_shapes(product.cols, product.gated)]
    return [*skinny_shapes(product.few, product.cols, product.gated)]
