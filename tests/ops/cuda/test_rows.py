"""Norms, gated activations and rotary positions against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.cuda.angles import Angles
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.kernels.by_head import by_head
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import by_position, gated, rope
from rbee_worker.ops.reference.experts import activate
from rbee_worker.ops.reference.ops import _angles
from tests.ops.cuda.near import BOUNDS, DEVICE, DTYPES, error, randn
from tests.ops.reference.test_ops import make_batch


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


@pytest.mark.parametrize("spans", [[(90, 1), (20, 1), (300, 1)], [(70, 3), (20, 0), (300, 2)]])
@pytest.mark.parametrize("kind", ["dynamic", "long", "both"])
def test_angles_that_follow_from_the_length(
    kind: str, spans: list[tuple[int, int]], device: str
) -> None:
    """As the reference backend's, of sequences shorter and longer than the original length."""
    plain = tuple(10000.0 ** (-n / 8) for n in range(8))
    spec = RopeSpec(
        16,
        plain,
        magnitude=1.1,
        dynamic=(10000.0, 1.3, 64) if kind != "long" else None,
        long_inv_freq=tuple(f / (2 + n) for n, f in enumerate(plain))
        if kind != "dynamic"
        else None,
        long_magnitude=1.3,
        switch=80,
    )
    batch = make_batch(spans, heads=1)
    cos, sin = _angles(spec, batch)
    want = torch.cat((cos, sin), 2)[:, 0]
    on = replace(
        batch,
        positions=batch.positions.to(device),
        seq_starts=batch.seq_starts.to(device),
        rope_lens=batch.rope_lens.to(device),
    )
    got = Angles(pdl=False).of(spec, on).cpu()
    # a frequency's last bit, times a position
    assert (got - want).abs().max() < 5e-5
    assert got.shape == want.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cols", [20, 128])
def test_a_matrix_for_each_head(dtype: torch.dtype, cols: int) -> None:
    x = randn(2, 3 * cols + 7, seed=1, dtype=dtype)[:, 7:]
    stack = randn(3, 70, cols, seed=2, dtype=dtype, scale=cols**-0.5)
    parts = x.double().reshape(2, 3, cols)
    want = torch.einsum("nhc,hrc->nhr", parts, stack.double()).flatten(1)
    assert error(by_head(x, stack), want) < BOUNDS[dtype]


@pytest.mark.parametrize("heads", [1, 3])
def test_parts_joined_head_by_head(heads: int) -> None:
    """Two and three parts, of rows that are parts of wider ones; four by torch."""
    whole, ops = randn(2, heads * 90 + 5, seed=1)[:, 5:], DeviceOps(DEVICE, "f32", pdl=False)
    parts = list(whole.split([heads * 40, heads * 33, heads * 17], dim=1))
    for some in (parts[:2], parts, [*parts, parts[0]]):
        by_head = [part.reshape(2, heads, -1) for part in some]
        assert torch.equal(ops.concat(some, heads=heads), torch.cat(by_head, 2).flatten(1))


def test_factors_by_position() -> None:
    """Positions beyond the last factor get that one."""
    x, factors = randn(4, 70, seed=1)[:, 3:], randn(5, seed=2)
    at = torch.tensor([0, 7, 15, 400], device=DEVICE)
    got = by_position(x, at, factors, every=4, offset=1)
    assert torch.equal(got, x * factors[torch.tensor([0, 2, 4, 4])][:, None])
