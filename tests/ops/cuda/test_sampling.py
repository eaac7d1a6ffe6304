"""Sampling by Triton kernels gives the tokens that torch gives, and float64's log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rbee_worker.ops.cuda.sampling import CudaSampling
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.sampling import DrawParams
from tests.ops.cpu.test_sampling import bits_of, by_row, parameters, rows

LAST = 1 - 2.0**-53
TORCH = TorchSampling(torch.device("cpu"))
INF, NAN = float("inf"), float("nan")


def made(vocab: int, device: str) -> CudaSampling:
    return CudaSampling(torch.device(device), vocab)


@pytest.mark.parametrize(("vocab", "cases"), [(1, 2), (2, 2), (7, 4), (513, 5), (5000, 1)])
def test_ids_are_torchs(vocab, cases, device):
    """Rows of every kind with parameters of their own; not one token differs."""
    rng, sampling = np.random.default_rng(vocab), made(vocab, device)
    for _ in range(cases):
        count = int(rng.integers(1, 4))
        z, columns = torch.from_numpy(rows(rng, count, vocab)), parameters(rng, count)
        params = by_row(columns, rng.random(count) < 0.2)
        given = z.to(device)
        assert sampling.choose(given, params).host() == TORCH.choose(z, params).host()
        assert sampling.greedy(given).host() == TORCH.greedy(z).host()
        assert torch.equal(given.cpu().isnan(), z.isnan())
        assert torch.equal(given.cpu().nan_to_num(0), z.nan_to_num(0))  # unchanged


@pytest.mark.parametrize("vocab", [1, 32, 33, 513])
def test_a_masked_row_draws_as_torchs_does(vocab, device):
    rng, sampling = np.random.default_rng(vocab), made(vocab, device)
    for _ in range(3):
        count = int(rng.integers(1, 5))
        z, params = rows(rng, count, vocab), by_row(parameters(rng, count), rng.random(count) < 0.3)
        z[np.isnan(z)] = 0.0
        z = torch.from_numpy(z)
        masked = rng.permutation(count)[: int(rng.integers(1, count + 1))].tolist()
        masks = {
            row: bits_of(rng.random(vocab) < rng.choice([0.0, 0.3, 1.0]), rng) for row in masked
        }
        given, want = z.to(device), TORCH.choose(z, params, masks).host()
        assert sampling.choose(given, params, masks).host() == want
        assert torch.equal(given.cpu(), z)


@pytest.mark.parametrize(
    "params",
    [
        DrawParams(1.0, 0, 1.0, 0.0, 0.5),
        DrawParams(1.25, 40, 0.95, 0.05, 0.7),
        DrawParams(1.0, 1500, 1.0, 0.0, LAST),
        DrawParams(0.5, 0, 0.2, 0.0, 0.0),
        DrawParams(1.0, 3000, 0.9, 0.01, 0.3),
    ],
)
def test_ties_across_every_border(params, device):
    z = np.random.default_rng(1).standard_normal((2, 5000)).astype("f4").round(1)
    z[1, 100:] = -INF
    z = torch.from_numpy(z)
    want = TORCH.choose(z, [params] * 2).host()
    assert made(5000, device).choose(z.to(device), [params] * 2).host() == want


@pytest.mark.parametrize("bad", [[NAN, 1, 2], [1, 2, NAN], [-INF] * 3])
@pytest.mark.parametrize("filters", [(0, 1.0, 0.0), (2, 1.0, 0.0), (0, 0.5, 0.0), (2, 0.5, 0.5)])
def test_a_row_without_an_answer_does_not_touch_the_others(bad, filters, device):
    z = torch.tensor([[0.0, 1.0, 5.0], bad, [5.0, 1.0, 0.0]], device=device)
    found = made(3, device).choose(z, [DrawParams(100.0, *filters, 0.5)] * 3)
    assert found.host() == [2, -1, 0]
    assert found.device.dtype == torch.int32
    assert made(3, device).greedy(z).host() == [2, -1, 0]


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_infinite_logits_share_all_probability(top_k, device):
    z = torch.tensor([[INF, 3, INF, -INF]], device=device)
    draws = [
        made(4, device).choose(z, [DrawParams(1.0, top_k, 1.0, 0.0, u)]).host()[0]
        for u in (0.0, 0.4, 0.6, LAST)
    ]
    assert draws == ([0] * 4 if top_k == 1 else [0, 0, 2, 2])


def test_a_row_is_the_same_alone(device):
    rng = np.random.default_rng(5)
    z, columns = torch.from_numpy(rows(rng, 2, 4200)).to(device), parameters(rng, 2)
    sampling, params = made(4200, device), by_row(columns)
    want = sampling.choose(z, params).host()
    assert sampling.choose(z[1:], params[1:]).host() == want[1:]
    wide = torch.zeros(2, 4300, device=device)
    wide[:, 50:4250] = z
    assert sampling.choose(wide[:, 50:4250], params).host() == want
    assert sampling.choose(z[:0], []).host() == sampling.greedy(z[:0]).host() == []


@pytest.mark.parametrize(("vocab", "cases"), [(1, 1), (7, 2), (513, 1), (5000, 1)])
def test_scores_are_torchs(vocab, cases, device):
    rng = np.random.default_rng(vocab)
    for _ in range(cases):
        count = int(rng.integers(1, 5))
        z = torch.from_numpy(rows(rng, count, vocab))
        ids, tops = rng.integers(0, vocab, count).tolist(), rng.choice([0, 1, 5, 20], count)
        found = made(vocab, device).score(z.to(device), ids, tops.tolist())
        for one, other in zip(found, TORCH.score(z, ids, tops.tolist()), strict=True):
            np.testing.assert_allclose(one.logprob, other.logprob, rtol=0, atol=1e-12)
            if not np.isnan(other.logprob):
                assert [t for t, _ in one.top] == [t for t, _ in other.top]
                pairs = zip(one.top, other.top, strict=True)
                assert all(a == b or abs(a - b) < 1e-12 for (_, a), (_, b) in pairs)


def test_scores_of_some_rows_and_of_a_row_with_nan(device):
    z = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    z[1, 3] = NAN
    sampling = made(50, device)
    want = sampling.score(z.to(device), [1, 2, 3, 4], [3, 2, 0, 5])
    assert sampling.score(z.to(device), [4, 3], [5, 0], [3, 2]) == [want[3], want[2]]
    assert np.isnan(want[1].logprob)
    assert len(want[1].top) == 2
    assert all(0 <= token < 50 for token, _ in want[1].top)
