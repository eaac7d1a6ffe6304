"""The reference ops against numpy in float64, and bitwise independence of a row's neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.reference.attention import SPAN
from rbee_worker.ops.reference.ops import DTYPES, ReferenceOps
from rbee_worker.state.specs import StateRef

F64 = npt.NDArray[np.float64]


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every promise holds with one thread and with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def pack(x: Tensor) -> Packed:
    data = x.numpy().view(np.uint8).reshape(math.prod(x.shape[:-1]), -1)
    return Packed(data, "F32", tuple(x.shape))


def wide(x: Tensor) -> F64:
    return x.double().numpy()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    ("n_in", "n_out"),
    [(64, 96), (576, 960), (1536, 576), (48, 7), (100, 33), (2048, 512), (4096, 256)],
)
def test_linear_rows_do_not_see_each_other(dtype: str, n_in: int, n_out: int) -> None:
    ops = ReferenceOps("cpu", dtype)
    weight = ops.matrix([pack(torch.randn(n_out, n_in) * 0.1)])
    bias = ops.vector([pack(torch.randn(n_out))])
    x = torch.randn(70, n_in).to(DTYPES[dtype])
    whole = ops.linear(x, weight, bias)
    exact = wide(x) @ wide(weight.data).T + wide(bias)
    error = np.linalg.norm(wide(whole) - exact) / np.linalg.norm(exact)
    assert error < {"f32": 1e-6, "bf16": 5e-3, "f16": 1e-3}[dtype]
    for low, high in ((0, 1), (69, 70), (5, 12), (3, 20), (0, 64), (31, 70)):
        assert torch.equal(ops.linear(x[low:high], weight, bias), whole[low:high])
    order = torch.randperm(70)
    assert torch.equal(ops.linear(x[order], weight, bias), whole[order])
    loud = x * 1000
    loud[37] = x[37]
    assert torch.equal(ops.linear(loud, weight, bias)[37], whole[37])


@pytest.mark.parametrize(
    ("n", "width"), [(67, 8), (67, 64), (67, 100), (67, 576), (67, 4096), (1001, 96)]
)
def test_norms_and_elementwise(n: int, width: int) -> None:
    ops = ReferenceOps()
    x, y = torch.randn(n, width) * 3, torch.randn(n, width)
    weight, bias = torch.randn(width), torch.randn(width)
    a, w, b = wide(x), wide(weight), wide(bias)
    rms = a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5) * w
    centred = a - a.mean(-1, keepdims=True)
    layer = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w + b
    gate, up = wide(x)[:, : width // 2], wide(x)[:, width // 2 :]
    cases = {
        "rms_norm": (lambda r: ops.rms_norm(x[r], weight, 1e-5), rms),
        "layer_norm": (lambda r: ops.layer_norm(x[r], weight, bias, 1e-5), layer),
        "gated": (lambda r: ops.gated(x[r], "silu"), gate / (1 + np.exp(-gate)) * up),
        "relu2": (lambda r: ops.act(x[r], "relu2"), np.maximum(a, 0) ** 2),
        "gelu": (
            lambda r: ops.act(x[r], "gelu"),
            a * 0.5 * (1 + np.vectorize(math.erf)(a / math.sqrt(2))),
        ),
        "gelu_tanh": (
            lambda r: ops.act(x[r], "gelu_tanh"),
            0.5 * a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
        ),
        "gelu_quick": (lambda r: ops.act(x[r], "gelu_quick"), a / (1 + np.exp(-1.702 * a))),
        "softcap": (lambda r: ops.softcap(x[r], 2.0), 2 * np.tanh(a / 2)),
        "add": (lambda r: ops.add(x[r], y[r]), a + wide(y)),
        "scale": (lambda r: ops.scale(x[r], 0.5), a * 0.5),
    }
    for name, (run, exact) in cases.items():
        whole = run(slice(None))
        assert np.allclose(wide(whole), exact, rtol=2e-5, atol=2e-6), name
        for rows in (slice(0, 1), slice(n - 1, n), slice(9, 13), slice(1, 66), slice(n // 2, n)):
            assert torch.equal(run(rows), whole[rows]), (name, rows)


@pytest.mark.parametrize("heads", [2, 5])
def test_norm_by_head_is_the_norm_of_each_part(heads: int) -> None:
    ops, weight = ReferenceOps(), torch.randn(12)
    x = torch.randn(9, heads * 12)
    parts = [ops.rms_norm(p, weight, 1e-6) for p in x.split(12, dim=1)]
    assert torch.equal(ops.rms_norm(x, weight, 1e-6, heads=heads), torch.cat(parts, 1))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [8, 16])
def test_rope_rotates_pairs(interleaved: bool, dim: int) -> None:
    """Each pair is a complex number turned by its angle; the rest of a head passes through."""
    freq = tuple(float(np.float32(10000.0 ** (-2 * i / dim))) for i in range(dim // 2))
    spec = RopeSpec(dim, freq, interleaved, magnitude=1.25)
    batch = make_batch([(300, 9)], heads=1)
    x = torch.randn(9, 3 * 16)
    got = ReferenceOps().rope(x, spec, batch, heads=3)
    head = wide(x).reshape(9, 3, 16)
    turn = head[..., :dim]
    pairs = (
        turn[..., 0::2] + 1j * turn[..., 1::2]
        if interleaved
        else turn[..., : dim // 2] + 1j * turn[..., dim // 2 :]
    )
    angle = batch.positions.numpy()[:, None, None] * np.array(freq)
    turned = pairs * np.exp(1j * angle) * 1.25
    want = head.copy()
    if interleaved:
        want[..., 0:dim:2], want[..., 1:dim:2] = turned.real, turned.imag
    else:
        want[..., : dim // 2], want[..., dim // 2 : dim] = turned.real, turned.imag
    assert np.allclose(wide(got).reshape(9, 3, 16), want, atol=1e-4)


def make_batch(
    spans: list[tuple[int, int]], *, heads: int, k_dim: int = 16, v_dim: int = 16, block: int = 16
) -> Batch:
    """Sequences given as (keys after this step, new rows); blocks filled with random history."""
    starts, positions, slots, tables = [0], [], [], []
    next_block = 1
    for length, new in spans:
        count = -(-length // block)
        table = list(range(next_block, next_block + count))
        next_block += count
        tables.append(table)
        positions += range(length - new, length)
        slots += [table[p // block] * block + p % block for p in range(length - new, length)]
        starts.append(starts[-1] + new)
    most = max(map(len, tables))
    k = torch.randn(1, next_block, block, heads, k_dim)
    v = torch.randn(1, next_block, block, heads, v_dim)
    table = torch.tensor([t + [0] * (most - len(t)) for t in tables], dtype=torch.int32)
    lens = [length for length, _ in spans]
    return Batch(
        tokens=torch.zeros(len(positions), dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        seq_starts=torch.tensor(starts),
        kv_lens=torch.tensor(lens),
        rope_lens=torch.tensor(lens),
        sample_rows=torch.tensor([0]),
        state=(PagedState(k, v, table, torch.tensor(slots, dtype=torch.int64)),),
        seq_starts_host=tuple(starts),
        kv_lens_host=tuple(lens),
    )


def naive_attention(
    q: Tensor, batch: Batch, heads: int, scale: float, window: int | None, cap: float | None
) -> F64:
    """softmax(q k^T) v in float64, one row at a time, keys and values read through the table."""
    state = batch.state[0]
    assert isinstance(state, PagedState)
    out = []
    for b, length in enumerate(batch.kv_lens_host):
        at = [int(state.table[b, p // 16]) * 16 + p % 16 for p in range(length)]
        k = wide(state.k[0].flatten(0, 1)[at])
        v = wide(state.v[0].flatten(0, 1)[at])
        group = heads // k.shape[1]
        for row in range(batch.seq_starts_host[b], batch.seq_starts_host[b + 1]):
            p = int(batch.positions[row])
            low = 0 if window is None else max(0, p - window + 1)
            for h in range(heads):
                query = wide(q[row]).reshape(heads, -1)[h]
                s = k[low : p + 1, h // group] @ query * scale
                s = s if cap is None else cap * np.tanh(s / cap)
                e = np.exp(s - s.max())
                out.append(e / e.sum() @ v[low : p + 1, h // group])
    return np.stack(out).reshape(q.shape[0], -1)


@pytest.mark.parametrize("window", [None, 5, 300])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
def test_attention_equals_float64(window: int | None, heads: int, kv_heads: int) -> None:
    spans = [(1, 1), (40, 40), (SPAN + 3, 1), (2 * SPAN + 1, 20), (SPAN, 17)]
    batch = make_batch(spans, heads=kv_heads)
    state = batch.state[0]
    assert isinstance(state, PagedState)
    n = batch.seq_starts_host[-1]
    q, k, v = (torch.randn(n, width) for width in (heads * 16, kv_heads * 16, kv_heads * 16))
    for cap in (None, 3.0):
        got = ReferenceOps().attend(
            q, k, v, StateRef(0, 0), batch, heads=heads, scale=0.3, window=window, softcap=cap
        )
        want = naive_attention(q, batch, heads, 0.3, window, cap)
        assert torch.equal(state.k[0].flatten(0, 1)[state.slots].flatten(1), k)
        assert np.abs(wide(got) - want).max() < 1e-5


def test_leftovers_in_a_block_are_never_seen() -> None:
    """A block may hold another sequence's NaN beyond this one's end."""
    batch = make_batch([(20, 4)], heads=2)
    state = batch.state[0]
    assert isinstance(state, PagedState)
    q, k, v = torch.randn(4, 64), torch.randn(4, 32), torch.randn(4, 32)
    run = lambda: ReferenceOps().attend(  # noqa: E731
        q, k, v, StateRef(0, 0), batch, heads=4, scale=0.25
    )
    clean = run()
    last = int(state.table[0, 1])
    state.k[0, last, 4:] = float("nan")
    state.v[0, last, 4:] = float("nan")
    state.v[0, 0] = float("nan")  # the sink
    assert torch.equal(run(), clean)
