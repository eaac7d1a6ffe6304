"""Small operations of the reference against numpy in float64: columns, gates, positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.ops.reference.test_ops import make_batch, pack, threads, wide

__all__ = ["threads"]  # run by every test here


def test_heads_are_cut_and_joined_alike() -> None:
    ops, x = ReferenceOps(), torch.randn(7, 3 * 10)
    a, b = ops.split(x, (6, 4), heads=3)
    by_head = wide(x).reshape(7, 3, 10)
    assert np.array_equal(wide(a), by_head[:, :, :6].reshape(7, 18))
    assert np.array_equal(wide(b), by_head[:, :, 6:].reshape(7, 12))
    assert torch.equal(ops.concat((a, b), heads=3), x)
    assert torch.equal(ops.concat((a, b)), torch.cat((a, b), 1))
    assert torch.equal(ops.split(x, (25, 5))[1], x[:, 25:])


def test_each_head_has_its_own_matrix() -> None:
    ops, w = ReferenceOps(), torch.randn(5, 24, 12)
    held = ops.stack([[pack(part)] for part in w])
    assert (held.rows, held.cols, held.count) == (24, 12, 5)
    x = torch.randn(37, 5 * 12)
    got = ops.heads_linear(x, held)
    want = np.einsum("nhc,hrc->nhr", wide(x).reshape(37, 5, 12), wide(w)).reshape(37, -1)
    assert np.abs(wide(got) - want).max() < 1e-5
    for rows in (slice(0, 1), slice(36, 37), slice(3, 20)):
        assert torch.equal(ops.heads_linear(x[rows], held), got[rows])


@pytest.mark.parametrize("width", [8, 100, 576])
def test_gates_and_factors(width: int) -> None:
    ops, n = ReferenceOps(), 67
    x, y, one, column = (
        torch.randn(n, width),
        torch.randn(n, width),
        torch.randn(n, 1),
        torch.randn(width),
    )
    a = wide(x)
    cases: dict[str, tuple[Callable[[slice], Tensor], object]] = {
        "multiply": (lambda r: ops.multiply(x[r], y[r]), a * wide(y)),
        "by one column": (lambda r: ops.multiply(x[r], one[r]), a * wide(one)),
        "by a vector": (lambda r: ops.scale(x[r], column), a * wide(column)),
        "clip": (lambda r: ops.clip(x[r], 0.5), np.clip(a, -0.5, 0.5)),
        "sigmoid": (lambda r: ops.act(x[r], "sigmoid"), 1 / (1 + np.exp(-a))),
        "tanh": (lambda r: ops.act(x[r], "tanh"), np.tanh(a)),
    }
    for name, (run, exact) in cases.items():
        whole = run(slice(None))
        assert np.allclose(wide(whole), exact, rtol=2e-6, atol=2e-6), name
        for rows in (slice(0, 1), slice(n - 1, n), slice(9, 13), slice(1, 66)):
            assert torch.equal(run(rows), whole[rows]), (name, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_activations_stay_narrow(dtype: torch.dtype) -> None:
    ops = ReferenceOps("cpu", "bf16" if dtype == torch.bfloat16 else "f16")
    x, one, column = torch.randn(5, 8).to(dtype), torch.randn(5, 1), torch.randn(8)
    batch = make_batch([(9, 5)], heads=1)
    assert torch.equal(ops.multiply(x, one), (x.float() * one).to(dtype))
    assert torch.equal(ops.scale(x, column), (x.float() * column).to(dtype))
    assert ops.scale_by_position(x, torch.rand(3), batch).dtype == dtype
    assert ops.clip(x, 1.0).dtype == dtype


def test_learned_positions() -> None:
    ops, table = ReferenceOps(), torch.randn(60, 12)
    batch = make_batch([(40, 3), (5, 5)], heads=1)
    x = torch.randn(8, 12)
    at = [37, 38, 39, 0, 1, 2, 3, 4]
    held = ops.matrix([pack(table)])
    assert np.allclose(
        wide(ops.add_positions(x, held, batch)), wide(x) + wide(table)[at], atol=1e-6
    )
    got = ops.add_positions(x, held, batch, offset=2)
    assert np.allclose(wide(got), wide(x) + wide(table)[[p + 2 for p in at]], atol=1e-6)


def test_factors_by_position() -> None:
    ops, factors = ReferenceOps(), torch.rand(4)
    batch = make_batch([(40, 3), (11, 2)], heads=1)
    x = torch.randn(5, 6)
    got = ops.scale_by_position(x, factors, batch, every=10, offset=1)
    at = [3, 3, 3, 1, 1]  # of positions 37, 38, 39 (the end of the table), 9, 10
    assert np.allclose(wide(got), wide(x) * wide(factors)[at][:, None], rtol=1e-6)


def test_no_rows_at_all() -> None:
    ops, x = ReferenceOps(), torch.zeros(0, 24)
    batch = make_batch([(3, 0)], heads=1)
    w, b = torch.ones(12), torch.zeros(12)
    matrix, heads = (
        ops.matrix([pack(torch.ones(7, 24))]),
        ops.stack([[pack(torch.ones(5, 12))]] * 2),
    )
    spec = RopeSpec(12, (1.0,) * 6)
    for result, width in (
        (ops.rms_norm(x, w, 1e-5, heads=2), 24),
        (ops.layer_norm(x, w, b, 1e-5, heads=2), 24),
        (ops.add_rms_norm(x, x, None, 1e-5)[0], 24),
        (ops.rope(x, spec, batch, heads=2), 24),
        (ops.rope(x, RopeSpec(12, (1.0,) * 6, dynamic=(1e4, 2.0, 8)), batch, heads=2), 24),
        (ops.linear(x, matrix), 7),
        (ops.logits(x, matrix), 7),
        (ops.embed(matrix, batch), 24),
        (ops.heads_linear(x, heads), 10),
        (ops.split(x, (8, 4), heads=2)[0], 16),
        (ops.concat((x, x), heads=2), 48),
        (ops.add(x, x), 24),
        (ops.multiply(x, torch.zeros(0, 1)), 24),
        (ops.scale(x, 2.0), 24),
        (ops.clip(x, 1.0), 24),
        (ops.act(x, "silu"), 24),
        (ops.gated(x, "silu"), 12),
        (ops.softcap(x, 3.0), 24),
        (ops.add_positions(x, matrix, batch), 24),
        (ops.scale_by_position(x, torch.ones(3), batch), 24),
    ):
        assert result.shape == (0, width)
