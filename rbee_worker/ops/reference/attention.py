"""Attention over paged keys, with one formula per query row: the reference for `Ops.attend`.

Work is cut into tiles of `ROWS` consecutive queries of one sequence. A tile takes the keys in spans
at absolute positions 0, SPAN, 2 SPAN, ... and folds them with the online softmax (Milakov &
Gimelshein 2018, "Online normalizer calculation for softmax"). A span in which a row sees no key
leaves that row's numbers bitwise unchanged, so a query's result depends neither on its chunk, nor
on its neighbours, nor on a cached prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops.batch import Batch

ROWS = 16  # queries per tile
SPAN = 256  # keys per span; a multiple of every block size
TILES = 64  # tiles processed together, which bounds the memory of gathered keys


class Mask(NamedTuple):
    """What a query sees, and what changes its scores; see `Ops.attend`."""

    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    slopes: Tensor | None = None  # float32 [heads]
    sinks: Tensor | None = None  # float32 [heads]
    causal: bool = True
    distances: Tensor | None = None  # float32 [heads, 2 * reach + 1]

    def lowest(self, position: int) -> int:
        """The first key that a query at `position` sees."""
        if self.chunk is not None:
            return position - position % self.chunk
        return 0 if self.window is None else position - self.window + 1

    def highest(self, position: int, length: int) -> int:
        """The last of `length` keys that a query at `position` sees."""
        if self.causal:
            return position
        return length - 1 if self.window is None else min(length, position + self.window) - 1


class Keys(NamedTuple):
    """Keys and values of one layer, and each sequence's blocks and lengths."""

    keys: Tensor  # [blocks, block_size, kv_heads, k_dim]
    values: Tensor  # [blocks, block_size, kv_heads, v_dim]
    table: Tensor  # int32 [B, max_blocks]
    lens: Tensor  # int64 [B]
    lens_host: Sequence[int]


class Tiles(NamedTuple):
    """T tiles: their rows, which of these are real, their sequence and the keys they see."""

    rows: Tensor  # int64 [T, ROWS]; a short tile repeats its last row
    real: Tensor  # bool [T, ROWS]
    seq: Tensor  # int64 [T]
    first: list[int]  # first key that any row of a tile sees
    last: list[int]  # last key that any row of a tile sees


def attend(q: Tensor, kv: Keys, batch: Batch, *, scale: float, mask: Mask) -> Tensor:
    """q float32 [N, heads, k_dim], kv with this step's keys -> float32 [N, heads, v_dim]."""
    assert mask.window is None or mask.chunk is None
    assert mask.causal or (mask.chunk is None and mask.slopes is None)
    n, heads, _ = q.shape
    kv_heads, v_dim = kv.values.shape[2:]
    out = q.new_empty((n, heads, v_dim))
    until = batch.until if mask.causal else None
    tiles = _tiles(batch, kv.lens_host, mask, until)
    for start in range(0, len(tiles.first), TILES):
        part = slice(start, start + TILES)
        some = Tiles(
            tiles.rows[part],
            tiles.real[part],
            tiles.seq[part],
            tiles.first[part],
            tiles.last[part],
        )
        result = _fold(q, kv, batch, some, scale, mask)
        # [tiles, kv_heads, ROWS * group, v_dim] -> [tiles * ROWS, heads, v_dim]
        result = result.view(-1, kv_heads, ROWS, heads // kv_heads, v_dim).transpose(1, 2)
        flat = result.reshape(-1, heads, v_dim)
        out[some.rows[some.real]] = flat[some.real.flatten()]
    return out


def _tiles(batch: Batch, key_lens: Sequence[int], mask: Mask, until: Tensor | None) -> Tiles:
    rows: list[range] = []
    seq: list[int] = []
    first: list[int] = []
    last: list[int] = []
    starts, lens = batch.seq_starts_host, batch.kv_lens_host
    highest = None if until is None else until.tolist()
    for b, length in enumerate(lens):
        base = length - starts[b + 1]  # position of a row = base + row
        for low in range(starts[b], starts[b + 1], ROWS):
            high = min(low + ROWS, starts[b + 1])
            rows.append(range(low, high))
            seq.append(b)
            first.append(mask.lowest(base + low))
            if highest is None:
                last.append(mask.highest(base + high - 1, int(key_lens[b])))
            else:
                last.append(max(highest[low:high]))
    device = batch.positions.device
    ends = torch.tensor([r.stop for r in rows], device=device)[:, None]
    index = torch.tensor([r.start for r in rows], device=device)[:, None]
    index = index + torch.arange(ROWS, device=device)
    return Tiles(
        torch.minimum(index, ends - 1),
        index < ends,
        torch.tensor(seq, device=device),
        first,
        last,
    )


def _fold(q: Tensor, kv: Keys, batch: Batch, tiles: Tiles, scale: float, mask: Mask) -> Tensor:
    """Attention of each tile: float32 [T, kv_heads, ROWS * group, v_dim]."""
    count = len(tiles.first)
    kv_heads, v_dim = kv.values.shape[2:]
    group = q.shape[1] // kv_heads
    height = ROWS * group
    tile_q = q[tiles.rows].view(count, ROWS, kv_heads, group, -1).transpose(1, 2)
    tile_q = tile_q.reshape(count, kv_heads, height, -1) * scale
    at = batch.positions[tiles.rows]  # [T, ROWS]
    until = at if batch.until is None else batch.until[tiles.rows]
    top = torch.full((count, kv_heads, height, 1), float("-inf"), device=q.device)
    total = torch.zeros_like(top)
    acc = q.new_zeros((count, kv_heads, height, v_dim))
    for span in range(max(tiles.last) // SPAN + 1):
        begin = span * SPAN
        here = [t for t in range(count) if tiles.first[t] - SPAN < begin <= tiles.last[t]]
        if not here:
            continue
        pick = torch.tensor(here, device=q.device)
        seq = tiles.seq[pick]
        lens = kv.lens[seq]
        k, v = _gather(kv.keys, kv.values, kv.table[seq], begin, lens)
        scores = _product(tile_q[pick], k.transpose(2, 3))
        if mask.softcap is not None:
            scores = torch.tanh(scores / mask.softcap) * mask.softcap
        behind = begin + torch.arange(SPAN, device=q.device) - at[pick][..., None]
        if mask.slopes is not None:
            by_row = behind.repeat_interleave(group, dim=1)[:, None].float()
            scores = scores + by_row * _by_query(mask.slopes, kv_heads)
        if mask.distances is not None:
            scores = scores + _by_distance(mask.distances, behind, kv_heads)
        seen = _visible(at[pick], until[pick], behind, lens, mask, group)
        scores = scores.masked_fill(~seen, float("-inf"))
        high = torch.maximum(top[pick], scores.amax(-1, keepdim=True))
        safe = torch.where(high == float("-inf"), 0.0, high)  # rows that have seen nothing yet
        keep = torch.exp(top[pick] - safe)
        p = torch.exp(scores - safe)
        total[pick] = total[pick] * keep + p.sum(-1, keepdim=True)
        acc[pick] = acc[pick] * keep + _product(p, v)
        top[pick] = high
    if mask.sinks is not None:
        sink = _by_query(mask.sinks, kv_heads)
        high = torch.maximum(top, sink)
        keep = torch.exp(top - high)
        total = total * keep + torch.exp(sink - high)
        acc = acc * keep
    return acc / total


def _by_query(of_heads: Tensor, kv_heads: int) -> Tensor:
    """[heads] as [1, kv_heads, ROWS * group, 1]"""
    return of_heads.view(1, kv_heads, -1).repeat(1, 1, ROWS)[..., None]


def _by_distance(distances: Tensor, behind: Tensor, kv_heads: int) -> Tensor:
    """What `distances` adds to the scores, [T, kv_heads, ROWS * group, SPAN], for keys `behind`
    [T, ROWS, SPAN] positions after their queries."""
    reach = distances.shape[1] // 2
    added = distances[:, behind.clamp(-reach, reach) + reach]  # [heads, T, ROWS, SPAN]
    tiles, rows, keys = behind.shape
    return added.view(kv_heads, -1, tiles, rows, keys).permute(2, 0, 3, 1, 4).flatten(2, 3)


def _gather(
    keys: Tensor, values: Tensor, table: Tensor, begin: int, lens: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values of one span, float32 [T, kv_heads, SPAN, dim]; zero beyond a sequence's end.

    Beyond its sequence a block may hold another one's leftovers, even NaN, and 0 * NaN is NaN.
    """
    block_size = keys.shape[1]
    per_span = SPAN // block_size
    column = begin // block_size
    blocks = table[:, column : column + per_span].long()
    if blocks.shape[1] < per_span:
        blocks = F.pad(blocks, (0, per_span - blocks.shape[1]))
    position = begin + torch.arange(SPAN, device=keys.device)
    valid = (position < lens[:, None])[:, :, None, None]  # [T, SPAN, 1, 1]
    both = []
    for cache in (keys, values):
        got = cache[blocks].flatten(1, 2).float().masked_fill(~valid, 0.0)
        both.append(got.transpose(1, 2))
    return both[0], both[1]


def _visible(
    at: Tensor, until: Tensor, behind: Tensor, lens: Tensor, mask: Mask, group: int
) -> Tensor:
    """bool [T, 1, ROWS * group, SPAN]: which of `lens` [T] keys a query at `at` [T, ROWS] sees.

    until: the last key that it sees where nothing else limits it, [T, ROWS]; behind: [T, ROWS,
    SPAN], a key's position minus the query's.
    """
    if mask.causal:
        seen = behind <= (until - at)[..., None]
    else:
        seen = behind + at[..., None] < lens[:, None, None]
        if mask.window is not None:
            seen = seen & (behind < mask.window)
    if mask.window is not None:
        seen = seen & (behind > -mask.window)
    if mask.chunk is not None:
        seen = seen & (behind >= -(at[..., None] % mask.chunk))
    return seen.repeat_interleave(group, dim=1)[:, None]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched product of fixed-shape matrices: [T, H, m, k] x [T, H, k, n]."""
    return torch.bmm(a.flatten(0, 1), b.reshape(-1, *b.shape[2:])).view(*a.shape[:3], b.shape[3])
