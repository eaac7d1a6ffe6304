"""Where pictures stand, which tiles a step computes, and which rows of it take their features.

A tile is computed in the step that first needs one of its rows; its patches count as tokens of that
step. One tile is computed however large it is, more only as far as the token budget goes; a chunk
that needs more ends before the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from rbee_worker.pictures import Picture
from rbee_worker.state.features import FeatureBook, Tile, TileRun, overlapping
from rbee_worker.state.pool import SeqState
from rbee_worker.state.specs import COLOURS, TileSpec


class Shown(Struct, frozen=True):
    """Positions first .. end - 1 take the rows from `row` on of the memory of features. until: the
    last position that they see, in a model whose rows of a picture see each other."""

    first: int
    end: int
    row: int
    until: int


class Look(Struct, frozen=True):
    """A tile whose features are computed into a slot."""

    picture: Picture
    tile: int
    slot: int

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """[side, side, 3]"""
        numbers = np.frombuffer(self.picture.pixels, np.uint8)
        tile: NDArray[np.uint8] = numbers.reshape(*self.picture.shape, -1)[self.tile]
        return tile


def tile_runs(pictures: Sequence[Picture], prompt: int, spec: TileSpec) -> tuple[TileRun, ...]:
    """The runs of these pictures, in the order of their positions in a prompt of so many tokens.

    Raises ValueError, in one sentence, for pictures that this model cannot read.
    """
    runs: list[TileRun] = []
    for number, picture in enumerate(pictures):
        tiles, height, width = picture.shape
        if (height, width) != (spec.side, spec.side):
            raise ValueError(
                f"picture {number + 1} has tiles of {width} x {height} pixels, the model reads "
                f"{spec.side} x {spec.side}"
            )
        if tiles < 1 or len(picture.pixels) != tiles * height * width * COLOURS:
            raise ValueError(f"picture {number + 1} has not as many pixels as it says")
        have, places = tiles * spec.rows, sum(count for _, count in picture.places)
        if have != places:
            raise ValueError(f"picture {number + 1} has {have} rows for {places} places")
        done = 0
        for first, count in picture.places:
            end = first + count
            while first < end:
                tile, row = divmod(done, spec.rows)
                n = min(end - first, spec.rows - row)
                runs.append(TileRun(first, first + n, (picture.digest, tile), row, number))
                first, done = first + n, done + n
    runs.sort()
    ends = [0, *(run.end for run in runs)]
    if any(run.first < end for run, end in zip(runs, ends, strict=False)) or ends[-1] > prompt:
        raise ValueError("pictures stand in the same place, or outside the prompt")
    return tuple(runs)


def reach(
    book: FeatureBook, state: SeqState, n: int, *, left: int, looks: bool, alone: bool
) -> int:
    """How many of a sequence's next n positions this step can compute; 0: none. It may be more than
    n where a picture cannot be cut.

    left: tokens of the step's budget that are not planned yet; looks: whether it computes a tile
    already; alone: whether no other sequence computes more than one token in it.
    """
    start, spec = state.planned, book.spec
    end, least = start + n, start + 1
    used: list[Tile] = []
    fresh: set[Tile] = set()
    for run in overlapping(state.runs, start, end):
        at = max(run.first, start)
        more = fresh if book.known(run.tile) else fresh | {run.tile}
        over = at - start + len(more) * spec.patches > left and (looks or len(more) > 1)
        used.append(run.tile)
        if (len(more) > len(fresh) and over) or not book.fits(used):
            end = at
            break
        if more and not fresh:
            least = run.end
        fresh = more
    if fresh:
        end = min(end, max(start + left - len(fresh) * spec.patches, least))
    return _uncut(state, start, end, left, alone) - start if spec.whole else end - start


def show(
    book: FeatureBook, state: SeqState, pictures: Sequence[Picture], start: int, end: int
) -> tuple[tuple[Shown, ...], list[Look]]:
    """What positions start .. end - 1 of a sequence with these pictures show in the step being
    planned, and the tiles that are computed for it."""
    shown, looks = [], []
    for run in overlapping(state.runs, start, end):
        slot, fresh = book.use(run.tile)
        first, last = max(run.first, start), min(run.end, end)
        row = slot * book.spec.rows + run.row + first - run.first
        shown.append(Shown(first, last, row, run.end - 1))
        if fresh:
            looks.append(Look(pictures[run.picture], run.tile[1], slot))
    return tuple(shown), looks


def _uncut(state: SeqState, start: int, end: int, left: int, alone: bool) -> int:
    """The end nearest to `end` that cuts no picture; `start` where there is none now."""
    for run in state.runs:
        if run.first < end < run.end:
            if run.first > start:
                return run.first
            return run.end if alone or run.end - start <= left else start
    return end
