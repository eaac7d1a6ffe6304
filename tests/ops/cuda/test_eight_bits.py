"""Products of few rows in 8 bits against float64, and what the rounding to 8 bits loses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.cuda.kernels.block_bytes import (
    BLOCK,
    empty_integers,
    integer_bytes,
    to_bytes,
    write_integers,
)
from rbee_worker.ops.cuda.kernels.f8 import quantize_f8
from rbee_worker.ops.cuda.kernels.skinny import skinny, skinny_ahead
from rbee_worker.ops.cuda.kernels.skinny_shapes import SkinnyShape
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.matrix import quantized
from rbee_worker.ops.cuda.ops import CudaOps
from tests import blocks as packed_blocks
from tests.ops.cuda.near import BOUNDS, DEVICE, DTYPES, error, randn

SHAPES = [
    SkinnyShape(64, BLOCK, 1, 3, 4, bulk=True),
    SkinnyShape(64, BLOCK, 2, 3, 4, bulk=True, early=False),
    SkinnyShape(32, BLOCK, 1, 3, 4),
]
# Tensor cores keep about 13 bits below the largest of the products that they add, 128 of them here
# before the sum moves to float32, and one column is 20 times as large (5.8e-4 on an H200).
ON_TENSOR_CORES = 16 * 2**-13 if DEVICE == "cuda" else BOUNDS[torch.float32]
CASES = [(None, "none", False), ("silu", "none", False), (None, "gelu", True), (None, "none", True)]


def activations(m: int, k: int) -> Tensor:
    """Normal numbers with a column of large ones."""
    x = randn(m, k, seed=1)
    x[:, 3] *= 20
    return x


def blocks(numbers: Tensor) -> Tensor:
    """float64 scales [K / 128, rows] as [rows, K]."""
    return numbers.double().t().repeat_interleave(BLOCK, 1)


def operands(form: str, m: int, rows: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """values and scales of x, of the matrix, and the product in float64 of what they mean."""
    x, w = activations(m, k), randn(rows, k, seed=2, scale=k**-0.5)
    if form == "f8":
        values, x_scales = quantize_f8(x)
        weight, scales = quantized(w)
        exact = values.double() * x_scales.double()[:, None]
        matrix = weight.double() * scales.double()[:, None]
    else:
        values, x_scales = to_bytes(x)
        weight, scales = empty_integers(rows, k, DEVICE)
        write_integers(w.clone(), (weight, scales), 0)
        exact = values.double() * blocks(x_scales[:, :m])
        matrix = weight.double() * blocks(scales)
    return values, x_scales, weight, scales, exact @ matrix.t()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["f8", "i8"])
@pytest.mark.parametrize(("m", "rows", "k"), [(2, 64, 256), (5, 72, 384), (17, 136, 256)])
def test_products(form: str, m: int, rows: int, k: int, shape: SkinnyShape) -> None:
    workspace = Workspace(torch.device(DEVICE))
    values, x_scales, weight, scales, product = operands(form, m, rows, k)
    bias = randn(rows, seed=3)
    for gated, act, added in CASES:
        if gated and shape.split > 1:
            continue
        y = product + bias.double()
        if gated:
            gate, up = y.chunk(2, dim=1)
            y = F.silu(gate) * up
        elif act == "gelu":
            y = F.gelu(y)
        residual = randn(*y.shape, seed=4) if added else None
        want = y if residual is None else y + residual.double()
        got = skinny(
            values, weight, workspace, x_scales=x_scales, scales=scales, bias=bias, gated=gated,
            act=act, residual=residual, form=torch.float32, shape=shape,
        )  # fmt: skip
        assert error(got, want) < (ON_TENSOR_CORES if form == "f8" else BOUNDS[torch.float32])
    assert not workspace.counters(64).any()


@pytest.mark.usefixtures("rows_alike")
def test_a_row_of_integers_is_the_same_among_any_number_of_rows() -> None:
    """To the bit, with the shapes of the table for up to 8 rows and for more."""
    workspace = Workspace(torch.device(DEVICE))
    x, w = activations(20, 256), randn(96, 256, seed=2)
    held = empty_integers(96, 256, DEVICE)
    write_integers(w, held, 0)

    def product(rows: Tensor) -> Tensor:
        values, x_scales = to_bytes(rows)
        options = {"x_scales": x_scales, "scales": held[1], "form": torch.float32}
        return skinny(values, held[0], workspace, **options)

    whole = product(x)
    for some in (slice(0, 5), slice(3, 4), slice(6, 18)):
        assert torch.equal(product(x[some].contiguous()), whole[some])


@pytest.mark.parametrize("weighted", [True, False])
def test_rows_become_integers(weighted: bool) -> None:
    """After an RMS norm; each number within half a step of its block."""
    x = activations(3, 384)
    x[1, 128:256] = 0
    weight = randn(384, seed=5) + 1 if weighted else None
    values, scales = to_bytes(x, (weight, 1e-5))
    assert scales.shape == (3, 16)
    normed = x.double() * torch.rsqrt(x.double().square().mean(1, keepdim=True) + 1e-5)
    normed = normed * (1 if weight is None else weight.double())
    largest = normed.view(3, 3, BLOCK).abs().amax(2).repeat_interleave(BLOCK, 1)
    far = (values.double() * blocks(scales[:, :3]) - normed).abs()
    assert bool((far <= largest / 127 * 0.5001).all())


def test_a_row_that_is_not_finite_is_not_lost() -> None:
    x, w = activations(2, 256), randn(64, 256, seed=2)
    x[1, 200] = float("nan")
    held = empty_integers(64, 256, DEVICE)
    write_integers(w, held, 0)
    values, x_scales = to_bytes(x)
    y = skinny(
        values, held[0], Workspace(torch.device(DEVICE)), x_scales=x_scales, scales=held[1],
        form=torch.float32,
    )  # fmt: skip
    assert bool(y[0].isfinite().all())
    assert not y[1].isfinite().any()


def test_a_matrix_becomes_integers() -> None:
    """In pieces; a weight is off by half a 127th of the largest of its block at most."""
    w = randn(40, 256, seed=1)
    w[3, :128] = 0
    held = empty_integers(40, 256, DEVICE)
    write_integers(w[:32].clone(), held, 0)
    write_integers(w[32:].clone(), held, 32)
    assert sum(part.nbytes for part in held) == integer_bytes(40, 256)
    got = held[0].double() * blocks(held[1])
    largest = w.double().view(40, 2, BLOCK).abs().amax(2).repeat_interleave(BLOCK, 1)
    assert bool(((got - w.double()).abs() <= largest / 127 * 0.5001).all())
    assert 0.003 < error(got, w.double()) < 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("split", [1, 2])
def test_a_norm_between_two_products(dtype: torch.dtype, split: int) -> None:
    """The first weights its result, the second applies the norm's factor."""
    workspace = Workspace(torch.device(DEVICE))
    x, w = randn(5, 256, seed=1, dtype=dtype), randn(200, 256, seed=2, dtype=dtype, scale=1 / 16)
    residual, weight = randn(5, 200, seed=3, dtype=dtype), randn(200, seed=4) + 1
    up = randn(144, 200, seed=5, dtype=dtype, scale=200**-0.5)
    first = SkinnyShape(64, 128, split, 3, 4)
    y, following = skinny_ahead(
        x, w, workspace, residual=residual, ahead=(weight, 1e-5), shape=first
    )
    assert following is not None
    want = x.double() @ w.double().t() + residual.double()
    assert error(y, want) < BOUNDS[dtype]
    got = skinny(following, up, workspace, gated="silu")
    factor = torch.rsqrt(want.square().mean(1, keepdim=True) + 1e-5)
    gate, ups = ((want * factor * weight.double()) @ up.double().t()).chunk(2, dim=1)
    assert error(got, F.silu(gate) * ups) < 2 * BOUNDS[dtype]


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0"])
def test_which_form_of_a_packed_matrix_a_product_reads(name: str) -> None:
    """Up to 64 rows in 8 bits, more as floats; all as floats with --exact-activations."""
    raw = packed_blocks.weights(name, 64, 256, np.random.default_rng(0), 0.05)
    w = torch.from_numpy(packed_blocks.values(name, raw)).double().to(DEVICE)
    x = activations(70, 256)

    def far(ops: CudaOps, rows: int) -> float:
        weight = ops.matrix([Packed(raw, name, (64, 256))])
        ops.weights_done()
        got = ops.now.product(x[:rows], weight)
        want = x[:rows].double() @ w.t()
        return float((got.double() - want).norm() / want.norm())

    ours = CudaOps(DEVICE, "f32")
    assert 0.002 < far(ours, 6) < 0.03
    assert 0.002 < far(ours, 64) < 0.03
    assert far(ours, 70) < 1e-5
    assert far(CudaOps(DEVICE, "f32", planes=False), 6) < 1e-5
    assert far(CudaOps(DEVICE, "f32", integers=False), 6) < 1e-5
    small = CudaOps(DEVICE, "f32", resident=False)
    assert 0.002 < far(small, 64) < 0.03
    assert far(small, 70) < 1e-5
