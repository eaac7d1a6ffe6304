"""Compiles the kernels of experts, recurrences and sampling for an H100 where there is no GPU.

Run by `test_compiles`. What the interpreter runs, the compiler may refuse.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from rbee_worker.ops import Routing
from rbee_worker.ops.cuda.kernels.adapters import add_adapters
from rbee_worker.ops.cuda.kernels.block_bytes import to_bytes
from rbee_worker.ops.cuda.kernels.by_head import by_head
from rbee_worker.ops.cuda.kernels.each import Step, each
from rbee_worker.ops.cuda.kernels.experts.few import few
from rbee_worker.ops.cuda.kernels.experts.many import many
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.experts.routed import routed
from rbee_worker.ops.cuda.kernels.fixed import fixed_product
from rbee_worker.ops.cuda.kernels.gemv import gemv
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.recurrence import wkv
from rbee_worker.ops.cuda.kernels.recurrence.conv import causal_conv
from rbee_worker.ops.cuda.kernels.recurrence.delta import gated_delta
from rbee_worker.ops.cuda.kernels.recurrence.delta_chunks import gated_delta_chunks
from rbee_worker.ops.cuda.kernels.recurrence.gemv_conv import gemv_conv
from rbee_worker.ops.cuda.kernels.recurrence.linear_scan import linear_scan
from rbee_worker.ops.cuda.kernels.recurrence.product_scan import product_scan
from rbee_worker.ops.cuda.kernels.recurrence.rg_lru import rg_lru
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.ssd_chunks import ssd_chunks
from rbee_worker.ops.cuda.kernels.recurrence.state_space import (
    selective_scan,
    selective_segments,
    ssd,
)
from rbee_worker.ops.cuda.kernels.recurrence.taylor import taylor
from rbee_worker.ops.cuda.kernels.recurrence.wkv_chunks import wkv_chunks
from rbee_worker.ops.cuda.kernels.recurrence.wkv_delta_chunks import wkv_delta_chunks
from rbee_worker.ops.cuda.kernels.rowwise import by_position, joined
from rbee_worker.ops.cuda.kernels.sampling import edits
from rbee_worker.ops.cuda.kernels.sampling.draw import draw, planned
from rbee_worker.ops.cuda.kernels.sampling.peaks import greedy
from rbee_worker.ops.cuda.kernels.sampling.score import scores
from rbee_worker.ops.cuda.kernels.skinny import Weighted, skinny_ahead
from rbee_worker.ops.cuda.kernels.tables import ByLength, angles_by_length
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.sampling import DrawParams
from tests.ops.cuda.attention.compiled import Driver

BF16 = torch.bfloat16
VOCAB = 128256


def bf16(*shape: int) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=BF16, device="meta")


def f32(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def of_experts() -> Iterator[tuple[str, partial[Any]]]:
    """A name and a call for each kernel and its main variants."""
    grouped = Routing(8, "sigmoid", True, groups=8, top_groups=4, group_score="best two")
    for name, routing, count in (
        ("softmax", Routing(8, normalise=True), 128),
        ("grouped", grouped, 256),
        ("sparsemixer", Routing(2, "sparsemixer", jitter=0.01), 16),
    ):
        given = {} if routing.score == "sparsemixer" else {"bias": f32(count), "scales": f32(count)}
        for rows in (1, 100):
            yield f"route, {name}, {rows}", partial(route, bf16(rows, count), routing, **given)
        row, matrix = bf16(1, 2048), bf16(count, 2048)
        call = partial(routed, row, matrix, routing, pdl=True, **given)
        yield f"routed, {name}", partial(call, norm=(f32(2048), 1e-6))
        yield f"routed without a norm, {name}", partial(call, logits_bias=f32(count))
    up, down = bf16(32, 1536, 2048), bf16(32, 2048, 768)
    clamped = bf16(32, 5760, 2880), bf16(32, 2880, 2880)
    biases = f32(32 * 5760), f32(32 * 2880)
    for form, rows in ((few, 1), (many, 64), (many, 256), (many, 4096)):
        pairs = ints(rows, 4), f32(rows, 4)
        yield (
            f"experts, {rows}",
            partial(form, bf16(rows, 2048), *pairs, up, down, "silu", None, None, None, pdl=True),
        )
        eight = {"dtype": torch.float8_e4m3fn}
        of_up = {"up_scales": f32(32, 1536, 16), "down_scales": f32(32, 2048, 6), "pdl": True}
        stacks = f32(32, 1536, 2048, **eight), f32(32, 2048, 768, **eight)
        yield (
            f"experts in 8 bits, {rows}",
            partial(form, bf16(rows, 2048), *pairs, *stacks, "silu", None, None, None, **of_up),
        )
        yield (
            f"clamped experts, {rows}",
            partial(form, bf16(rows, 2880), *pairs, *clamped, "gelu_quick", *biases, 7.0, pdl=True),
        )


def of_recurrences() -> Iterator[tuple[str, partial[Any]]]:
    """As `of_experts`."""
    long = ints(5, dtype=torch.int64)
    for longest in (1, 2048):
        given = Sequences(long, long[:4], longest)
        wide, state = bf16(64, 5120), f32(9, 3, 5120)
        yield (
            f"convolution, {longest}",
            partial(
                causal_conv, wide, f32(4 * 5120), f32(5120), state, given, kind="silu", pdl=True
            ),
        )
        both = {"before": wide, "after": wide, "pdl": True}
        yield (
            f"convolution between products, {longest}",
            partial(causal_conv, wide, f32(4 * 5120), None, state, given, kind=None, **both),
        )
        yield (
            f"linear scan, {longest}",
            partial(linear_scan, wide, wide, f32(9, 5120), given, pdl=True),
        )
        b, heads = bf16(64, 16), f32(80)
        yield (
            f"selective scan, {longest}",
            partial(
                selective_scan, wide, wide, b, b, wide, f32(16 * 5120), f32(5120),
                f32(9, 320, 16, 16), given, pdl=True,
            ),
        )  # fmt: skip
        b = bf16(64, 256)
        yield (
            f"ssd, {longest}",
            partial(
                ssd, wide, bf16(64, 80), b, b, wide, heads, heads, heads, f32(9, 320, 128, 16),
                given, groups=2, pdl=True,
            ),
        )  # fmt: skip

        yield (
            f"ssd without a gate, {longest}",
            partial(
                ssd, wide, bf16(64, 80), b, b, None, heads, heads, heads, f32(9, 320, 128, 16),
                given, groups=2, pdl=True,
            ),
        )  # fmt: skip
        row = f32(5120)
        yield (
            f"rg_lru, {longest}",
            partial(rg_lru, wide, wide, wide, row, row, row, long, f32(9, 5120), given, pdl=True),
        )
        low = bf16(64, 16 * 16)
        yield (
            f"taylor, {longest}",
            partial(
                taylor, low, low, bf16(64, 1024), f32(9, 80, 153, 16), given, heads=16, pdl=True
            ),
        )
        step = bf16(64, 80)
        yield (
            f"gated delta, {longest}",
            partial(
                gated_delta, b, b, wide, step, step, heads, heads, f32(9, 320, 128, 16), given,
                groups=2, pdl=True,
            ),
        )  # fmt: skip


def of_rwkv() -> Iterator[tuple[str, partial[Any]]]:
    """As `of_experts`."""
    x, vector, state = bf16(64, 2048), f32(2048), f32(9, 128, 64, 16)
    given = Sequences(ints(9, dtype=torch.int64), ints(8, dtype=torch.int64), 8)
    yield "previous", partial(wkv.previous, x, f32(9, 1, 2048), given, pdl=True)
    yield "lerp", partial(wkv.lerp, x, x, f32(6 * 2048), bf16(64, 6 * 2048), pdl=True)
    how: dict[str, Any] = {"heads": 32, "pdl": True}
    for decay in (None, x):
        yield "wkv", partial(wkv.wkv, x, x, x, decay, vector, vector, state, given, **how)
    vectors = (vector, vector, vector)
    yield "wkv delta", partial(wkv.wkv_delta, x, x, x, x, x, *vectors, state, given, **how)


def of_state_spaces() -> Iterator[tuple[str, partial[Any]]]:
    """As `of_experts`: decoding steps of Mamba 2.8B."""
    f8 = torch.empty((10240, 2560), dtype=torch.float8_e4m3fn, device="meta")
    long, state = ints(64, dtype=torch.int64), f32(9, 3, 5120)
    conv: dict[str, Any] = {"kind": "silu", "form": BF16, "norm": (f32(2560), 1e-5), "pdl": True}
    row, taps = f32(1, 2560), (f32(4 * 5120), f32(5120), state, long[:1])
    yield "product and convolution", partial(gemv_conv, row, bf16(10240, 2560), 0, *taps, **conv)
    yield (
        "f8 product and convolution",
        partial(gemv_conv, row, f8, 0, *taps, scales=f32(10240), **conv),
    )
    yield "few long rows", partial(gemv, bf16(1, 5120), bf16(192, 5120), pdl=True)
    wide, parts, b = bf16(1, 5120), bf16(1, 160), bf16(1, 16)
    given = (wide, parts, bf16(5120, 160), f32(5120), b, b, wide, f32(16 * 5120), f32(5120))
    scan = partial(product_scan, *given, f32(65, 320, 16, 16), long[:1], pdl=True)
    yield "product and scan", scan


def of_chunks() -> Iterator[tuple[str, partial[Any]]]:
    """As `of_experts`."""
    starts = ints(9, dtype=torch.int64)
    for number, dtype in ((1, BF16), (8, BF16), (1, torch.float16), (1, torch.float32)):
        given = Sequences(starts[: number + 1], starts[:number], 2048)

        def of(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        if dtype != torch.float16:
            x, heads, state = of(64, 4096), f32(32), f32(9, 256, 128, 16)
            q, step = of(64, 2048), of(64, 32)
            yield (
                f"gated delta by chunks, {number}, {dtype}",
                partial(
                    gated_delta_chunks, q, q, x, step, step, heads, heads, state, given, groups=16,
                    pdl=True,
                ),
            )  # fmt: skip
            x, row = of(64, 4096), f32(4096)
            yield (
                f"wkv by chunks, {number}, {dtype}",
                partial(
                    wkv_chunks, x, x, x, x, row, row, f32(9, 256, 64, 16), given, heads=64, pdl=True
                ),
            )
            rows, state = (x, x, x, x, x, row, row, row), f32(9, 256, 64, 16)
            yield (
                f"wkv delta by chunks, {number}, {dtype}",
                partial(wkv_delta_chunks, *rows, state, given, heads=64, pdl=True),
            )
        x, b, step, heads = of(64, 5120), of(64, 128), of(64, 80), f32(80)
        for gate in (x, None):
            yield (
                f"ssd by chunks, {number}, {dtype}",
                partial(
                    ssd_chunks, x, step, b, b, gate, heads, heads, heads, f32(9, 320, 128, 16),
                    given, pdl=True,
                ),
            )  # fmt: skip
            if dtype != BF16 or number > 1:
                break
    given, x, b, row = (
        Sequences(starts[:2], starts[:1], 2048),
        bf16(64, 5120),
        bf16(64, 16),
        f32(5120),
    )
    state, how = f32(9, 5120), {"segments": True, "pdl": True}
    yield (
        "selective scan by segments",
        partial(
            selective_segments, x, x, b, b, x, f32(16 * 5120), row, f32(9, 320, 16, 16), given,
            pdl=True,
        ),
    )  # fmt: skip
    yield "linear scan by segments", partial(linear_scan, x, x, state, given, **how)
    yield (
        "rg_lru by segments",
        partial(rg_lru, x, x, x, row, row, row, starts, state, given, **how),
    )


def of_sampling() -> Iterator[tuple[str, partial[Any]]]:
    """As `of_experts`."""
    z = f32(64, VOCAB)
    yield "greedy", partial(greedy, z, pdl=True)
    for top_k, top_p in ((0, 1.0), (0, 0.9), (40, 0.9), (1000, 0.9)):
        plan = planned([DrawParams(1.0, top_k, top_p, 0.05, 0.5)], VOCAB)
        settings = f32(64, 8, dtype=torch.float64)
        yield f"draw, {top_k}, {top_p}", partial(draw, z, plan, settings)
    yield "scores", partial(scores, z, ints(64), f32(64, 8, dtype=torch.float64), 5)
    ids, values, used, five = ints(64, 256), f32(64, 256, 4), ints(64), ints(64, 5)
    flags = {"bias": True, "repetition": True, "output": True}
    yield "edits", partial(edits.apply, z, ids, values, used, f32(64, 3), five, 200, **flags)
    yield "undo", partial(edits.undo, z, ids, used, five, f32(64, 200))
    yield "push", partial(edits.push, ids, values, used, ints(64, 8), five, ints(64), 200)


def of_rows() -> Iterator[tuple[str, partial[Any]]]:
    """As `of_experts`."""
    x, one, vector = bf16(64, 4096), bf16(64, 1), f32(4096)
    for name, operands, steps in (
        ("multiply", [x, one], (Step("multiply", "silu"), Step("weigh", "sigmoid"))),
        ("scale", [vector, x], (Step("scale", number=0.5), Step("vector"), Step("add"))),
        ("clip", [], (Step("clip", number=8.0), Step("softcap", number=30.0), Step("act", "gelu"))),
    ):
        yield f"each, {name}", partial(each, x, operands, steps, form=BF16, pdl=True)
    yield "joined", partial(joined, [x, bf16(64, 512)], heads=4, pdl=True)
    yield "joined of three", partial(joined, [x, one, x], heads=1, pdl=True)
    places, factors = ints(64, dtype=torch.int64), f32(9)
    yield "by position", partial(by_position, x, places, factors, every=8192, offset=1, pdl=True)
    yield "by head", partial(by_head, x, bf16(32, 512, 128), pdl=True)
    for one_row in (True, False):
        long = f32(32)
        how = ByLength(f32(3, dtype=torch.float64), long, 4096, 1.2)
        at = ints(64, dtype=torch.int64)
        call = partial(angles_by_length, at, long, 1.0, how, ints(9, dtype=torch.int64), at[:8])
        yield f"angles by length, {one_row}", partial(call, one_row=one_row, pdl=True)
    then = {"form": BF16, "heads": 32, "pdl": True, "then": (Step("multiply", "silu"), x)}
    yield "norm and a gate", partial(norm, x, f32(128), 1e-6, **then)
    records, scales = ints(5, 3, 3, dtype=torch.int64), f32(5, 3)
    given = ints(64, dtype=torch.int64), ints(65, dtype=torch.int64), records, scales, ints(96, 4)
    for longest in (1, 64):
        for form in (BF16, torch.float32):
            wide = f32(64, 4096, dtype=form)
            call = partial(
                add_adapters, f32(64, 6144, dtype=form), wide, *given, rank=16, form=form
            )
            yield f"adapters, {longest}, {form}", partial(call, longest_rows=longest, pdl=True)


def of_products() -> Iterator[tuple[str, partial[Any]]]:
    """As `of_experts`."""
    workspace = Workspace("meta")
    for rows in (1, 64, 300):
        ends: dict[str, Any] = {"bias": f32(4096), "act": "silu", "form": BF16, "pdl": True}
        call = partial(fixed_product, bf16(rows, 4096), bf16(4096, 4096), workspace, **ends)
        yield f"fixed product, {rows}", partial(call, residual=bf16(rows, 4096))
    f8 = torch.empty((4096, 4096), dtype=torch.float8_e4m3fn, device="meta")
    for rows in (1, 300):
        scaled = {"scales": f32(4096), "form": torch.float32, "pdl": True}
        yield f"f8, {rows}", partial(fixed_product, bf16(rows, 4096), f8, workspace, **scaled)
        blocks = {**scaled, "scales": f32(4096, 32)}
        yield (
            f"f8 in blocks, {rows}",
            partial(fixed_product, bf16(rows, 4096), f8, workspace, **blocks),
        )
    yield "floats", partial(fixed_product, f32(70, 96), f32(40, 96), workspace)
    yield "rows as integers", partial(to_bytes, bf16(64, 4096), (f32(4096), 1e-5), pdl=True)
    ahead = partial(skinny_ahead, workspace=workspace, pdl=True)
    for rows in (8, 64):
        plain = partial(ahead, bf16(rows, 4096), bf16(4096, 4096), ahead=(f32(4096), 1e-5))
        yield f"product before a norm, {rows}", partial(plain, residual=bf16(rows, 4096))
        weighted = Weighted(bf16(rows, 4096), f32(64, rows), 1e-5)
        yield f"product after a norm, {rows}", partial(ahead, weighted, bf16(6144, 4096))
        for name, dtype in (("f8", torch.float8_e4m3fn), ("i8", torch.int8)):
            x, w = f32(rows, 4096, dtype=dtype), f32(28672, 4096, dtype=dtype)
            of_x, scales = f32(rows), f32(28672)
            if name == "i8":
                of_x, scales = f32(32, max(16, rows)), f32(32, 28672)
            eight = partial(ahead, x, w, x_scales=of_x, scales=scales, form=BF16)
            yield f"{name}, {rows} rows", partial(eight, gated="silu")


def main() -> None:
    """Print the name of what was compiled; the first failure ends it."""
    triton.runtime.driver.set_active(Driver())
    run = JITFunction.run

    def dry(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    JITFunction.run = dry
    for name, call in (
        *of_products(),
        *of_experts(),
        *of_recurrences(),
        *of_state_spaces(),
        *of_rwkv(),
        *of_chunks(),
        *of_sampling(),
        *of_rows(),
    ):
        call()
        sys.stdout.write(f"compiled: {name}\n")


if __name__ == "__main__":
    main()
