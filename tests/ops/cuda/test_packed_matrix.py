"""Matrices of several packed parts, and chains of products whose activations stay quantized."""

import numpy as np
import pytest
import torch

from rbee_worker.ops.cuda.kernels.packed.matrix import Then, packed_linear, packed_matrix
from rbee_worker.ops.cuda.kernels.packed.planes import repack
from rbee_worker.ops.cuda.kernels.packed.quantize import quantize_rows
from tests import blocks
from tests.ops.cuda.test_packed_product import close, exact, some_rows


def matrix(device, cols, *parts):
    """A matrix of (format, rows) parts, and its values in float64."""
    rng = np.random.default_rng(len(parts))
    raws = [blocks.weights(name, rows, cols, rng, 0.05) for name, rows in parts]
    held = [
        repack(torch.from_numpy(raw).to(device), name, rows, cols)
        for raw, (name, rows) in zip(raws, parts, strict=True)
    ]
    values = [blocks.values(name, raw) for raw, (name, _) in zip(raws, parts, strict=True)]
    return packed_matrix(held), torch.from_numpy(np.concatenate(values)).double()


def test_parts_of_several_formats(device, dtypes):
    """As q and k in one format, v in another; with bias, norm and residual."""
    whole, w = matrix(device, 256, ("Q4_K", 32), ("Q4_K", 32), ("Q6_K", 24))
    assert [p.rows for p in whole.parts] == [64, 24]
    assert whole.nbytes == sum(p.data.nbytes + p.block.nbytes for p in whole.parts)
    bias = torch.randn(88, generator=torch.Generator().manual_seed(0)).to(device)
    x = some_rows(2, 256, device)
    weight = torch.linspace(0.5, 1.5, 256, device=device)
    for dtype in dtypes:
        residual = some_rows(2, 88, device, dtype)
        made = packed_linear(
            x, whole, dtype, norm=(weight, 1e-5), bias=bias, act="silu", residual=residual
        )
        q = quantize_rows(x, (weight, 1e-5))
        factor = torch.rsqrt(x.cpu().double().square().mean(1, keepdim=True) + 1e-5)
        y = exact(q) * factor @ w.T + bias.cpu()
        want = torch.nn.functional.silu(y) + residual.cpu().double()
        close(made.out, want, 1e-6 if dtype == torch.float32 else 1e-3)
        assert (made.out.dtype, made.quantized) == (dtype, None)


@pytest.mark.parametrize(
    "parts",
    [
        [("Q4_0", 64), ("Q4_0", 64)],
        [("Q4_0", 128)],
        [("Q8_0", 32), ("Q4_0", 32), ("Q8_0", 32), ("Q4_0", 32)],
        [("Q4_0", 64), ("Q8_0", 64)],  # different formats
        [("Q4_0", 80), ("Q4_0", 112)],  # the ups do not begin at a group of rows
    ],
    ids=str,
)
def test_gates_then_ups_then_down(parts, device):
    """The middle is quantized at once, or after the activation where gates and ups differ."""
    both, w = matrix(device, 64, *parts)
    width = both.rows // 2
    down, d = matrix(device, width, ("Q4_0", 32))
    x = some_rows(2, 64, device)
    bias = torch.randn(both.rows, generator=torch.Generator().manual_seed(0)).to(device)
    middle = packed_linear(
        x, both, torch.float32, bias=bias, gated="silu", then=Then(only=True)
    ).quantized
    gate, up = (exact(quantize_rows(x)) @ w.T + bias.cpu()).chunk(2, 1)
    want = torch.nn.functional.silu(gate) * up
    close(exact(middle), want, 0.01)
    alone = quantize_rows(want.float().to(device))
    assert (middle.values.int() - alone.values.int()).abs().max() <= 1
    stream = some_rows(2, 32, device)
    norm = (torch.linspace(0.5, 1.5, 32, device=device), 1e-6)
    made = packed_linear(middle, down, torch.float32, residual=stream, then=Then(norm))
    close(made.out, exact(middle) @ d.T + stream.cpu().double(), 1e-6)
    again = quantize_rows(made.out, norm)
    assert torch.equal(made.quantized.values, again.values)
    assert torch.equal(made.quantized.scale, again.scale)


def test_parts_that_fill_no_blocks_are_quantized_afterwards(device):
    whole, w = matrix(device, 64, ("Q4_0", 40), ("Q8_0", 24))
    x = some_rows(1, 64, device)
    made = packed_linear(x, whole, torch.float32, then=Then((None, 1e-6)))
    close(made.out, exact(quantize_rows(x)) @ w.T, 1e-6)
    assert torch.equal(made.quantized.values, quantize_rows(made.out, (None, 1e-6)).values)
    only = packed_linear(x, whole, torch.float32, then=Then(only=True))
    assert torch.equal(only.quantized.values, quantize_rows(made.out).values)
