"""Products of few rows on a GPU: checked against float64, timed against the byte floor.

python benchmarks/gpu_products.py [--read TB/s]. Weights rotate over more than the L2 cache holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_graphs import say
from rbee_worker.ops.cuda.kernels.gemv import gemv
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import gated
from rbee_worker.ops.cuda.kernels.skinny import skinny
from rbee_worker.ops.cuda.kernels.workspace import Workspace

SHAPES = {  # name -> rows of the matrix, columns, gated, residual
    "qkv": (6144, 4096, False, False),
    "o": (4096, 4096, False, True),
    "gate_up": (28672, 4096, True, False),
    "down": (4096, 14336, False, True),
    "head": (128256, 4096, False, False),
}


def graph_time(run: Callable[[], None], repeats: int = 12) -> float:
    """Median seconds of a CUDA graph's replay."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    found = []
    for _ in range(repeats + 2):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        b.synchronize()
        found.append(a.elapsed_time(b) * 1e-3)
    found = sorted(found[2:])
    return found[len(found) // 2]


def wanted(x: Tensor, w: Tensor, scale: Tensor, is_gated: bool, residual: Tensor | None) -> Tensor:
    """In float64."""
    rows = x.double()
    rows = rows * torch.rsqrt(rows.square().mean(1, keepdim=True) + 1e-5) * scale.double()
    y = rows @ w.double().t()
    if is_gated:
        gate, up = y.chunk(2, dim=1)
        y = F.silu(gate) * up
    return y if residual is None else y + residual.double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", type=float, default=4.69)
    read = parser.parse_args().read
    torch.manual_seed(0)
    workspace = Workspace(torch.device("cuda"))
    for name, (rows, k, is_gated, has_residual) in SHAPES.items():
        nbytes = rows * k * 2
        copies = max(2, int(6e8 / nbytes) + 1)
        weights = [
            torch.empty(rows, k, device="cuda", dtype=torch.bfloat16).normal_(0, k**-0.5)
            for _ in range(copies)
        ]
        scale = torch.randn(k, device="cuda") * 0.1 + 1
        n = rows // 2 if is_gated else rows
        for m in (1, 2, 8, 16, 64):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            residual = (
                torch.randn(m, n, device="cuda", dtype=torch.bfloat16) if has_residual else None
            )
            kind = "silu" if is_gated else None

            def ours(w: Tensor, m: int = m, x: Tensor = x, residual: Tensor | None = residual,
                     kind: str | None = kind, scale: Tensor = scale) -> Tensor:  # fmt: skip
                if m == 1:
                    return gemv(x, w, norm=(scale, 1e-5), gated=kind, residual=residual, pdl=True)
                y = norm(x, scale, 1e-5, form=x.dtype, pdl=True)[0]
                return skinny(y, w, workspace, gated=kind, residual=residual, pdl=True)

            def cublas(
                w: Tensor,
                x: Tensor = x,
                is_gated: bool = is_gated,
                residual: Tensor | None = residual,
                scale: Tensor = scale,
            ) -> Tensor:
                y = norm(x, scale, 1e-5, form=x.dtype, pdl=True)[0]
                if residual is not None:
                    return torch.addmm(residual, y, w.t())
                y = F.linear(y, w)
                return gated(y, "silu") if is_gated else y

            line = f"{name:<8} {m:>3} rows"
            want = wanted(x, weights[0], scale, is_gated, residual)
            for label, function in (("ours", ours), ("cuBLAS", cublas)):
                try:
                    got = function(weights[0])
                    far = float((got.double() - want).norm() / want.norm())
                    time = graph_time(lambda f=function, ws=weights: [f(w) for w in ws]) / copies
                    share = nbytes / time / 1e12 / read
                    line += (
                        f" | {label} {time * 1e6:7.1f} us {share:5.2f} of floor, error {far:.1e}"
                    )
                except Exception as error:
                    line += f" | {label} failed: {type(error).__name__} {str(error)[:200]}"
            say(line)


if __name__ == "__main__":
    main()
