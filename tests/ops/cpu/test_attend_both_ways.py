"""Attention of the cpu backend that is not causal: against torch's `scaled_dot_product_attention`
in float64, and the same bits alone, in any batch and with any number of threads."""

from __future__ import annotations

import pytest
import torch

from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.paged import SPAN
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef
from tests.ops.cpu.eager import Eager
from tests.ops.cpu.test_attention import close
from tests.ops.cpu.test_backend import Cache, Sequence, numbers
from tests.ops.reference.test_attend_both_ways import sdpa

WHERE, DIM, SCALE = StateRef(0, 1), 16, 0.3
LENGTHS = [1, 40, SPAN + 44, 2, 2 * SPAN + 1, 17]


@pytest.fixture(scope="module", params=isa.names())
def ops(request):
    eager = Eager(request.param)
    yield eager
    eager.close()


def rows(kv_heads, heads):
    return [
        numbers(sum(LENGTHS), h * DIM, seed=i) for i, h in enumerate((heads, kv_heads, kv_heads))
    ]


def together(ops, q, k, v, kv_heads, heads, **how):
    cache = Cache(kv_heads, DIM, DIM, torch.float32, 16)
    batch = cache.batch([(Sequence(), n) for n in LENGTHS])
    return ops.attend(q, k, v, WHERE, batch, heads=heads, scale=SCALE, causal=False, **how)


@pytest.mark.parametrize("window", [None, 1, 3, 65, 300])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
def test_a_query_sees_all_of_its_sequence(ops, heads, kv_heads, window):
    q, k, v = rows(kv_heads, heads)
    got = together(ops, q, k, v, kv_heads, heads, window=window)
    parts = list(zip(*(t.split(LENGTHS) for t in (q, k, v)), strict=True))
    want = [
        sdpa(a, b.view(-1, kv_heads, DIM), c.view(-1, kv_heads, DIM), heads, window)
        for a, b, c in parts
    ]
    close(got, torch.cat(want).numpy(), 3e-6)
    for part, (a, b, c) in zip(got.split(LENGTHS), parts, strict=True):
        cache = Cache(kv_heads, DIM, DIM, torch.float32, 16)
        batch = cache.batch([(Sequence(), len(a))])
        alone = ops.attend(
            a, b, c, WHERE, batch, heads=heads, scale=SCALE, window=window, causal=False
        )
        assert torch.equal(alone, part)


@pytest.mark.parametrize("window", [None, 65])
def test_any_number_of_threads(window):
    q, k, v = rows(2, 4)
    found = []
    for threads in (1, 3, 40):
        ops = Eager(threads=threads)
        found.append(together(ops, q, k, v, 2, 4, window=window))
        ops.close()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_the_reference_says(ops):
    q, k, v = rows(2, 4)
    got = together(ops, q, k, v, 2, 4, window=65, softcap=5.0)
    want = together(ReferenceOps(), q, k, v, 2, 4, window=65, softcap=5.0)
    close(got, want.double().numpy(), 3e-6)
