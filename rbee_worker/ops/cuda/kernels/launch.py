"""What every launch of a kernel needs: whether the interpreter runs, and dependent launch."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import triton
from triton.runtime import driver

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run as Python, on CPU tensors


def dependent(wanted: bool) -> dict[str, Any]:
    """Options of a launch whose kernel may start before the kernel before it has ended
    (programmatic dependent launch, from compute capability 9.0 on)."""
    pdl = wanted and not INTERPRETED
    return {"PDL": pdl, "launch_pdl": pdl} if pdl else {"PDL": False}


_MOST_SHARED = 232_448  # of compute capability 9.0


def shared_memory() -> int:
    """Bytes of shared memory that a program can have; an H200's, where there is no card."""
    if INTERPRETED or not torch.cuda.is_available():
        return _MOST_SHARED
    return _shared_memory(torch.cuda.current_device())


@cache
def _shared_memory(device: int) -> int:
    found: int = driver.active.utils.get_device_properties(device)["max_shared_mem"]
    return found


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    found: int = triton.next_power_of_2(n)
    return found


def precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies float32: exactly, not in TF32."""
    return "ieee" if dtype == torch.float32 else "tf32"
