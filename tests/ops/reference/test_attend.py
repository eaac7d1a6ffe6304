"""What attention of the reference has beyond windows and soft caps, against numpy in float64:
linear biases, sinks, chunked masks, values that are columns of the keys, keys of another layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.reference.attention import SPAN
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef
from tests.ops.reference.test_ops import make_batch

F64 = npt.NDArray[np.float64]
WHERE = StateRef(0, 0)
SPANS = [(1, 1), (40, 40), (SPAN + 3, 1), (2 * SPAN + 1, 20), (SPAN, 17)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def state_of(batch: Batch) -> PagedState:
    state = batch.state[0]
    assert isinstance(state, PagedState)
    return state


def naive(
    q: Tensor,
    batch: Batch,
    heads: int,
    width: int,
    *,
    window: int = 0,
    chunk: int = 0,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
) -> F64:
    """softmax(q k^T) v one query at a time; values are the first `width` columns of the keys where
    none are kept."""
    state, out = state_of(batch), []
    for b, length in enumerate(batch.kv_lens_host):
        at = [int(state.table[b, p // 16]) * 16 + p % 16 for p in range(length)]
        k = state.k[0].flatten(0, 1)[at].double().numpy()
        v = state.v[0].flatten(0, 1)[at].double().numpy() if state.v.shape[-1] else k[..., :width]
        for row in range(batch.seq_starts_host[b], batch.seq_starts_host[b + 1]):
            p = int(batch.positions[row])
            sees = [j for j in range(p + 1) if not window or j > p - window]
            sees = [j for j in sees if not chunk or j // chunk == p // chunk]
            for h in range(heads):
                kv = h * k.shape[1] // heads
                s = k[sees, kv] @ q[row].double().numpy().reshape(heads, -1)[h] * 0.3
                if slopes is not None:
                    s = s + float(slopes[h]) * (np.array(sees) - p)
                e = np.exp(s)
                total = e.sum() + (0.0 if sinks is None else np.exp(float(sinks[h])))
                out.append(e @ v[sees, kv] / total)
    return np.stack(out).reshape(q.shape[0], -1)


def check(got: Tensor, want: F64) -> None:
    assert np.abs(got.double().numpy() - want).max() < 1e-5


@pytest.mark.parametrize("window", [0, 30])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
def test_slopes_and_sinks(heads: int, kv_heads: int, window: int) -> None:
    batch = make_batch(SPANS, heads=kv_heads)
    n = batch.seq_starts_host[-1]
    q, k, v = (torch.randn(n, h * 16) for h in (heads, kv_heads, kv_heads))
    slopes, sinks = 2.0 ** -torch.arange(1.0, heads + 1), torch.randn(heads) * 3
    for how in ({"slopes": slopes}, {"sinks": sinks}, {"slopes": slopes, "sinks": sinks}):
        got = ReferenceOps().attend(
            q, k, v, WHERE, batch, heads=heads, scale=0.3, window=window or None, **how
        )
        check(got, naive(q, batch, heads, 16, window=window, **how))


@pytest.mark.parametrize("chunk", [1, 7, 16, 300])
def test_chunked_masks(chunk: int) -> None:
    batch = make_batch(SPANS, heads=2)
    n = batch.seq_starts_host[-1]
    q, k, v = torch.randn(n, 64), torch.randn(n, 32), torch.randn(n, 32)
    got = ReferenceOps().attend(q, k, v, WHERE, batch, heads=4, scale=0.3, chunk=chunk)
    check(got, naive(q, batch, 4, 16, chunk=chunk))


@pytest.mark.parametrize(("k_dim", "width"), [(24, 16), (40, 24)])
def test_values_inside_keys(k_dim: int, width: int) -> None:
    batch = make_batch(SPANS, heads=1, k_dim=k_dim, v_dim=0)
    n = batch.seq_starts_host[-1]
    q, k = torch.randn(n, 5 * k_dim), torch.randn(n, k_dim)
    got = ReferenceOps().attend(q, k, k[:, :width], WHERE, batch, heads=5, scale=0.3)
    check(got, naive(q, batch, 5, width))


def test_keys_that_another_layer_wrote() -> None:
    batch = make_batch(SPANS, heads=2)
    n = batch.seq_starts_host[-1]
    q, k, v = torch.randn(n, 64), torch.randn(n, 32), torch.randn(n, 32)
    ops = ReferenceOps()
    written = ops.attend(q, k, v, WHERE, batch, heads=4, scale=0.3)
    before = state_of(batch).k.clone()
    assert torch.equal(ops.attend(q, None, None, WHERE, batch, heads=4, scale=0.3), written)
    assert torch.equal(state_of(batch).k, before)


@pytest.mark.parametrize("how", ["slopes", "sinks", "chunk", "latent"])
def test_rows_do_not_see_their_neighbours(how: str) -> None:
    """One row at a time, in other chunks, in another batch: the same bits."""
    ops, heads, n = ReferenceOps(), 4, 300
    v_dim = 0 if how == "latent" else 16
    q, k, v = torch.randn(n, heads * 16), torch.randn(n, 32), torch.randn(n, 32)
    extra = {
        "slopes": {"slopes": torch.rand(heads)},
        "sinks": {"sinks": torch.randn(heads)},
        "chunk": {"chunk": 50},
        "latent": {},
    }[how]
    results = []
    for cuts in ([300], [1] * 40 + [260], [100, 7, 193]):
        whole = make_batch([(n, n)], heads=2, v_dim=v_dim)
        state, parts, start = state_of(whole), [], 0
        for size in cuts:
            rows = slice(start, start + size)
            start += size
            part = make_batch([(start, size)], heads=2, v_dim=v_dim)
            state_now = PagedState(state.k, state.v, state_of(part).table, state_of(part).slots)
            part = Batch(**{**vars(part), "state": (state_now,)})
            given = v[rows, :24] if how == "latent" else v[rows]
            parts.append(
                ops.attend(q[rows], k[rows], given, WHERE, part, heads=heads, scale=0.3, **extra)
            )
        results.append(torch.cat(parts))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_no_rows_at_all() -> None:
    batch = make_batch([(40, 0), (3, 0)], heads=2)
    none = torch.zeros(0, 32)
    got = ReferenceOps().attend(torch.zeros(0, 64), none, none, WHERE, batch, heads=4, scale=0.3)
    assert got.shape == (0, 64)
    state = state_of(batch)
    empty = torch.zeros(0, dtype=torch.int64)
    nobody = PagedState(state.k, state.v, torch.zeros(0, 1, dtype=torch.int32), empty)
    batch = Batch(empty, empty, torch.tensor([0]), empty, empty, empty, (nobody,), (0,), ())
    got = ReferenceOps().attend(torch.zeros(0, 64), none, none, WHERE, batch, heads=4, scale=0.3)
    assert got.shape == (0, 64)
