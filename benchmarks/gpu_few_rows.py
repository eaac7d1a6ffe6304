"""Products with 8 to 64 rows on a GPU, in 8 bits and in 16: checked against float64, timed, and the
fastest tile shapes: [FORM ...] [--rows N ...] [--shapes].

FORM: f8, i8 or bf16. A line has the time of the table's shape, its share of the byte floor,
what the same product takes in bf16 (and by cuBLAS in 8 bits), and with --shapes the fastest ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_graphs import compiling, guarded, say, seconds
from benchmarks.gpu_products import SHAPES
from rbee_worker.ops.cuda.kernels.block_bytes import (
    BLOCK,
    empty_integers,
    to_bytes,
    write_integers,
)
from rbee_worker.ops.cuda.kernels.f8 import quantize_f8
from rbee_worker.ops.cuda.kernels.skinny import skinny
from rbee_worker.ops.cuda.kernels.skinny_shapes import SkinnyShape
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.matrix import quantized

READ, COLD = 4.69e12, 4e8
BF16 = torch.bfloat16


TILES = {  # rows of the matrix, columns, stages, warps
    "f8": [(64, 128, 4, 4), (64, 128, 8, 4), (64, 256, 4, 4), (64, 512, 2, 4), (128, 128, 4, 8),
           (128, 256, 3, 8)],
    "i8": [(64, 128, 4, 4), (64, 128, 8, 4), (128, 128, 4, 8), (128, 128, 3, 4)],
    "bf16": [(64, 64, 8, 4), (64, 128, 3, 4), (64, 128, 6, 4), (128, 64, 4, 4), (128, 64, 6, 4),
             (128, 128, 3, 4), (128, 64, 4, 8)],
}  # fmt: skip


def shapes_of(form: str, m: int, n: int, k: int, gated: bool) -> Iterator[SkinnyShape]:
    """Shapes worth trying."""
    size = 2 if form == "bf16" else 1
    for rows, cols, stages, warps in TILES[form]:
        held = (rows * (1 + gated) + max(8, m)) * cols * size * stages
        if held > 220_000 or k % cols or (m == 64 and cols * size > 256):
            continue
        for split in (1,) if gated or n > 20000 else (1, 2) if n > 4096 else (1, 2, 4):
            for early in (False, True):
                yield SkinnyShape(rows, cols, split, stages, warps, True, early)


class Case:
    """One matrix as often as the cache does not hold it, and rows."""

    def __init__(self, form: str, name: str, m: int) -> None:
        self.rows, self.k, self.gated, residual = SHAPES[name]
        self.form, self.m, self.name = form, m, name
        self.workspace = Workspace("cuda")
        self.n = self.rows // 2 if self.gated else self.rows
        self.x = torch.randn(m, self.k, device="cuda", dtype=BF16)
        self.residual = torch.randn(m, self.n, device="cuda", dtype=BF16) if residual else None
        self.after: dict[str, Any] = {
            "gated": "silu" if self.gated else None, "residual": self.residual, "pdl": True,
            "form": torch.float32 if name == "head" else BF16,
        }  # fmt: skip
        count = max(2, int(COLD / (self.rows * self.k)) + 1)
        dense = torch.empty(self.rows, self.k, device="cuda", dtype=BF16)
        dense.normal_(0, self.k**-0.5)
        self.nbytes = dense.nbytes // (1 if form == "bf16" else 2)
        if form == "bf16":
            count = count // 2 + 2
            self.weights: list[Any] = [(dense.clone(), None) for _ in range(count)]
            self.left: Any = (self.x, None)
            self.floats, self.exact = dense.float(), self.x.double()
        elif form == "f8":
            one = quantized(dense)
            self.weights = [(one[0].clone(), one[1]) for _ in range(count)]
            self.floats = one[0].float() * one[1][:, None]
            self.left = quantize_f8(self.x)
            self.exact = self.left[0].double() * self.left[1].double()[:, None]
        else:
            one = empty_integers(self.rows, self.k, "cuda")
            write_integers(dense.float(), one, 0)
            self.weights = [(one[0].clone(), one[1].clone()) for _ in range(count)]
            self.floats = one[0].float() * one[1].t().repeat_interleave(BLOCK, 1)
            self.left = to_bytes(self.x)
            scale = self.left[1][:, :m].double().t().repeat_interleave(BLOCK, 1)
            self.exact = self.left[0].double() * scale

    def product(self, weight: Any, shape: Any = None) -> Tensor:
        """By our kernel."""
        return skinny(
            self.left[0], weight[0], self.workspace, x_scales=self.left[1], scales=weight[1],
            shape=shape, **self.after,
        )  # fmt: skip

    def error(self) -> float:
        """Of one product against float64 of the 8-bit rows, some columns of it."""
        cols = torch.arange(0, self.n, max(1, self.n // 4096), device="cuda")
        y = self.exact @ self.floats[cols].double().t()
        if self.gated:
            y = F.silu(y) * (self.exact @ self.floats[cols + self.n].double().t())
        if self.residual is not None:
            y = y + self.residual[:, cols].double()
        junk = torch.full((self.m, self.n), float("nan"), device="cuda", dtype=self.after["form"])
        del junk  # what torch.empty gives next is poisoned
        got = self.product(self.weights[0])[:, cols].double()
        return float((got - y).norm() / y.norm())

    def time(self, call: Callable[[Any], Any]) -> float:
        """Seconds of a call for each weight in turn."""
        return seconds(lambda: [call(w) for w in self.weights] and None, 7) / len(self.weights)


def others(case: Case) -> str:
    """The same product in bf16, and by cuBLAS in 8 bits."""
    dense = [case.floats.to(BF16) for _ in range(max(2, int(COLD / case.floats.numel() / 2) + 1))]
    run = partial(skinny, workspace=case.workspace, **case.after)
    time = seconds(lambda: [run(case.x, w) for w in dense] and None, 7) / len(dense)
    line = f"bf16 {time * 1e6:6.1f}"
    if case.form == "f8":
        time = case.time(
            lambda w: torch._scaled_mm(
                case.left[0], w[0].t(), scale_a=case.left[1][:, None], scale_b=w[1][None],
                out_dtype=BF16,
            )
        )  # fmt: skip
        line += f", cuBLAS {time * 1e6:6.1f}"
    return line


def measure(form: str, name: str, m: int, shapes: bool) -> None:
    """One line."""
    case = Case(form, name, m)
    far = guarded(case.error, f"{form} {name} {m}")
    time = guarded(partial(case.time, case.product), f"{form} {name} {m}") or float("nan")
    line = f"{form:<5} {m:>3} x {name:<8} {time * 1e6:6.1f} us, {case.nbytes / time / READ:4.2f}"
    line += f" of the floor, error {far or -1:.1e} | {guarded(partial(others, case))}"
    if shapes:
        found = []
        for shape in shapes_of(form, m, case.n, case.k, case.gated):
            call = partial(case.product, shape=shape)
            taken = guarded(partial(case.time, call), f"{name} {tuple(shape)}")
            found += [] if taken is None else [(taken, tuple(shape))]
        line += " | " + "; ".join(f"{t * 1e6:.1f} {shape}" for t, shape in sorted(found)[:6])
    say(line)


def compile_ahead(form: str, name: str, m: int, shapes: bool) -> None:
    """Compile what is to be measured, all kernels at once."""
    rows, k, gated, residual = SHAPES[name]
    n = rows // 2 if gated else rows
    make = partial(torch.empty, device="cuda")
    after: dict[str, Any] = {
        "gated": "silu" if gated else None, "pdl": True, "workspace": Workspace("cuda"),
        "residual": make((m, n), dtype=BF16) if residual else None,
        "form": torch.float32 if name == "head" else BF16,
    }  # fmt: skip
    dtype = {"f8": torch.float8_e4m3fn, "i8": torch.int8, "bf16": BF16}[form]
    x, w = (make((r, k), dtype=dtype) for r in (m, rows))
    x_scales, scales = make(m), make(rows)
    if form == "i8":
        x_scales, scales = make((k // BLOCK, max(16, m))), make((k // BLOCK, rows))
    if form != "bf16":
        after |= {"x_scales": x_scales, "scales": scales}
    for shape in [None, *(shapes_of(form, m, n, k, gated) if shapes else ())]:
        guarded(partial(skinny, x, w, shape=shape, **after), f"{form} {name} {m} {shape}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", nargs="*", default=["f8", "i8", "bf16"])
    parser.add_argument("--rows", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--shapes", action="store_true", help="try other tile shapes")
    parser.add_argument("--matrices", nargs="*", default=list(SHAPES))
    asked = parser.parse_args()
    torch.manual_seed(0)
    for form in asked.forms:
        with compiling():
            for m in asked.rows:
                for name in asked.matrices:
                    compile_ahead(form, name, m, asked.shapes)
        for m in asked.rows:
            for name in asked.matrices:
                guarded(partial(measure, form, name, m, asked.shapes), f"{form} {name} {m}")


if __name__ == "__main__":
    main()
