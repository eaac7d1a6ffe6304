"""The fastest tile shapes of the 8B products on this GPU: [one] [few M ...] [--jobs]."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import triton

from benchmarks.gpu_graphs import say
from rbee_worker.ops.cuda import tuning
from rbee_worker.ops.cuda.kernels import gemv as gemv_file
from rbee_worker.ops.cuda.kernels import skinny as skinny_file

SHAPES = {  # name -> rows of the matrix, columns, activation, residual
    "qkv": (6144, 4096, None, False),
    "o": (4096, 4096, None, True),
    "gate_up": (28672, 4096, "silu", False),
    "down": (4096, 14336, None, True),
    "head": (128256, 4096, None, False),
}


def compile_ahead(m: int, rows: int, cols: int, gated: str | None, residual: bool) -> None:
    """Compile every candidate, many at once."""
    dtype, n = torch.bfloat16, rows // 2 if gated else rows
    w = torch.empty(rows, cols, device="cuda", dtype=dtype)
    x = torch.empty(m, cols, device="cuda", dtype=dtype)
    added = torch.empty(m, n, device="cuda", dtype=dtype) if residual else None
    workspace = tuning.Workspace("cuda")
    norm = None if residual else (torch.ones(cols, device="cuda"), 1e-5)
    kernel = gemv_file._gemv if m == 1 else skinny_file._skinny
    run = kernel.run
    kernel.run = lambda *args, grid=None, warmup=False, **kw: run(
        *args, grid=grid, warmup=True, **kw
    )
    try:
        with triton.AsyncCompileMode(ThreadPoolExecutor(16), ignore_errors=True):
            if m == 1:
                for shape in tuning.gemv_shapes(cols, gated is not None):
                    tuning.gemv(x, w, gated=gated, residual=added, norm=norm, pdl=True, shape=shape)
            else:
                for shape in tuning.skinny_shapes(m, cols, gated is not None):
                    tuning.skinny(
                        x, w, workspace, gated=gated, residual=added, pdl=True, shape=shape
                    )
    finally:
        kernel.run = run


def main(rows_of_x: list[int]) -> None:
    for m in rows_of_x:
        for name, (rows, cols, gated, residual) in SHAPES.items():
            compile_ahead(m, rows, cols, gated, residual)
            if m == 1:
                found = tuning.tune_gemv(rows, cols, gated=gated, residual=residual)
            else:
                found = tuning.tune_skinny(m, rows, cols, gated=gated, residual=residual)
            best = " | ".join(f"{t.seconds * 1e6:.1f} {tuple(t.shape)}" for t in found[:4])
            say(f"{m:>3} x {name:<8} ({rows}, {cols}): {best}")


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]] or [1, 8, 64])
