"""Low-rank adapters (Hu et al. 2021, LoRA): where they add to a model, and how they are held.

A `Site` is a linear map that adapters may change: y + scale * B (A x), row by row, with the factors
of the adapter that the row's sequence uses. The map's own product is not touched, so rows without
an adapter have the bits that they have without this module, and packed weights stay packed.
Torch-free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rbee_worker.adapter_spec import parse_specs

if TYPE_CHECKING:
    from rbee_worker.config import Settings

Form = Literal["f32", "f16", "bf16"]  # of an adapter's numbers, in the file and in memory

NUMPY: Mapping[str, np.dtype[Any]] = {  # numpy has no bf16, so its bits are kept
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
}
RANKS = 4  # rows of A are padded to a multiple of this, and kept together
LANES = 16  # columns of A are padded to a multiple of this
CELL = 64  # rows of B are padded to a multiple of this, and kept together rank by rank


def padded(count: int, to: int) -> int:
    """The next multiple of `to`."""
    return -(-count // to) * to


@dataclass(frozen=True)
class SitePart:
    """One of the linear maps that a site has stacked. first: its first output column; rows: how
    many it has."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Site:
    """A linear map of `cols` input columns that adapters may change; number: its place in
    `Sites`."""

    number: int
    cols: int
    parts: tuple[SitePart, ...]


@dataclass(frozen=True, eq=False)
class Factors:
    """What one adapter adds to one part of a site: scale * B (A x).

    a: [cells of ranks, cells of columns, RANKS, LANES]; b: [cells of rows, rank, CELL]; the padding
    is zeros. So kernels read both from their first byte to the last. They hold their numbers in
    `form`.
    """

    a: NDArray[Any]
    b: NDArray[Any]
    rank: int
    scale: float
    form: Form

    @property
    def nbytes(self) -> int:
        """The size of both in bytes."""
        return self.a.nbytes + self.b.nbytes


def factor_bytes(rank: int, cols: int, rows: int, form: Form) -> int:
    """The size in bytes of the factors for a map from `cols` to `rows` columns."""
    numbers = padded(rank, RANKS) * padded(cols, LANES) + rank * padded(rows, CELL)
    return numbers * NUMPY[form].itemsize


def held(a: NDArray[Any], b: NDArray[Any], scale: float, form: Form) -> Factors:
    """The factors a [rank, cols] and b [rows, rank], with their padding."""
    (rank, cols), rows = a.shape, b.shape[0]
    assert b.shape == (rows, rank)
    assert a.dtype == b.dtype == NUMPY[form]
    wide: NDArray[Any] = np.zeros((padded(rank, RANKS), padded(cols, LANES)), NUMPY[form])
    tall: NDArray[Any] = np.zeros((padded(rows, CELL), rank), NUMPY[form])
    wide[:rank, :cols], tall[:rows] = a, b
    left = wide.reshape(wide.shape[0] // RANKS, RANKS, -1, LANES).swapaxes(1, 2)
    right = tall.reshape(-1, CELL, rank).swapaxes(1, 2)
    return Factors(np.ascontiguousarray(left), np.ascontiguousarray(right), rank, scale, form)


def matrices(factors: Factors) -> tuple[NDArray[Any], NDArray[Any]]:
    """A [padded rank, padded columns] and B [padded rows, rank] of their cells."""
    a, b = factors.a.swapaxes(1, 2), factors.b.swapaxes(1, 2)
    return a.reshape(len(a) * RANKS, -1), b.reshape(-1, factors.rank)


Placed = Mapping[int, tuple[Factors | None, ...]]  # by site: the factors of each part


class AdapterMemory(ABC):
    """The loaded adapters, in a backend's memory. A row uses the one in slot `batch.adapters[row]`;
    slot 0 is none."""

    @abstractmethod
    def put(self, slot: int, placed: Placed) -> None:
        """Fill a slot. No step that is under way may use it."""

    @abstractmethod
    def drop(self, slot: int) -> None:
        """Empty a slot and free its memory. No step that is under way may use it."""


class Sites:
    """The sites of a model, found while it is built. slots: the most adapters that are loaded
    together; rank: the highest of any of them."""

    def __init__(self, slots: int, rank: int) -> None:
        assert slots > 0
        self.slots, self.rank = slots, rank
        self._sites: dict[int, Site] = {}
        self._count = 0

    def add(self, parts: Sequence[tuple[str, int]], cols: int) -> Site:
        """A site for maps stacked in this order: (full name, rows) of each."""
        first, made = 0, []
        for name, rows in parts:
            made.append(SitePart(name, first, rows))
            first += rows
        site = Site(self._count, cols, tuple(made))
        self._sites[site.number] = site
        self._count += 1
        return site

    def withdraw(self, site: Site) -> None:
        """This map is used in a way that no adapter can join. Safe to repeat."""
        self._sites.pop(site.number, None)

    def __iter__(self) -> Iterator[Site]:
        """Every site, in the order of building."""
        return iter(self._sites.values())

    def bytes_at_rank(self, rank: int, form: Form) -> int:
        """The size of an adapter of this rank that changes every site."""
        return sum(
            factor_bytes(rank, site.cols, part.rows, form) for site in self for part in site.parts
        )


def sites_for(settings: Settings) -> Sites | None:
    """An empty `Sites` for a model that is to take adapters; None if these settings name none."""
    slots = len(parse_specs(settings.lora)) + settings.lora_slots
    return Sites(slots, settings.lora_rank) if slots else None
