"""`Batch`: the only thing a model sees of the outside. Ragged and without phases.

A step's tokens of all sequences lie one after another; a prefill chunk is a sequence with many
rows, a decode is one with a single row, and both share a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PagedState:
    """Keys and values of one state group, and where this step's sequences find and put theirs.

    k: [layers, blocks, block_size, heads, k_dim]; v: [layers, blocks, block_size, heads, v_dim].
    table: int32 [B, max_blocks]: block that holds positions j*block_size .. of sequence b, at
    column j; 0 where there is none (block 0 is a sink, never a sequence's).
    slots: int64 [N]: flat index (block * block_size + offset) where row n's key and value go.
    """

    k: Tensor
    v: Tensor
    table: Tensor
    slots: Tensor


@dataclass(frozen=True)
class FixedState:
    """Recurrent state of one group: tensors [layers, slots, ...], slots int64 [B]; 0 is a sink."""

    tensors: tuple[Tensor, ...]
    slots: Tensor


@dataclass(frozen=True)
class Batch:
    """N rows (tokens) of B sequences, S of which are sampled.

    tokens, positions: int64 [N]; seq_starts: int64 [B+1], rows of sequence b are
    seq_starts[b] .. seq_starts[b+1]; kv_lens: int64 [B], keys of b once this step's are written;
    rope_lens: int64 [B], the length that length-dependent rope scaling goes by (never the chunk's:
    engine/rope_length.py); sample_rows: int64 [S], rows whose logits are wanted.
    `seq_starts_host` and `kv_lens_host` are the same numbers on the host, for launch shapes.

    Who makes batches may hand in one again with other numbers in its tensors and lists, never with
    other tensors: whoever looks at tensors once may go by the batch's identity.
    """

    tokens: Tensor
    positions: Tensor
    seq_starts: Tensor
    kv_lens: Tensor
    rope_lens: Tensor
    sample_rows: Tensor
    state: tuple[PagedState | FixedState, ...]
    seq_starts_host: Sequence[int]
    kv_lens_host: Sequence[int]
    token_from: Tensor | None = None  # int64 [N]: row of the previous step's ids, -1 = `tokens`
    embeds: tuple[Tensor, Tensor] | None = None  # (rows int64 [E], values [E, dim])
    memory: Tensor | None = None  # encoder states
