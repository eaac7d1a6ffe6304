"""The work of an attention layer as a list: int64 words at fixed byte offsets.

`attend.plan` writes it once a step for all layers of one shape; `attend` and `attend.combine` read
it. A unit of work is a tile of consecutive tokens of one sequence, by some query heads of one KV
head. An item is a whole unit, or, where there are too few units for the threads, one span of keys
of a unit; the spans of a unit are then consecutive items. Torch-free.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.shared.paged import SPAN, Tiling

COUNT = 0  # how many items
SPLIT = 8  # 1: an item is one span of its unit
ITEMS = 64  # the first item

# an item, on a cache line of its own
SEQUENCE = 0
FIRST = 8  # rows FIRST .. LAST - 1 of the step
LAST = 16
KV_HEAD = 24
HEAD = 32  # query heads HEAD .. HEAD + HEADS - 1
HEADS = 40
SPAN_NUMBER = 48  # the first of its spans
SPANS = 56  # spans from that one to the last one of the unit
ITEM_BYTES = 64


def most_split_units(tile: Tiling, kv_heads: int, threads: int) -> int:
    """The most units that are split into spans."""
    return 2 * threads + kv_heads * tile.chunks


def most_spans(longest: int) -> int:
    """The most spans of a unit, in sequences of at most `longest` tokens."""
    return -(-longest // SPAN) + 1


def list_bytes(rows: int, tile: Tiling, kv_heads: int, threads: int, longest: int) -> int:
    """Bytes of the list for a step of at most `rows` rows."""
    split = most_split_units(tile, kv_heads, threads) * most_spans(longest)
    return ITEMS + ITEM_BYTES * max(rows * kv_heads * tile.chunks, split)
