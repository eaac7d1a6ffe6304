"""Attention that is not causal, of a sequence's own keys and of a source's, against torch's
`scaled_dot_product_attention` in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.reference.attention import SPAN
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef
from tests.ops.reference.test_ops import make_batch

WHERE = StateRef(0, 0)
SCALE = 0.3
LENGTHS = [1, 40, SPAN + 44, 2 * SPAN + 1]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, window: int | None = None) -> Tensor:
    """Of one sequence: q [n, heads * 16], k and v [m, kv_heads, 16] -> [n, heads * 16]"""
    n, m, group = q.shape[0], k.shape[0], heads // k.shape[1]
    query = q.double().reshape(n, heads, 16).transpose(0, 1)
    key, value = (t.double().transpose(0, 1).repeat_interleave(group, 0) for t in (k, v))
    mask = None
    if window is not None:
        mask = (torch.arange(n)[:, None] - torch.arange(m)).abs() < window
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALE)
    return out.transpose(0, 1).reshape(n, heads * 16)


@pytest.mark.parametrize("window", [None, 1, 65])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3)])
def test_a_query_sees_all_of_its_sequence(heads: int, kv_heads: int, window: int | None) -> None:
    batch = make_batch([(n, n) for n in LENGTHS], heads=kv_heads)
    total = sum(LENGTHS)
    q, k, v = (torch.randn(total, h * 16) for h in (heads, kv_heads, kv_heads))
    got = ReferenceOps().attend(
        q, k, v, WHERE, batch, heads=heads, scale=SCALE, window=window, causal=False
    )
    parts = zip(*(t.split(LENGTHS) for t in (q, k, v)), strict=True)
    want = [
        sdpa(a, b.view(-1, kv_heads, 16), c.view(-1, kv_heads, 16), heads, window)
        for a, b, c in parts
    ]
    assert (got.double() - torch.cat(want)).abs().max() < 1e-5


def with_source(batch: Batch, sources: list[int], kv_heads: int) -> tuple[Batch, Tensor, Tensor]:
    """The same rows over a state with the keys of sources of these lengths; those [B, most, ..]."""
    most = max(sources)
    k, v = (torch.randn(len(sources), most, kv_heads, 16) for _ in range(2))
    columns = -(-most // 16)
    table = 1 + torch.arange(len(sources) * columns, dtype=torch.int32).view(-1, columns)
    caches = []
    for rows in (k, v):
        cache = torch.full((1 + len(sources) * columns, 16, kv_heads, 16), torch.nan)
        for b, n in enumerate(sources):
            at = table[b, torch.arange(n) // 16].long() * 16 + torch.arange(n) % 16
            cache.flatten(0, 1)[at] = rows[b, :n]
        caches.append(cache[None])
    lens = torch.tensor(sources)
    nowhere = torch.zeros(len(batch.tokens), dtype=torch.int64)
    state = PagedState(caches[0], caches[1], table, nowhere, lens, lens.numpy())
    return replace(batch, state=(state,)), k, v


def test_a_query_sees_all_of_its_source() -> None:
    """Sources are longer, as long and shorter than the sequences that read them."""
    rows, sources = [(300, 300), (5, 1), (SPAN, 20), (2, 2)], [40, 2 * SPAN + 1, SPAN, 1]
    batch, k, v = with_source(make_batch(rows, heads=2), sources, 2)
    counts = [n for _, n in rows]
    q = torch.randn(sum(counts), 64)
    got = ReferenceOps().attend(q, None, None, WHERE, batch, heads=4, scale=SCALE, causal=False)
    want = [
        sdpa(part, k[b, :n], v[b, :n], 4)
        for b, (part, n) in enumerate(zip(q.split(counts), sources, strict=True))
    ]
    assert (got.double() - torch.cat(want)).abs().max() < 1e-5


def test_a_row_gets_the_same_bits_in_any_company() -> None:
    """Of its source in any chunk; of its own sequence beside any other."""
    ops, n = ReferenceOps(), 50
    q = torch.randn(n, 64)
    whole, *_ = with_source(make_batch([(n, n)], heads=2), [SPAN + 9], 2)
    want = ops.attend(q, None, None, WHERE, whole, heads=4, scale=SCALE, causal=False)
    for cuts in ([1] * n, [17, 33]):
        parts, start = [], 0
        for size in cuts:
            rows = slice(start, start + size)
            start += size
            part = replace(make_batch([(start, size)], heads=2), state=whole.state)
            parts.append(
                ops.attend(q[rows], None, None, WHERE, part, heads=4, scale=SCALE, causal=False)
            )
        assert torch.equal(torch.cat(parts), want)
    k, v = torch.randn(n, 32), torch.randn(n, 32)
    one = ops.attend(
        q, k, v, WHERE, make_batch([(n, n)], heads=2), heads=4, scale=SCALE, causal=False
    )
    batch = make_batch([(70, 70), (n, n)], heads=2)
    q, k, v = (torch.cat((torch.randn(70, t.shape[1]), t)) for t in (q, k, v))
    both = ops.attend(q, k, v, WHERE, batch, heads=4, scale=SCALE, causal=False)
    assert torch.equal(both[70:], one)
