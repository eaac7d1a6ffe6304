"""Log-probabilities against a float64 log-softmax."""

import math

import numpy as np
import pytest
import torch

from rbee_worker.ops.reference.sampling.logprobs import score
from tests.engine import oracle

INF = float("inf")


@pytest.mark.parametrize("vocab", [1, 7, 513, 5_000])
def test_values_and_order(vocab):
    rng = np.random.default_rng(vocab)
    z = (rng.standard_normal((5, vocab)) * 6).astype("f4")
    ids = rng.integers(0, vocab, 5).tolist()
    tops = [0, 1, 5, 20, 3]
    got = score(torch.from_numpy(z), ids, tops)
    for row, one in enumerate(got):
        want = oracle.log_softmax(z[row])
        assert one.id == ids[row]
        assert one.logprob == pytest.approx(want[ids[row]], abs=1e-12)
        order = np.argsort(-z[row], kind="stable")[: tops[row]]
        assert [token for token, _ in one.top] == order.tolist()
        np.testing.assert_allclose([value for _, value in one.top], want[order], atol=1e-12)


@pytest.mark.parametrize("vocab", [30, 5_000])
def test_equal_values_come_in_id_order_across_the_border(vocab):
    z = torch.zeros(2, vocab)
    z[0, 17], z[0, 11] = 2.0, 1.0
    z[1, 5:9] = 1.0
    first, second = score(z, [0, 0], [4, 2])
    assert [token for token, _ in first.top] == [17, 11, 0, 1]
    assert [token for token, _ in second.top] == [5, 6]


def test_infinite_logits():
    z = torch.tensor([[INF, 0.0, INF, -INF], [-INF, 0.0, 0.0, -INF]])
    first, second = score(z, [1, 2], [3, 4])
    assert first.logprob == -INF
    assert first.top == ((0, -math.log(2)), (2, -math.log(2)), (1, -INF))
    assert second.logprob == -math.log(2)
    assert second.top == ((1, -math.log(2)), (2, -math.log(2)), (0, -INF), (3, -INF))


def test_nan_scores_nan_in_its_row_only():
    z = torch.tensor([[0.0, math.nan], [0.0, 0.0]])
    first, second = score(z, [0, 0], [1, 1])
    assert math.isnan(first.logprob)
    assert second.logprob == -math.log(2)


def test_many_rows_equal_each_alone():
    rng = np.random.default_rng(3)
    z = torch.from_numpy(rng.standard_normal((300, 1_001)).astype("f4"))
    ids, tops = rng.integers(0, 1_001, 300).tolist(), [row % 4 for row in range(300)]
    together = score(z, ids, tops)
    for row in range(0, 300, 7):
        assert score(z[row : row + 1], ids[row : row + 1], tops[row : row + 1]) == [together[row]]
