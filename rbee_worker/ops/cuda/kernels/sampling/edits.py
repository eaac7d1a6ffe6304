"""Edits of single logits: bias, penalties, bans. `engine/penalties.py` has the formula.

Every product, quotient and sum is rounded to float32, as on the other backends.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rbee_worker.ops.sampling import BANNED, BIAS, FREQUENCY, OUTPUT, PRESENCE, REPETITION, WINDOW

_BLOCK = 256
_BIAS, _BANNED, _WINDOW, _OUTPUT = (tl.constexpr(c) for c in (BIAS, BANNED, WINDOW, OUTPUT))
_REPETITION, _PRESENCE, _FREQUENCY = (tl.constexpr(c) for c in (REPETITION, PRESENCE, FREQUENCY))


@triton.jit
def _apply(
    z, ids, values, factors, edits, before, stride, capacity, most, BIASED: tl.constexpr,
    REPEATED: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """edits: int32 [rows, 4]: row, slot, entries, whether bans hold."""
    edit = tl.program_id(0).to(tl.int64)
    row = tl.load(edits + edit * 4).to(tl.int64)
    slot = tl.load(edits + edit * 4 + 1).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = place < tl.load(edits + edit * 4 + 2)
    id_ = tl.load(ids + slot * capacity + place, mask=ok, other=0)
    entry = values + (slot * capacity + place) * 4
    at = z + row * stride + id_
    x = tl.load(at, mask=ok, other=0.0)
    tl.store(before + edit * most + place, x, mask=ok)
    if BIASED:
        bias = tl.load(entry + _BIAS, mask=ok, other=0.0)
        x = tl.where(bias != 0, x + bias, x)
    if REPEATED:
        factor = tl.load(factors + slot * 3 + _REPETITION)
        quotient = tl.div_rn(x, tl.broadcast_to(factor, [BLOCK]))
        scaled = tl.where(x > 0, quotient, x * factor)
        x = tl.where(tl.load(entry + _WINDOW, mask=ok, other=0.0) > 0, scaled, x)
    if COUNTED:
        times = tl.load(entry + _OUTPUT, mask=ok, other=0.0)
        less = x - tl.load(factors + slot * 3 + _PRESENCE)
        less = less - times * tl.load(factors + slot * 3 + _FREQUENCY)
        x = tl.where(times > 0, less, x)
    banned = tl.load(entry + _BANNED, mask=ok, other=0.0) > 0
    x = tl.where(banned & (tl.load(edits + edit * 4 + 3) > 0), float("-inf"), x)
    tl.store(at, x, mask=ok)


@triton.jit
def _undo(z, ids, edits, before, stride, capacity, most, BLOCK: tl.constexpr):
    edit = tl.program_id(0).to(tl.int64)
    row = tl.load(edits + edit * 4).to(tl.int64)
    slot = tl.load(edits + edit * 4 + 1).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = place < tl.load(edits + edit * 4 + 2)
    id_ = tl.load(ids + slot * capacity + place, mask=ok, other=0)
    tl.store(
        z + row * stride + id_, tl.load(before + edit * most + place, mask=ok, other=0.0), mask=ok
    )


@triton.jit
def _count(ids, values, changes, n, capacity, BLOCK: tl.constexpr):
    """changes: int32 [n, 5]: slot, place, column, difference, id of a new entry or -1.

    A column is a whole number, and a sum of such float32 is exact in any order.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = i < n
    slot = tl.load(changes + i * 5, mask=ok, other=0).to(tl.int64)
    entry = slot * capacity + tl.load(changes + i * 5 + 1, mask=ok, other=0)
    column = tl.load(changes + i * 5 + 2, mask=ok, other=0)
    more = tl.load(changes + i * 5 + 3, mask=ok, other=0).to(tl.float32)
    tl.atomic_add(values + entry * 4 + column, more, mask=ok)
    new = tl.load(changes + i * 5 + 4, mask=ok, other=-1)
    tl.store(ids + entry, new, mask=ok & (new >= 0))


def apply(
    logits: Tensor,
    ids: Tensor,
    values: Tensor,
    factors: Tensor,
    edits: Tensor,
    most: int,
    *,
    bias: bool,
    repetition: bool,
    output: bool,
) -> Tensor:
    """Change logits float32 [S, vocab] in place; returns what `undo` restores, [edits, most].

    ids: int32 [slots, capacity]; values: float32 [slots, capacity, 4]; factors: float32 [slots, 3];
    edits: int32 [edits, 4], see `_apply`; most: entries of any of these slots, at least 1.
    """
    before = torch.empty((edits.shape[0], most), dtype=torch.float32, device=logits.device)
    _apply[(edits.shape[0], triton.cdiv(most, _BLOCK))](
        logits, ids, values, factors, edits, before, logits.stride(0), ids.shape[1], most,
        BIASED=bias, REPEATED=repetition, COUNTED=output, BLOCK=_BLOCK, num_warps=2,
        enable_fp_fusion=False,
    )  # fmt: skip
    return before


def undo(logits: Tensor, ids: Tensor, edits: Tensor, before: Tensor) -> None:
    """Restore what `apply` changed."""
    most = before.shape[1]
    _undo[(edits.shape[0], triton.cdiv(most, _BLOCK))](
        logits, ids, edits, before, logits.stride(0), ids.shape[1], most, BLOCK=_BLOCK, num_warps=2
    )


def count(ids: Tensor, values: Tensor, changes: Tensor) -> None:
    """Add to numbers of entries, and name the ids of new entries: see `_count`."""
    n = changes.shape[0]
    _count[(triton.cdiv(n, _BLOCK),)](
        ids, values, changes, n, ids.shape[1], BLOCK=_BLOCK, num_warps=2
    )
