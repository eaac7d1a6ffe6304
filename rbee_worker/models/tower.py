"""`Tower`: the part of a model that reads pictures; its rows stand in for token embeddings.

A tile of pixels is cut into patches, a transformer without causality reads them (Dosovitskiy et al.
2021), and a connector makes rows of the text model's width of its output, one of each square of
`merge` by `merge` patches. The rows of the transformer are in the order of these squares, so those
that become one row lie side by side; positions are learned, so the order changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rbee_worker.layers.linear import Linear
from rbee_worker.models.block import Block
from rbee_worker.ops import Ops, Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import COLOURS, StateGroup, TileSpec

Connector = Callable[[Array, Batch], Array]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """patch: the map of a patch's numbers, [3 * patch_size ** 2], to the transformer's width;
    positions: a table of one row for each patch; connector: rows of merge ** 2 patches, side by
    side, to rows of `width` columns; groups: the transformer's own state. side: pixels of a tile's
    edge; mean, std: of the numbers 0 .. 1 of each colour, by which pixels are normalised; whole:
    see `TileSpec`.
    """

    ops: Ops
    patch: Linear
    positions: Weight
    blocks: Sequence[Block]
    norm: Callable[[Array], Array]
    connector: Connector
    groups: tuple[StateGroup, ...]
    side: int
    patch_size: int
    merge: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whole: bool = False

    @property
    def spec(self) -> TileSpec:
        """What the engine must know of it."""
        rows = self.patches // self.merge**2
        return TileSpec(self.side, self.patches, rows, self.width, self.whole)

    @property
    def across(self) -> int:
        """Patches along an edge of a tile."""
        return self.side // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a tile, the rows of the transformer."""
        return self.across**2

    @property
    def patch_columns(self) -> int:
        """The numbers of a patch."""
        return COLOURS * self.patch_size**2

    @property
    def columns(self) -> int:
        """The columns of a connector's input."""
        return self.merge**2 * self.positions.cols

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Each row's patch, counted from the top left, line by line: int64 [patches]."""
        squares = np.arange(self.patches).reshape(self._squares)
        return np.ascontiguousarray(squares.transpose(0, 2, 1, 3)).reshape(-1)

    def cut(self, tile: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels [side, side, 3] -> the normalised numbers of each patch [patches,
        3 * patch_size ** 2], a colour after the other, line by line."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        n, size = self.across, self.patch_size
        whole = tile[: n * size, : n * size]  # less than a patch may be left over
        numbers = (whole.astype(np.float32) / np.float32(255) - mean) / std
        by_patch = numbers.reshape(n, size, n, size, COLOURS).transpose(0, 2, 4, 1, 3)
        rows: NDArray[np.float32] = by_patch.reshape(self.patches, -1)[self.places]
        return rows

    def read(self, patches: Array, batch: Batch) -> Array:
        """The patches of one tile [patches, 3 * patch_size ** 2] -> [patches, its own width].
        batch: of `ops.tiles.tile_numbers`."""
        x = self.ops.add_positions(self.patch(patches, batch), self.positions, batch)
        for block in self.blocks:
            x = block(x, batch)
        return self.norm(x)

    @property
    def _squares(self) -> tuple[int, int, int, int]:
        across = self.across // self.merge
        return across, self.merge, across, self.merge
