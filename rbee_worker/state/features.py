"""Features of pictures: which tile's rows each position takes, and which tiles are in memory.

A picture is one or more tiles of pixels. A model's tower turns a tile into rows, which stand at the
places of the picture in the prompt instead of token embeddings. They are computed in the step that
first needs them, tile by tile, and kept in slots of a memory of fixed size; the least recently used
tile's slot is overwritten first. Features that are needed again are computed again, with the same
bits. This is bookkeeping only: the memory is the backend's (`ops.executable.StateMemory`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rbee_worker.state.specs import TileSpec

Tile = tuple[bytes, int]  # the digest of a picture, and the tile's number in it


class TileRun(NamedTuple):
    """Positions first .. end - 1 of a sequence take the rows from `row` on of a tile. picture: the
    picture's number in the sequence."""

    first: int
    end: int
    tile: Tile
    row: int
    picture: int


def overlapping(runs: Sequence[TileRun], start: int, end: int) -> list[TileRun]:
    """The runs with positions among start .. end - 1."""
    return [run for run in runs if run.first < end and start < run.end]


def seen(runs: Sequence[TileRun], start: int, end: int) -> bytes:
    """What positions start .. end - 1 depend on besides their tokens: the pictures' rows there."""
    parts = []
    for run in overlapping(runs, start, end):
        digest, tile = run.tile
        first = max(run.first, start)
        numbers = (first - start, tile, run.row + first - run.first)
        parts.append(digest + b"".join(n.to_bytes(4, "little") for n in numbers))
    return b"".join(parts)


class FeatureBook:
    """Which tile's features each slot has. A step uses at most `slots` tiles."""

    def __init__(self, spec: TileSpec, slots: int) -> None:
        assert slots >= 1
        self.spec, self.slots = spec, slots
        self._kept: dict[Tile, int] = {}  # least recently used first
        self._now: set[Tile] = set()  # tiles that the step being planned uses

    def begin(self) -> None:
        """A new step is planned."""
        self._now.clear()

    def known(self, tile: Tile) -> bool:
        """Whether a tile's features are in memory, once the steps planned so far have run."""
        return tile in self._kept

    def fits(self, tiles: Iterable[Tile]) -> bool:
        """Whether the step being planned can use these tiles too."""
        return len(self._now.union(tiles)) <= self.slots

    def use(self, tile: Tile) -> tuple[int, bool]:
        """The slot of a tile that this step uses, and whether its features have to be computed
        first."""
        assert self.fits([tile])
        slot, fresh = self._kept.pop(tile, None), False
        if slot is None:
            slot, fresh = self._take(), True
        self._kept[tile] = slot
        self._now.add(tile)
        return slot, fresh

    def forget(self) -> None:
        """Nothing that is in memory is to be relied on: a step has failed."""
        self._kept.clear()
        self._now.clear()

    def _take(self) -> int:
        """A slot that no tile of this step has."""
        if len(self._kept) < self.slots:
            return min(set(range(self.slots)).difference(self._kept.values()))
        oldest = next(tile for tile in self._kept if tile not in self._now)
        return self._kept.pop(oldest)
