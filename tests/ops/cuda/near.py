"""Tensors for kernels' tests, how near a result is to float64, and a recorder of graphs."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from rbee_worker.ops.graph.recorder import GraphOps

DEVICE = "cuda" if os.environ.get("RBEE_TEST_GPU") == "1" else "cpu"
# the interpreter multiplies bf16 matrices wrongly
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
# Of the largest number: float32 sums in another order; one rounding of the result otherwise.
BOUNDS = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}


class Recorder(GraphOps):
    """Records operations, and has no weights."""

    def _none(self, *_: object) -> None: ...

    sampling = matrix = stack = vector = floats = weights_done = _none  # type: ignore[assignment]


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """Normal numbers, the same each time."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return numbers.to(DEVICE, dtype)


def error(got: Tensor, want: Tensor) -> float:
    """The largest difference as a share of the largest wanted number; inf where one is missing."""
    assert got.shape == want.shape
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    far = (got.double() - want.double()).abs().max() / want.double().abs().max()
    return float(far)
