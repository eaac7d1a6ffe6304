"""The fastest shapes of programs for packed products of the 8B shapes on this GPU.

python benchmarks/gpu_packed_shapes.py FORMAT...
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_graphs import compiling, guarded, say, seconds
from benchmarks.gpu_packed_cases import READ, SHAPES, case, compile_case
from rbee_worker.ops.cuda.kernels.packed.product_shapes import ProductShape, product_shape


def shapes(forms: tuple[str, ...]) -> None:
    """The fastest shapes for one row, and those for eight, of `product_shapes.py`."""
    tried = [
        ProductShape(rows, chunks, double, warps, registers)
        for rows in (8, 16, 32)
        for chunks, warps in (
            (8, 2), (16, 4), (32, 8), (64, 16), (32, 4), (64, 8), (16, 2), (128, 16), (64, 4)
        )
        for double in (False, True)
        for registers in (0, 128)
        if chunks * rows >= 32 * warps and (rows == 32 or chunks <= 64)
        if registers == 0 or (warps == 8 and not double)
    ]  # fmt: skip
    for form in forms:
        for name in SHAPES:
            chunks = SHAPES[name][1] // 64
            fit = [s for s in tried if s.chunks <= chunks]
            fit = [s for s in fit if s.rows == 32 or name in ("qkv", "v", "head")]
            fit = [s for s in fit if not (name == "gate_up" and s.double)]
            for n in (1, 8):
                some = fit if n == 1 else [s for s in fit if not s.double]
                with compiling():
                    for shape in some:
                        guarded(
                            partial(compile_case, form, name, n, shape), f"{form} {name} {shape}"
                        )
                run, nbytes, count = case(form, name, n)
                found = []
                for shape in some:
                    time = guarded(partial(seconds, partial(run, shape), 5), f"{name} {shape}")
                    if time:
                        found.append((time / count, tuple(shape)))
                found.sort()
                now = tuple(
                    product_shape(
                        form,
                        SHAPES[name][0],
                        chunks,
                        name == "gate_up",
                        name in ("gate_up", "o", "down"),
                    )
                )
                kept = next((t for t, shape in found if shape == now), float("nan"))
                say(
                    f"{form} {name} {n}: now {kept * 1e6:.1f} {now}; "
                    + "; ".join(
                        f"{t * 1e6:.1f} us {nbytes / t / READ:.2f} {shape}"
                        for t, shape in found[:4]
                    )
                )
                del run


if __name__ == "__main__":
    shapes(tuple(sys.argv[1:]) or ("Q4_K", "Q8_0"))
