"""What every launch of a kernel needs: whether the interpreter runs, and dependent launch."""

from __future__ import annotations

import os
from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run as Python, on CPU tensors


def dependent(wanted: bool) -> dict[str, Any]:
    """Options of a launch whose kernel may start before the kernel before it has ended
    (programmatic dependent launch, from compute capability 9.0 on)."""
    pdl = wanted and not INTERPRETED
    return {"PDL": pdl, "launch_pdl": pdl} if pdl else {"PDL": False}


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    found: int = triton.next_power_of_2(n)
    return found


def precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies float32: exactly, not in TF32."""
    return "ieee" if dtype == torch.float32 else "tf32"


@triton.jit
def call_to_cache(p, count: tl.constexpr):
    """Ask for `count` numbers from each of the pointers on, without waiting for them: they are
    brought to the L2 cache. Addresses and bytes are multiples of 16; not in the interpreter."""
    size: tl.constexpr = count * (p.dtype.element_ty.primitive_bitwidth // 8)
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0;",
        "=r,l,r",
        [p, tl.full([1, 1], size, tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
