"""Attention of the cpu backend beyond windows and soft caps, against float64 and the reference:
int8 caches, values that are columns of the keys, linear biases, sinks, chunked masks, keys of
another layer; and the same bits for any number of threads."""

import random

import numpy as np
import pytest
import torch

from rbee_worker.ops.batch import PagedState
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef, row_bytes
from tests.ops.cpu.eager import Eager
from tests.ops.cpu.test_backend import Cache, Sequence, numbers

WHERE = StateRef(0, 1)


@pytest.fixture(scope="module", params=isa.names())
def ops(request):
    eager = Eager(request.param)
    yield eager
    eager.close()


def naive(q, k, v, heads, kv_heads, *, scale, window=0, chunk=0, slopes=None, sinks=None):
    """Causal attention of one sequence, in float64: [n, heads * v_dim]."""
    q, k, v = (x.double().numpy() for x in (q, k, v))
    n, v_dim = len(q), v.shape[1] // kv_heads
    q, k, v = q.reshape(n, heads, -1), k.reshape(n, kv_heads, -1), v.reshape(n, kv_heads, v_dim)
    out = np.zeros((n, heads, v_dim))
    distance = np.arange(n)[None] - np.arange(n)[:, None]
    seen = distance <= 0
    if window:
        seen &= distance > -window
    if chunk:
        seen &= np.arange(n)[None] // chunk == np.arange(n)[:, None] // chunk
    for h in range(heads):
        kh = h * kv_heads // heads
        scores = q[:, h] @ k[:, kh].T * scale
        if slopes is not None:
            scores = scores + float(slopes[h]) * distance
        scores = np.where(seen, scores, -np.inf)
        extra = -np.inf if sinks is None else float(sinks[h])
        top = np.maximum(scores.max(1, keepdims=True), extra)
        p = np.exp(scores - top)
        p = p / (p.sum(1, keepdims=True) + np.exp(extra - top))
        out[:, h] = p @ v[:, kh]
    return out.reshape(n, -1)


def feed(ops, cache, q, k, v, chunks, heads, scale, **how):
    """All rows of one sequence in chunks of the given sizes."""
    seq, out, at = Sequence(), [], 0
    for n in chunks:
        rows = slice(at, at + n)
        batch = cache.batch([(seq, n)])
        out.append(
            ops.attend(q[rows], k[rows], v[rows], WHERE, batch, heads=heads, scale=scale, **how)
        )
        at += n
    return torch.cat(out)


def close(got, want, bound):
    error = np.abs(got.numpy() - want).max() / np.abs(want).max()
    assert error < bound, error


def cut(n, most, seed):
    rng, out = random.Random(seed), []
    while sum(out) < n:
        out.append(min(rng.randint(1, most), n - sum(out)))
    return out


N = 330


@pytest.mark.parametrize("window", [0, 33])
@pytest.mark.parametrize("extra", ["slopes", "sinks", "both"])
def test_biases_and_sinks(ops, extra, window):
    heads, kv_heads, dim = 6, 2, 32
    q, k, v = (numbers(N, h * dim, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads)))
    how = {}
    if extra != "sinks":
        how["slopes"] = torch.tensor([2.0**-i for i in range(1, heads + 1)])
    if extra != "slopes":
        how["sinks"] = numbers(heads, seed=9) * 3
    cache = Cache(kv_heads, dim, dim, torch.float32, 16)
    scale = dim**-0.5
    got = feed(ops, cache, q, k, v, cut(N, 70, 1), heads, scale, window=window or None, **how)
    close(got, naive(q, k, v, heads, kv_heads, scale=scale, window=window, **how), 3e-6)
    cache = Cache(kv_heads, dim, dim, torch.float32, 16)
    other = feed(ops, cache, q, k, v, [N], heads, scale, window=window or None, **how)
    assert torch.equal(got, other)


@pytest.mark.parametrize("chunk", [1, 7, 64, 300])
def test_chunked_masks(ops, chunk):
    heads, kv_heads, dim = 6, 2, 32
    q, k, v = (numbers(N, h * dim, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads)))
    results = []
    for chunks in (cut(N, 70, 1), [N], [1] * 20 + [N - 20]):
        cache = Cache(kv_heads, dim, dim, torch.float32, 16)
        results.append(feed(ops, cache, q, k, v, chunks, heads, 0.2, chunk=chunk))
    close(results[0], naive(q, k, v, heads, kv_heads, scale=0.2, chunk=chunk), 3e-6)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("window", [0, 100])
def test_scores_far_apart(ops, window):
    """Most weights are nothing, many would be subnormal."""
    heads, kv_heads, dim = 6, 2, 32
    q, k, v = (numbers(N, h * dim, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads)))
    results = []
    for chunks in (cut(N, 70, 1), [N]):
        cache = Cache(kv_heads, dim, dim, torch.float32, 16)
        results.append(feed(ops, cache, q, k, v, chunks, heads, 8.0, window=window or None))
    close(results[0], naive(q, k, v, heads, kv_heads, scale=8.0, window=window), 3e-5)
    assert torch.equal(results[0], results[1])


def test_keys_that_another_layer_wrote(ops):
    heads, kv_heads, dim = 4, 2, 32
    q, k, v = (numbers(40, h * dim, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads)))
    cache = Cache(kv_heads, dim, dim, torch.float32, 16)
    batch = cache.batch([(Sequence(), 40)])
    written = ops.attend(q, k, v, WHERE, batch, heads=heads, scale=0.2)
    before = cache.k.clone()
    again = ops.attend(q, None, None, WHERE, batch, heads=heads, scale=0.2)
    assert torch.equal(again, written)
    assert torch.equal(cache.k.nan_to_num(7.0), before.nan_to_num(7.0))


@pytest.mark.parametrize("how", ["slopes", "sinks", "chunk", "latent"])
def test_what_the_reference_says(ops, how):
    heads, dim, kv_heads = 6, 32, 1 if how == "latent" else 2
    q, k, v = (numbers(N, h * dim, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads)))
    extra = {
        "slopes": {"slopes": torch.tensor([2.0**-i for i in range(1, heads + 1)])},
        "sinks": {"sinks": numbers(heads, seed=9) * 3},
        "chunk": {"chunk": 50},
        "latent": {},
    }[how]
    if how == "latent":
        v = k[:, :24].contiguous()
    both = []
    for one in (ops, ReferenceOps()):
        cache = Cache(kv_heads, dim, 0 if how == "latent" else dim, torch.float32, 16)
        both.append(feed(one, cache, q, k, v, cut(N, 70, 1), heads, 0.2, **extra))
    close(both[0], both[1].double().numpy(), 5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("k_dim", "width"), [(72, 64), (40, 24)])
def test_values_that_are_columns_of_the_keys(ops, dtype, k_dim, width):
    heads = 5
    q, k = numbers(N, heads * k_dim, seed=1), numbers(N, k_dim, seed=2)
    k = k.to(dtype).float()
    cache = Cache(1, k_dim, 0, dtype, 16)
    results = []
    for chunks in (cut(N, 60, 2), [N], [1] * 20 + [N - 20]):
        cache = Cache(1, k_dim, 0, dtype, 16)
        v = k[:, :width].contiguous()
        results.append(feed(ops, cache, q, k, v, chunks, heads, 0.2))
    close(results[0], naive(q, k, k[:, :width], heads, 1, scale=0.2), 5e-6)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(("dim", "block"), [(64, 16), (80, 32), (8, 16)])
def test_int8_cache_is_float32_of_rounded_numbers(ops, dim, block):
    """Exactly what is kept: each head of a token rounded to 255 steps of its largest number."""
    heads, kv_heads = 6, 2
    q, k, v = (numbers(N, h * dim, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads)))

    def rounded(x):
        parts = x.double().view(N, kv_heads, dim)
        scale = parts.abs().amax(-1, keepdim=True) / 127
        return (torch.round(parts / scale) * scale).view(N, -1)

    results = []
    for chunks in (cut(N, 50, 3), [N]):
        cache = Cache(kv_heads, row_bytes("i8", dim), row_bytes("i8", dim), torch.float32, block)
        cache.k, cache.v = (torch.full(c.shape, -1, dtype=torch.int8) for c in (cache.k, cache.v))
        results.append(feed(ops, cache, q, k, v, chunks, heads, dim**-0.5))
    close(
        results[0],
        naive(q, rounded(k).float(), rounded(v).float(), heads, kv_heads, scale=dim**-0.5),
        2e-3,  # a number on the edge of two steps may round either way
    )
    assert torch.equal(*results)


@pytest.mark.parametrize("v_dim", [0, 32])
def test_int8_latent_cache(ops, v_dim):
    """The values' scales are the keys' own where values are columns of the keys."""
    heads, k_dim, width = 5, 40, 32
    q, k = numbers(N, heads * k_dim, seed=1), numbers(N, k_dim, seed=2)
    parts = k.double()
    scale = parts.abs().amax(-1, keepdim=True) / 127
    kept = (torch.round(parts / scale) * scale).float()
    v = k[:, :width].contiguous()
    if v_dim:
        part = v.double()
        scale = part.abs().amax(-1, keepdim=True) / 127
        values = (torch.round(part / scale) * scale).float()
    else:
        values = kept[:, :width]
    cache = Cache(1, row_bytes("i8", k_dim), row_bytes("i8", v_dim), torch.float32, 16)
    cache.k, cache.v = (torch.full(c.shape, -1, dtype=torch.int8) for c in (cache.k, cache.v))
    got = feed(ops, cache, q, k, v, cut(N, 50, 3), heads, 0.2)
    close(got, naive(q, kept, values, heads, 1, scale=0.2), 2e-3)


def test_any_number_of_threads_gives_the_same_bits(ops):
    heads, kv_heads, dim = 9, 3, 64
    lengths = [1, 300, 20, 600]
    q, k, v = (
        numbers(sum(lengths), h * dim, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads))
    )
    results = []
    for threads in (1, 2, 3):
        eager = Eager(ops.library.isa.name, threads)
        cache = Cache(kv_heads, dim, dim, torch.float16, 16)
        batch = cache.batch([(Sequence(), n) for n in lengths])
        results.append(eager.attend(q, k, v, WHERE, batch, heads=heads, scale=0.1))
        one = Sequence()
        cache.batch([(one, 700)])
        batch = cache.batch([(one, 1)])
        state = batch.state[0]
        assert isinstance(state, PagedState)
        state.k.zero_()
        state.v.fill_(1.0)
        results.append(eager.attend(q[:1], k[:1], v[:1], WHERE, batch, heads=heads, scale=0.1))
        eager.close()
    for other in results[2:]:
        assert any(other.shape == r.shape and torch.equal(other, r) for r in results[:2])
