"""RG-LRU's recurrence, `RgLru.rg_lru`: its gates by torch, the rest by the linear scan's kernel."""

from __future__ import annotations

from torch import Tensor

from rbee_worker.ops.cuda.kernels.recurrence.linear_scan import linear_scan
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.reference.rg_lru import gates


def rg_lru(
    x: Tensor,
    into: Tensor,
    passing: Tensor,
    into_bias: Tensor,
    passing_bias: Tensor,
    rates: Tensor,
    positions: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    pdl: bool = False,
) -> Tensor:
    """See `RgLru.rg_lru`; positions: int64 [N]; state: float32 [slots, width]."""
    given = into.float() + into_bias, passing.float() + passing_bias
    inflow, decay = gates(x.float(), *given, rates, positions)
    return linear_scan(inflow, decay, state, sequences, pdl=pdl).to(x.dtype)
