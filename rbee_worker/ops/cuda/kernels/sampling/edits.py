"""Edits of single logits: bias, penalties, bans; and the counts of drawn tokens that penalties use.
`engine/penalties.py` has the formula.

Every product, quotient and sum is rounded to float32, as on the other backends.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rbee_worker.ops.sampling import BANNED, BIAS, FREQUENCY, OUTPUT, PRESENCE, REPETITION, WINDOW

_BLOCK = 256
_SEARCHED = 1024  # entries that a program compares at once
_BIAS, _BANNED, _WINDOW, _OUTPUT = (tl.constexpr(c) for c in (BIAS, BANNED, WINDOW, OUTPUT))
_REPETITION, _PRESENCE, _FREQUENCY = (tl.constexpr(c) for c in (REPETITION, PRESENCE, FREQUENCY))


@triton.jit
def _apply(
    z, ids, values, used, factors, edits, before, stride, capacity, most, BIASED: tl.constexpr,
    REPEATED: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    edit = tl.program_id(0).to(tl.int64)
    row = tl.load(edits + edit * 5).to(tl.int64)
    slot = tl.load(edits + edit * 5 + 1).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = place < tl.load(used + slot)
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
    x = tl.where(banned & (tl.load(edits + edit * 5 + 2) > 0), float("-inf"), x)
    tl.store(at, x, mask=ok)


@triton.jit
def _undo(z, ids, used, edits, before, stride, capacity, most, BLOCK: tl.constexpr):
    edit = tl.program_id(0).to(tl.int64)
    row = tl.load(edits + edit * 5).to(tl.int64)
    slot = tl.load(edits + edit * 5 + 1).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = place < tl.load(used + slot)
    id_ = tl.load(ids + slot * capacity + place, mask=ok, other=0)
    tl.store(
        z + row * stride + id_, tl.load(before + edit * most + place, mask=ok, other=0.0), mask=ok
    )


@triton.jit
def _push(
    ids, values, used, exempt, edits, drawn, capacity, exempts, most, BLOCK: tl.constexpr
):  # fmt: skip
    """One program an edited row. Only it changes the slot's entries; no number is changed twice,
    so nothing depends on the order of loads and stores."""
    edit = tl.program_id(0).to(tl.int64)
    slot = tl.load(edits + edit * 5 + 1).to(tl.int64)
    what = tl.load(edits + edit * 5 + 3)
    leaves = tl.load(edits + edit * 5 + 4)
    token = tl.load(drawn + tl.load(edits + edit * 5))
    if (token >= 0) & (what > 0):
        lanes = tl.arange(0, BLOCK)
        listed = 0
        for first in range(0, exempts, BLOCK):
            one = tl.load(
                exempt + slot * exempts + first + lanes, mask=first + lanes < exempts, other=-1
            )
            listed += tl.sum((one == token).to(tl.int32), 0)
        windowed = tl.where(listed == 0, what // 2, 0)
        output = what % 2
        entries = tl.load(used + slot)
        at, old = most, most  # places of the token and of the one that leaves; most: none
        for first in range(0, most, BLOCK):
            place = first + lanes
            id_ = tl.load(ids + slot * capacity + place, mask=place < entries, other=-1)
            at = tl.minimum(at, tl.min(tl.where(id_ == token, place, most), 0))
            there = (id_ == leaves) & (leaves >= 0)
            old = tl.minimum(old, tl.min(tl.where(there, place, most), 0))
        if windowed + output > 0:
            if at == most:
                tl.store(ids + slot * capacity + entries, token)
                tl.store(used + slot, entries + 1)
            at = tl.where(at == most, entries, at)
            entry = values + (slot * capacity + at) * 4
            times = tl.load(entry + _OUTPUT)
            inside = tl.load(entry + _WINDOW)
            less = (leaves == token).to(tl.int32)
            tl.store(entry + _OUTPUT, times + output.to(tl.float32))
            tl.store(entry + _WINDOW, inside + (windowed - less).to(tl.float32))
        if (old < most) & (leaves != token):
            gone = values + (slot * capacity + old) * 4 + _WINDOW
            tl.store(gone, tl.load(gone) - 1.0)


def apply(
    logits: Tensor,
    ids: Tensor,
    values: Tensor,
    used: Tensor,
    factors: Tensor,
    edits: Tensor,
    most: int,
    *,
    bias: bool,
    repetition: bool,
    output: bool,
) -> Tensor:
    """Change logits float32 [S, vocab] in place; returns what `undo` restores, [edits, most].

    ids: int32 [slots, capacity]; values: float32 [slots, capacity, 4]; used: int32 [slots], the
    entries of each; factors: float32 [slots, 3]; most: entries of any of these slots, or more.
    edits: int32 [edits, 5]: row, slot, whether bans hold; for `push`, what is counted (1: output,
    2: window, 3: both) and the id that leaves the window or -1.
    """
    before = torch.empty((edits.shape[0], most), dtype=torch.float32, device=logits.device)
    _apply[(edits.shape[0], triton.cdiv(most, _BLOCK))](
        logits, ids, values, used, factors, edits, before, logits.stride(0), ids.shape[1], most,
        BIASED=bias, REPEATED=repetition, COUNTED=output, BLOCK=_BLOCK, num_warps=2,
        enable_fp_fusion=False,
    )  # fmt: skip
    return before


def undo(logits: Tensor, ids: Tensor, used: Tensor, edits: Tensor, before: Tensor) -> None:
    """Restore what `apply` changed; the slots have the same entries."""
    most = before.shape[1]
    _undo[(edits.shape[0], triton.cdiv(most, _BLOCK))](
        logits, ids, used, edits, before, logits.stride(0), ids.shape[1], most, BLOCK=_BLOCK,
        num_warps=2,
    )  # fmt: skip


def push(
    ids: Tensor,
    values: Tensor,
    used: Tensor,
    exempt: Tensor,
    edits: Tensor,
    drawn: Tensor,
    most: int,
) -> None:
    """Count the drawn ids int32 [S] of the edited rows. A token that has no entry gets one.

    exempt: int32 [slots, exempts], ids that no window has, -1 where there is none; most: entries
    of any of these slots, or more, but less than the capacity. Others: see `apply`.
    """
    _push[(edits.shape[0],)](
        ids, values, used, exempt, edits, drawn, ids.shape[1], exempt.shape[1], most,
        BLOCK=_SEARCHED, num_warps=4,
    )  # fmt: skip
