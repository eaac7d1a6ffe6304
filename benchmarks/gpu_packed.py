"""Packed weights on a GPU: checked against float64 and timed against the byte floor, 8B shapes.

python benchmarks/gpu_packed.py [check] [dequantize] [products] [chain]
Without arguments: all. Weights rotate over more than the L2 cache holds. `gpu_packed_shapes.py`
finds the fastest shapes of programs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_graphs import compiling, guarded, say, seconds
from benchmarks.gpu_packed_cases import (
    COLD,
    CUDA,
    READ,
    SHAPES,
    case,
    compile_case,
    exact,
    far,
    part_of,
    rows_of,
)
from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.checkpoint.random_blocks import RANDOM
from rbee_worker.ops.cuda.kernels.packed.dequantize import dequantize
from rbee_worker.ops.cuda.kernels.packed.planes import WORDS, repack
from rbee_worker.ops.cuda.kernels.packed.product import Next, packed_product
from rbee_worker.ops.cuda.kernels.packed.quantize import empty_quantized, quantize_rows

MIXES = {  # name -> formats of the layers, of half of the layers' v and down, of the head
    "Q4_K_M": ("Q4_K", "Q6_K", "Q6_K"),
    "Q8_0": ("Q8_0", "Q8_0", "Q8_0"),
    "Q4_0": ("Q4_0", "Q4_0", "Q6_K"),
}


def check() -> None:
    """Every format's values and products; the chain from one product to the next."""
    calls = [(form, partial(_check_values, form)) for form in RANDOM]
    calls += [(form, partial(_check_product, form)) for form in WORDS]
    calls.append(("chain", partial(_check_chain)))
    with compiling():
        for name, call in calls:
            guarded(partial(call, lambda text: None), name)
    for name, call in calls:
        guarded(partial(call, say), name)


def _check_values(form: str, tell: Callable[[str], None]) -> None:
    raw, packed = rows_of(form, 100, 1024)
    want = torch.from_numpy(decode(packed)).to(CUDA)
    wrong = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        out = torch.full((100, 1024), float("nan"), dtype=dtype, device=CUDA)
        dequantize(raw, form, 100, 1024, out)
        if not torch.equal(out, want.to(dtype)):
            wrong.append(f"{dtype}: {far(out, want.double()):.1e}")
    tell(f"values {form:<8} {'equal' if not wrong else 'WRONG ' + ' '.join(wrong)}")


def _check_product(form: str, tell: Callable[[str], None]) -> None:
    raw, packed = rows_of(form, 200, 2048)
    part = repack(raw, form, 200, 2048)
    w = torch.from_numpy(decode(packed)).to(CUDA).double()
    x = torch.randn(11, 2048, device=CUDA).bfloat16()
    line, results = "", {}
    for n in (1, 2, 4, 11):
        q = quantize_rows(x[:n], (torch.ones(2048, device=CUDA), 1e-5))
        out = torch.full((n, 200), float("nan"), device=CUDA)
        packed_product(q, part, out, pdl=True)
        results[n] = out
        line += f" {far(out, exact(q) @ w.T):.1e}"
    same = [n for n, out in results.items() if torch.equal(out[0], results[1][0])]
    tell(f"product {form:<7} errors of 1, 2, 4, 11 rows{line}; row 0 has the same bits with {same}")


def _check_chain(tell: Callable[[str], None]) -> None:
    """gate_up -> down (residual, norm of the next product), in bfloat16."""
    raws = [rows_of("Q4_K", *s) for s in ((1024, 512), (1024, 512), (512, 1024))]
    parts = [repack(raw, "Q4_K", len(raw), p.shape[1]) for raw, p in raws]
    gate, up, down = (
        torch.from_numpy(decode(p)).to(CUDA).double().repeat(len(raw) // p.shape[0], 1)
        for raw, p in raws
    )
    weight = torch.rand(512, device=CUDA) + 0.5
    for n in (1, 8):
        x = torch.randn(n, 512, device=CUDA).bfloat16()
        q = quantize_rows(x, (weight, 1e-5), pdl=True)
        middle = empty_quantized(n, 1024, CUDA)
        packed_product(q, parts[0], up=parts[1], gated="silu", after=Next(middle), pdl=True)
        out = x.clone()
        after = empty_quantized(n, 512, CUDA, norm_eps=1e-5)
        packed_product(middle, parts[2], out, residual=out, after=Next(after, weight), pdl=True)
        y = F.silu(exact(q) @ gate.T) * (exact(q) @ up.T)
        z = exact(middle) @ down.T + x.double()
        alone = quantize_rows(out, (weight, 1e-5))
        same = torch.equal(after.values, alone.values) and torch.equal(after.scale, alone.scale)
        tell(
            f"chain of {n}: gates {far(exact(middle), y):.1e} (8 bits), down {far(out, z):.1e} "
            f"(bf16), next activations {'equal' if same else 'DIFFER'}"
        )


def dequantize_times() -> None:
    """gate_up of every format to bfloat16, and repacking."""
    rows, cols = 28672, 4096
    out = torch.empty((rows, cols), dtype=torch.bfloat16, device=CUDA)
    forms = [f for f in RANDOM if not FORMATS[f].is_float]
    with compiling():
        for form in forms:
            nbytes = cols // FORMATS[form].block * FORMATS[form].bytes
            raw = torch.empty((rows, nbytes), dtype=torch.uint8, device=CUDA)
            guarded(partial(dequantize, raw, form, rows, cols, out), form)
    for form in forms:
        raw, _ = rows_of(form, rows, cols)
        count = max(2, int(COLD / raw.nbytes) + 1)
        raws = [raw.clone() for _ in range(count)]

        def run(raws: list[Tensor] = raws, form: str = form) -> None:
            for raw in raws:
                dequantize(raw, form, rows, cols, out)

        time = guarded(partial(seconds, run, 5), form)
        if time is not None:
            moved = (raw.nbytes + out.nbytes) / time * count / 1e12
            whole = 8.03e9 / (rows * cols) * time / count * 1e3
            say(
                f"dequantize {form:<8} {time / count * 1e6:7.1f} us {moved:5.2f} TB/s; "
                f"8B {whole:.1f} ms"
            )


def products(forms: tuple[str, ...] = ("Q4_K", "Q6_K", "Q8_0", "Q4_0")) -> None:
    """Microseconds and share of the byte floor, for 1, 4, 8 and 16 rows."""
    with compiling():
        for form in forms:
            for name in SHAPES:
                for n in (1, 4, 8, 16):
                    guarded(partial(compile_case, form, name, n), f"{form} {name}")
    for form in forms:
        for name in SHAPES:
            line = f"{form:<5} {name:<8}"
            for n in (1, 4, 8, 16):
                made = guarded(partial(case, form, name, n), f"{form} {name}")
                time = made and guarded(
                    partial(seconds, partial(made[0], None), 9), f"{form} {name}"
                )
                if time:
                    _, nbytes, count = made
                    one = time / count
                    line += f" | {n:>2}: {one * 1e6:6.1f} us {nbytes / one / READ:4.2f}"
                del made
            say(line)


def chain() -> None:
    """All products of a decoding step of 32 layers, and the quantization of attention's result."""
    for mix, (form, other, head) in MIXES.items():
        guarded(partial(_chain, mix, form, other, head), mix)


def _chain(mix: str, form: str, other: str, head: str) -> None:
    layers = []
    for number in range(32):
        more = number < 4 or number >= 28 or (number - 4) % 3 == 2
        f = other if more else form
        gate_up = part_of(form, 28672, 4096)
        layers.append(
            (
                [part_of(form, 6144, 4096)] if f == form
                else [part_of(form, 5120, 4096), part_of(f, 1024, 4096)],
                part_of(form, 4096, 4096),
                (gate_up.row_range(0, 14336), gate_up.row_range(14336, 28672)),
                part_of(f, 4096, 14336),
            )
        )  # fmt: skip
    last = part_of(head, 128256, 4096)
    weight = torch.ones(4096, device=CUDA)
    nbytes = last.nbytes + sum(
        p.nbytes for qkv, o, both, down in layers for p in (*qkv, o, *both, down)
    )
    for n in (1, 8, 16):
        x = torch.randn(n, 4096, device=CUDA).bfloat16()
        qkv_out = torch.zeros((n, 6144), dtype=torch.bfloat16, device=CUDA)
        logits = torch.zeros((n, 128256), device=CUDA)

        def run(
            n: int = n, x: Tensor = x, qkv_out: Tensor = qkv_out, logits: Tensor = logits
        ) -> None:
            q = quantize_rows(x, (weight, 1e-5), pdl=True)
            for qkv, o, (gate, up), down in layers:
                at = 0
                for part in qkv:
                    packed_product(q, part, qkv_out[:, at : at + part.rows], pdl=True)
                    at += part.rows
                attended = quantize_rows(qkv_out[:, :4096], pdl=True)
                normed = empty_quantized(n, 4096, CUDA, norm_eps=1e-5)
                packed_product(attended, o, x, residual=x, after=Next(normed, weight), pdl=True)
                middle = empty_quantized(n, 14336, CUDA)
                packed_product(normed, gate, up=up, gated="silu", after=Next(middle), pdl=True)
                q = empty_quantized(n, 4096, CUDA, norm_eps=1e-5)
                packed_product(middle, down, x, residual=x, after=Next(q, weight), pdl=True)
            packed_product(q, last, logits, pdl=True)

        with compiling():
            guarded(run, mix)
        time = guarded(partial(seconds, run, 9), f"{mix} {n}")
        if time:
            say(
                f"chain {mix:<7} {n:>2} rows: {time * 1e3:.3f} ms, {nbytes / time / READ:.2f} of "
                f"the floor ({nbytes / 1e9:.2f} GB), without attention {n / time:.0f} tok/s"
            )


def main(arguments: list[str]) -> None:
    parts = {"check": check, "dequantize": dequantize_times, "products": products, "chain": chain}
    for name in arguments or parts:
        guarded(parts[name], name)


if __name__ == "__main__":
    main(sys.argv[1:])
