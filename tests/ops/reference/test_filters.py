"""Filters and draw against full stable sorts in float64, for the same uniform number."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rbee_worker.engine.philox import uniforms
from rbee_worker.ops.reference.sampling import filters
from rbee_worker.ops.reference.sampling.filters import DrawColumns, draw
from rbee_worker.types import SamplingParams
from tests.engine import oracle

LAST = 1 - 2.0**-53  # the largest uniform number
INF = float("inf")


def columns(params: list[SamplingParams], u: list[float]) -> DrawColumns:
    return DrawColumns(
        np.array([1 / p.temperature for p in params]),
        np.array([p.top_k for p in params]),
        np.array([p.top_p for p in params], dtype=float),
        np.array([p.min_p for p in params], dtype=float),
        np.array(u, dtype=float),
    )


def drawn(z: np.ndarray, params: SamplingParams, u: np.ndarray) -> list[int]:
    """One row drawn with many uniform numbers."""
    rows = torch.from_numpy(np.tile(z.astype(np.float32), (len(u), 1)))
    return draw(rows, columns([params] * len(u), list(u))).tolist()


def reachable(z: list[float], **params: float) -> list[int]:
    """All ids that any uniform number can draw, ascending."""
    u = np.concatenate([[0.0], np.linspace(0, 1, 200, endpoint=False), [LAST]])
    return sorted(set(drawn(np.array(z), SamplingParams(**params), u)))


parameters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.05, 0.3, 0.7, 1.0, 1.5, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 3, 5, 17, 40, 1000]),
    top_p=st.sampled_from([1.0, 1.0, 0.999, 0.95, 0.5, 0.25, 1e-9]),
    min_p=st.sampled_from([0.0, 0.0, 1e-4, 0.05, 0.5, 1.0]),
)
numbers = st.one_of(st.sampled_from([0.0, 0.5, LAST]), st.floats(0, 1, exclude_max=True))


@st.composite
def batches(draw_):
    """Logits [R, V] with or without ties, and for every row its own parameters and number."""
    seed = draw_(st.integers(0, 2**32 - 1))
    vocab = draw_(st.sampled_from([1, 2, 7, 33, 512, 513, 1300]))
    rows = draw_(st.integers(1, 4))
    rng = np.random.default_rng(seed)
    z = (rng.standard_normal((rows, vocab)) * draw_(st.sampled_from([0.1, 1, 4]))).astype("f4")
    step = draw_(st.sampled_from([0, 0.25, 1, 8]))
    if step:
        z = (np.round(z / step) * step).astype("f4")
    if draw_(st.booleans()):
        z[rng.random(z.shape) < 0.3] = -INF
        z[:, rng.integers(vocab)] = 1.0
    lists = st.lists(parameters, min_size=rows, max_size=rows)
    return z, draw_(lists), draw_(st.lists(numbers, min_size=rows, max_size=rows))


@pytest.mark.parametrize("reach", [(64, 1024), (2, 8), (1,), ()], ids=str)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches())
@example((np.array([[0, -40, 0, 0, -40]], "f4"), [SamplingParams()], [LAST]))
@example((np.zeros((1, 7), "f4"), [SamplingParams(top_k=3)], [LAST]))
@example((np.full((1, 7), -3e38, "f4"), [SamplingParams(top_p=0.5)], [LAST]))
def test_ids_equal_the_definition(monkeypatch, reach, batch):
    monkeypatch.setattr(filters, "REACH", reach)
    z, params, u = batch
    got = draw(torch.from_numpy(z.copy()), columns(params, u)).tolist()
    for token, *row in zip(got, z, params, u, strict=True):
        assert token in oracle.choices(*row)


@pytest.mark.parametrize(
    ("vocab", "spread"), [(5_000, 0.01), (5_000, 1.0), (5_000, 3.0), (49_152, 1.5)]
)
def test_large_vocabularies_and_flat_distributions(vocab, spread):
    rng = np.random.default_rng(vocab)
    z = (rng.standard_normal((12, vocab)) * spread).astype("f4")
    z[6:] = z[6:].round(1)  # ties everywhere, also across every border
    params = [
        SamplingParams(top_p=0.95),
        SamplingParams(top_p=0.2, temperature=2.0),
        SamplingParams(top_k=1500),
        SamplingParams(top_k=3000, top_p=0.9, min_p=0.01),
        SamplingParams(top_k=64),
        SamplingParams(),
    ] * 2
    for u in (0.0, 0.77, LAST):
        got = draw(torch.from_numpy(z.copy()), columns(params, [u] * 12)).tolist()
        for token, row, p in zip(got, z, params, strict=True):
            assert token in oracle.choices(row, p, u)


def test_top_k_keeps_that_many_and_ties_go_to_the_lower_id():
    assert reachable([0, 3, 1, 2], top_k=2) == [1, 3]
    assert reachable([1, 1, 1, 1, 1], top_k=3) == [0, 1, 2]
    assert reachable([1, 2, 1, 1], top_k=2) == [0, 1]
    assert reachable([1, 2], top_k=50) == [0, 1]
    assert reachable([0] * 70, top_k=65) == list(range(65))
    assert reachable([0] * 1400, top_k=3) == [0, 1, 2]


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    quarters = [0.0] * 4
    assert reachable(quarters, top_p=0.5) == [0, 1]
    assert reachable(quarters, top_p=0.5000001) == [0, 1, 2]
    assert reachable(quarters, top_p=1e-300) == [0]
    assert reachable(quarters, top_p=1.0) == [0, 1, 2, 3]
    probabilities = np.log([0.1, 0.5, 0.15, 0.25]).tolist()
    assert reachable(probabilities, top_p=0.4) == [1]
    assert reachable(probabilities, top_p=0.7) == [1, 3]
    assert reachable(probabilities, top_p=0.8) == [1, 2, 3]


def test_top_p_counts_what_top_k_left():
    probabilities = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    assert reachable(probabilities, top_p=0.55) == [0, 1]
    # Of the first two, 0.4 is 0.4 / 0.7 = 0.571 of the probability.
    assert reachable(probabilities, top_p=0.55, top_k=2) == [0]


def test_min_p_is_relative_to_the_likeliest():
    probabilities = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    assert reachable(probabilities, min_p=0.3) == [0, 1, 2]
    assert reachable(probabilities, min_p=0.6) == [0, 1]
    assert reachable([2, 1, 2, 0], min_p=1.0) == [0, 2]
    # Temperature comes first: at 0.5 the ratios are squared.
    assert reachable(probabilities, min_p=0.3, temperature=0.5) == [0, 1]


def test_the_draw_walks_ids_upwards():
    probabilities = np.log([0.1, 0.5, 0.15, 0.25])
    u = np.array([0.0, 0.05, 0.0999, 0.11, 0.599, 0.601, 0.749, 0.751, LAST])
    assert drawn(probabilities, SamplingParams(), u) == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_tokens_without_weight_are_never_drawn():
    assert reachable([-INF, 0, -INF, 0, -INF]) == [1, 3]
    assert reachable([-INF, 0, -INF, 0, -INF], top_k=4) == [1, 3]
    assert reachable([-INF, 0, -INF, 0, -INF], top_p=0.999) == [1, 3]
    assert reachable([-2000, 0, -2000]) == [1]
    blocks = [-INF] * 600 + [0.0] + [-INF] * 600 + [0.0] + [-INF] * 10
    assert reachable(blocks) == [600, 1201]


def test_the_largest_number_ends_inside_the_kept_tokens():
    """Whatever rounding a block's sum has against the walk through it."""
    z = np.random.default_rng(0).standard_normal((300, 512)).astype("f4")
    z[:, 300:] = -INF
    got = draw(torch.from_numpy(z), columns([SamplingParams()] * 300, [LAST] * 300))
    assert 290 < int(got.min()) <= int(got.max()) < 300


def test_infinite_logits_share_all_probability():
    assert reachable([INF, 3, INF, -INF]) == [0, 2]
    assert reachable([INF, 3, INF, -INF], top_k=1) == [0]
    assert reachable([INF, 3, INF, -INF], top_p=0.6) == [0, 2]
    assert reachable([INF, 3, INF, -INF], min_p=0.01, temperature=2) == [0, 2]


@pytest.mark.parametrize("bad", [[np.nan, 1, 2], [1, 2, np.nan], [-INF] * 3])
@pytest.mark.parametrize(
    "params", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}, {"top_k": 2, "top_p": 0.5}]
)
def test_a_row_without_an_answer_does_not_touch_the_others(bad, params):
    z = torch.tensor([[0.0, 1.0, 5.0], bad, [5.0, 1.0, 0.0]])
    p = SamplingParams(temperature=0.01, **params)
    assert draw(z, columns([p] * 3, [0.5] * 3)).tolist() == [2, -1, 0]


def test_extreme_temperatures():
    z = np.array([1.0, 1.0000001, 0.5], dtype=np.float32)
    assert set(drawn(z, SamplingParams(temperature=1e-12), np.linspace(0, LAST, 9))) == {1}
    assert reachable([3, 3, 0], temperature=1e-12) == [0, 1]
    assert reachable([3.4e38, -3.4e38, 3.4e38]) == [0, 2]


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"temperature": 0.5}, range(7)),
        ({"temperature": 1.5, "top_k": 4}, [1, 2, 4, 6]),
        ({"top_p": 0.9}, [1, 2, 4, 6]),
        ({"min_p": 0.2}, [1, 2, 4]),
    ],
)
def test_frequencies_follow_the_probabilities(params, kept):
    z = np.array([-1.0, 1.5, 2.0, -2.0, 1.0, -1.5, 0.2], dtype=np.float32)
    p, n = SamplingParams(**params), 30_000
    kept = list(kept)
    assert oracle.kept(z, p).tolist() == kept
    u = uniforms(np.uint64(99), 0, np.arange(n))
    counts = np.bincount(drawn(z, p, u), minlength=7)
    weight = np.exp(z[kept].astype(float) / p.temperature)
    expected = n * weight / weight.sum()
    assert counts.sum() == counts[kept].sum() == n
    chi_square = ((counts[kept] - expected) ** 2 / expected).sum()
    assert chi_square < 22.5  # 6 degrees of freedom: exceeded by chance once in a thousand
