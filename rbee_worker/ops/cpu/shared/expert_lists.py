"""Where the rows of each chosen expert lie: lists that `expert_slots.group` makes for products.

A slot is one (row, expert) pair. The slots of an expert are consecutive, in ascending rows, and
begin at a multiple of 8, as tiles of activations do. The lists are int64: how many experts any row
chose, one unused word, then (expert, first slot, number of slots) for each of them in ascending
order. Beside them: `tokens` int32 [slots], the row of each slot; `places` int32 [N, top_k], the
slot of each pair; `counts` int64 [experts], scratch. Torch-free.
"""

from __future__ import annotations

ENTRIES = 16  # bytes before the first expert's entry
ENTRY_BYTES = 24
TILE = 8  # slots whose prepared activations are interleaved


def slots(rows: int, top_k: int, experts: int) -> int:
    """The most slots that `rows` rows take, counting the empty ones between experts."""
    pairs = rows * top_k
    return -(-(pairs + (TILE - 1) * min(experts, pairs)) // TILE) * TILE


def list_bytes(rows: int, top_k: int, experts: int) -> int:
    """Bytes of the lists."""
    return ENTRIES + ENTRY_BYTES * min(experts, rows * top_k)
