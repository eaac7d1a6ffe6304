"""Norms, gated activations and rotary positions against float64."""

from __future__ import annotations

import pytest
import torch

from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import gated, rope
from rbee_worker.ops.reference.experts import activate
from tests.ops.cuda.near import BOUNDS, DTYPES, error, randn


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize(("n", "width", "heads"), [(3, 96, 1), (2, 96, 3), (1, 1000, 1), (0, 8, 1)])
def test_norm(dtype: torch.dtype, layer: bool, n: int, width: int, heads: int) -> None:
    x, added = randn(n, width, seed=1, dtype=dtype), randn(n, width, seed=2, dtype=dtype)
    weight, bias = randn(width // heads, seed=3), randn(width // heads, seed=4)
    got, total = norm(x, weight, 1e-5, form=dtype, bias=bias, layer=layer, heads=heads, added=added)
    assert torch.equal(total, x + added)
    y = total.double().view(n, heads, width // heads)
    if layer:
        y = y - y.mean(-1, keepdim=True)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * weight + bias
    if n:
        assert error(got, y.view(n, width)) < BOUNDS[dtype]
    plain, same = norm(x, None, 1e-5, form=dtype, heads=heads, layer=layer)
    assert same is x or torch.equal(same, x)
    assert plain.shape == x.shape


@pytest.mark.parametrize("layer", [False, True])
def test_heads_with_weights_of_their_own(layer: bool, device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 60, generator=generator)
    weight, bias = torch.randn(2, 60, generator=generator)
    got, _ = norm(
        x.to(device), weight.to(device), 1e-5, form=torch.float32, bias=bias.to(device),
        layer=layer, heads=4,
    )  # fmt: skip
    y = x.double().view(3, 4, 15)
    y = y - y.mean(2, keepdim=True) if layer else y
    y = y / (y.square().mean(2, keepdim=True) + 1e-5).sqrt()
    want = y.flatten(1) * weight.double() + bias.double()
    assert (got.cpu().double() - want).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "relu2"])
def test_gated(kind: str) -> None:
    x = randn(3, 2 * 1100, seed=1)
    gate, up = x.double().chunk(2, dim=1)
    assert error(gated(x, kind), activate(gate, kind) * up) < BOUNDS[x.dtype]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [16, 12, 2])
def test_rope(interleaved: bool, dim: int) -> None:
    x, angle = randn(5, 3 * 16, seed=1), randn(5, dim // 2, seed=2)
    cos, sin = angle.double().cos()[:, None], angle.double().sin()[:, None]
    got = rope(x, torch.cat((angle.cos(), angle.sin()), 1), heads=3, interleaved=interleaved)
    want = x.double().view(5, 3, 16).clone()
    first, second = (
        (slice(0, dim, 2), slice(1, dim, 2))
        if interleaved
        else (slice(0, dim // 2), slice(dim // 2, dim))
    )
    a, b = want[..., first].clone(), want[..., second].clone()
    want[..., first], want[..., second] = a * cos - b * sin, b * cos + a * sin
    assert error(got, want.view(5, 48)) < BOUNDS[x.dtype]
