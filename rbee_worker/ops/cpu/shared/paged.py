"""The memory layout of a KV block, and how attention is cut into work.

A pool's tensors are [layers, blocks, block_size, heads, dim]; each backend decides the layout
inside a block. Here a block holds, head by head, groups of 16 keys:
    keys    [dim][16 keys]: one load gives a column of 16 keys
    values  [16 keys][dim]
int8 adds 16 float32 scales after each group, so a pool's tensors have dim + 4 bytes a key
(`state.specs.row_bytes`).
"""

from __future__ import annotations

from dataclasses import dataclass

SPAN = 256  # keys a span; spans start at absolute positions 0, 256, ..
KEYS = 16  # keys a group
MOST_QUERIES = 32  # (row, head) pairs that share the keys of one work item
MOST_ROWS = 16  # consecutive tokens of a work item
SCORES = 4 * (SPAN + 64)  # bytes of a query's scores; products of 4 groups write beyond the span
POINTERS = 20  # addresses: groups of a span, and 3 more that the last product may read
STATS = 32  # bytes a query: running maximum and sum, those of the span, the span's key range


@dataclass(frozen=True)
class Tiling:
    """The tiles of an attention layer: `rows` tokens by `heads` query heads of one KV head."""

    rows: int
    heads: int
    chunks: int  # tiles that the query heads of one KV head make


def tiling(heads: int, kv_heads: int) -> Tiling:
    """Tiles large enough to reuse their keys, small enough that scratch stays in the cache."""
    group = heads // kv_heads
    count = min(group, MOST_QUERIES)
    return Tiling(max(1, min(MOST_ROWS, MOST_QUERIES // count)), count, -(-group // count))


def padded(dim: int) -> int:
    """Columns of `dim` rounded up to whole vectors."""
    return -(-dim // 16) * 16


def scratch_bytes(tile: Tiling, k_dim: int, v_dim: int) -> int:
    """One thread's scratch: queries, scores, two accumulators, statistics, addresses."""
    queries = tile.rows * tile.heads
    floats = padded(k_dim) + 2 * padded(v_dim)
    return queries * (4 * floats + SCORES + STATS) + 16 * POINTERS + 128


def partial_bytes(v_dim: int) -> int:
    """One query's partial result of one span: the sums, then maximum and sum of weights."""
    return 4 * padded(v_dim) + 64
