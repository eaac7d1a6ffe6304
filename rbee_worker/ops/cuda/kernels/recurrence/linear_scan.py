"""h_t = decay_t * h_{t-1} + x_t: `Recurrences.linear_scan`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences

_COLUMNS = 64


@triton.jit
def _scan(x, decay, state, slots, starts, out, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    b = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < width
    start, end = tl.load(starts + b), tl.load(starts + b + 1)
    kept = state + tl.load(slots + b) * width + cols
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
        tl.store(out + at, h.to(out.dtype.element_ty), mask=ok)
        at += width
    tl.store(kept, h, mask=ok)


def linear_scan(
    x: Tensor, decay: Tensor, state: Tensor, sequences: Sequences, *, pdl: bool = False
) -> Tensor:
    """x, decay [N, width] -> every h_t [N, width]. state: float32 [slots, width], h before the
    first row of each sequence, replaced with h after its last."""
    out = torch.empty_like(x)
    width = x.shape[1]
    _scan[(sequences.number, triton.cdiv(width, _COLUMNS))](
        x.contiguous(), decay.contiguous(), state, sequences.slots, sequences.starts, out, width,
        BLOCK=_COLUMNS, num_warps=1, enable_fp_fusion=False, **dependent(pdl),
    )  # fmt: skip
    return out
