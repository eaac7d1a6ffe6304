"""h_t = decay_t * h_{t-1} + x_t: `Recurrences.linear_scan`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.segments import Segments

_COLUMNS = 64


@triton.jit
def _scan(
    x, decay, state, ends, decays, slots, starts, out, rows, width, SEGMENTS: tl.constexpr,
    ADDS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """See `rg_lru._lru`."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    b = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < width
    start, end = tl.load(starts + b), tl.load(starts + b + 1)
    kept = state + tl.load(slots + b) * width + cols
    last = True
    if SEGMENTS:
        to = (start // rows + b + tl.program_id(2)) * width + cols
        start += tl.program_id(2) * rows
        last = start + rows >= end
        if (start >= end) | (ADDS & last):
            return
        end = tl.minimum(start + rows, end)
        if ADDS:
            h, whole = tl.zeros([BLOCK], tl.float32), tl.full([BLOCK], 1.0, tl.float32)
        else:
            h = tl.load(ends + to, mask=ok, other=0.0)
    else:
        h = tl.load(kept, mask=ok, other=0.0)
    at = start * width + cols
    # the next row is read before this one is used
    there = ok & (start < end)
    next_x = tl.load(x + at, mask=there, other=0.0)
    next_decay = tl.load(decay + at, mask=there, other=0.0)
    for t in range(start, end):
        here, factor = next_x.to(tl.float32), next_decay.to(tl.float32)
        there = ok & (t + 1 < end)
        next_x = tl.load(x + at + width, mask=there, other=0.0)
        next_decay = tl.load(decay + at + width, mask=there, other=0.0)
        h = factor * h + here
        if ADDS:
            whole *= factor
        else:
            tl.store(out + at, h.to(out.dtype.element_ty), mask=ok)
        at += width
    if ADDS:
        tl.store(ends + to, h, mask=ok)
        tl.store(decays + to, whole, mask=ok)
    else:
        tl.store(kept, h, mask=ok & last)


def linear_scan(
    x: Tensor,
    decay: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    segments: bool = False,
    pdl: bool = False,
) -> Tensor:
    """x, decay [N, width] -> every h_t [N, width]. state: float32 [slots, width], h before the
    first row of each sequence, replaced with h after its last. segments: see `rg_lru`."""
    out = torch.empty_like(x)
    n, width = x.shape
    x, decay = x.contiguous(), decay.contiguous()
    some = Segments(state, sequences, n, columns=_COLUMNS) if segments else None
    rows = 0 if some is None else some.rows

    def run(ends: Tensor | None, decays: Tensor | None, *, adds: bool) -> None:
        grid = (sequences.number, triton.cdiv(width, _COLUMNS)) if some is None else some.grid
        _scan[grid](
            x, decay, state, ends, decays, sequences.slots, sequences.starts, out, rows,
            width, SEGMENTS=rows > 0, ADDS=adds, BLOCK=_COLUMNS, num_warps=1,
            enable_fp_fusion=False, **dependent(pdl),
        )  # fmt: skip

    if some is None or not rows:
        run(None, None, adds=False)
    else:
        run(some.ends, some.decays, adds=True)
        some.carry(pdl=pdl)
        run(some.ends, some.decays, adds=False)
    return out
