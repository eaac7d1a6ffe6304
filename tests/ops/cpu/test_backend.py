"""Every operation of CpuOps equals the reference on every instruction set of this machine.

Bounds are for float32 sums in another order; attention's are relative to values of order one.
"""

import random
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops import OPERATIONS, Ops, RopeSpec
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.vocabulary import NATIVE
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.state.specs import StateRef
from tests.ops.cpu.eager import Eager

WHERE = StateRef(0, 1)
KINDS = ("silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2")


@pytest.fixture(scope="module", params=isa.names())
def ops(request):
    """Operations at once, on each instruction set of this machine."""
    eager = Eager(request.param)
    names = [f"each.{what}-{kind}" for kind in KINDS for what in ("act", "gated")]
    names += [f"each.{kind}" for kind in ("add", "scale", "softcap", "copy")]
    names += ["norm.rms", "norm.layer", "norm.add_rms", "rope.half", "rope.pairs"]
    eager.library.load([*names, "attend.combine"])
    yield eager
    eager.close()


@pytest.fixture(scope="module")
def reference():
    return ReferenceOps()


def numbers(*shape, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal(shape) * scale).astype(np.float32))


def close(got, want, rtol=2e-6, atol=2e-6):
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("width", [16, 72, 100, 576])
@pytest.mark.parametrize("n", [1, 3, 17])
def test_norms(ops, reference, n, width):
    x, r, w, b = (
        numbers(n, width),
        numbers(n, width, seed=1),
        numbers(width),
        numbers(width, seed=2),
    )
    for weight in (w, None):
        close(ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
        got, total = ops.add_rms_norm(x, r, weight, 1e-6)
        want, sums = reference.add_rms_norm(x, r, weight, 1e-6)
        close(got, want)
        close(total, sums, rtol=0, atol=0)
        close(
            ops.layer_norm(x, weight, b, 1e-5),
            reference.layer_norm(x, weight, b, 1e-5),
            rtol=1e-5,
            atol=1e-5,
        )


def test_no_rows_at_all(ops):
    x, w = numbers(0, 64), numbers(64)
    assert ops.rms_norm(x, w, 1e-5).shape == (0, 64)
    assert ops.gated(x, "silu").shape == (0, 32)
    packed = Packed(numbers(16, 64).view(torch.uint8).numpy(), "F32", (16, 64))
    assert ops.linear(x, ops.matrix([packed])).shape == (0, 16)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_norms_by_head(ops, reference, heads):
    x, w = numbers(5, 4 * 24), numbers(4 * 24 // heads)
    close(ops.rms_norm(x, w, 1e-5, heads=heads), reference.rms_norm(x, w, 1e-5, heads=heads))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "width"), [(1, 96), (5, 40), (2, 1000)])
def test_activations(ops, reference, kind, n, width):
    x = numbers(n, width, scale=3.0)
    close(ops.act(x, kind), reference.act(x, kind))
    close(ops.gated(x, kind), reference.gated(x, kind), atol=4e-6)


@pytest.mark.parametrize(("n", "width"), [(1, 96), (5, 40)])
def test_elementwise(ops, reference, n, width):
    x, y = numbers(n, width, scale=20.0), numbers(n, width, seed=1)
    assert torch.equal(ops.add(x, y), x + y)
    assert torch.equal(ops.scale(x, 0.3), x * 0.3)
    close(ops.softcap(x, 30.0), reference.softcap(x, 30.0))


def test_operations_take_columns_of_others(ops, reference):
    x = numbers(4, 96)
    a, b = ops.split(x, (64, 32))
    assert torch.equal(a, x[:, :64])
    assert torch.equal(ops.scale(b, 2.0), x[:, 64:] * 2)


@pytest.mark.parametrize(("rows", "cols"), [(40, 64), (33, 50), (16, 7)])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_float_linear_of_any_shape(ops, reference, rows, cols, kind):
    w = numbers(rows, cols, seed=3).to({"F32": torch.float32, "F16": torch.float16}.get(kind))
    if kind == "BF16":
        w = w.to(torch.bfloat16)
    packed = Packed(w.contiguous().view(torch.uint8).numpy().reshape(rows, -1), kind, (rows, cols))
    x, bias = numbers(5, cols), numbers(rows, seed=4)
    got = ops.linear(x, ops.matrix([packed]), bias)
    want = reference.linear(x, reference.matrix([packed]), bias)
    close(got, want, rtol=1e-5, atol=1e-5)
    batch = rows_of([3, rows - 1, 0])
    close(ops.embed(ops.matrix([packed]), batch), w.float()[[3, rows - 1, 0]], 0, 0)


def rows_of(tokens):
    n = len(tokens)
    t = torch.tensor
    return Batch(
        t(tokens), torch.arange(n), t([0, n]), t([n]), t([n]), t([n - 1]), (), (0, n), (n,)
    )


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("dim", "width"), [(64, 64), (32, 80), (24, 24), (96, 96)])
def test_rope(ops, reference, interleaved, dim, width):
    freq = tuple(10000.0 ** (-2 * i / dim) for i in range(dim // 2))
    spec = RopeSpec(dim, freq, interleaved, magnitude=1.1)
    batch = rows_of([0] * 7)
    batch = Batch(**{**vars(batch), "positions": torch.tensor([0, 1, 2, 5, 300, 511, 4])})
    batch = Batch(**{**vars(batch), "kv_lens_host": (512,)})
    x = numbers(7, 3 * width)
    got = ops.rope(x, spec, batch, heads=3)
    close(got, reference.rope(x, spec, batch, heads=3), atol=2e-6)


@dataclass
class Sequence:
    """How far a sequence has come, and its blocks."""

    done: int = 0
    blocks: list[int] = field(default_factory=list)


class Cache:
    """A cache of two layers; its second is used, blocks in shuffled order, filled with nan."""

    def __init__(self, heads, k_dim, v_dim, dtype, block, blocks=160):
        self.k = torch.full((2, blocks, block, heads, k_dim), float("nan"), dtype=dtype)
        self.v = torch.full((2, blocks, block, heads, v_dim), float("nan"), dtype=dtype)
        self.block, self.free = block, list(range(1, blocks))
        random.Random(0).shuffle(self.free)

    def batch(self, parts):
        """The next n tokens of each (sequence, n)."""
        starts, lens, positions, slots = [0], [], [], []
        for seq, n in parts:
            while len(seq.blocks) * self.block < seq.done + n:
                seq.blocks.append(self.free.pop())
            at = range(seq.done, seq.done + n)
            positions += at
            slots += [seq.blocks[p // self.block] * self.block + p % self.block for p in at]
            seq.done += n
            lens.append(seq.done)
            starts.append(starts[-1] + n)
        width = max((len(s.blocks) for s, _ in parts), default=1)
        table = [s.blocks + [0] * (width - len(s.blocks)) for s, _ in parts]
        t = torch.tensor
        state = PagedState(self.k, self.v, t(table, dtype=torch.int32), t(slots, dtype=torch.int64))
        return Batch(
            torch.zeros(len(positions), dtype=torch.int64), t(positions), t(starts), t(lens),
            t(lens), t([e - 1 for e in starts[1:]]), (state,), tuple(starts), tuple(lens),
        )  # fmt: skip


SHAPES = [  # heads, kv_heads, k_dim, v_dim
    (9, 3, 64, 64), (4, 4, 80, 80), (8, 1, 96, 96), (6, 2, 112, 48), (4, 2, 128, 128),
    (2, 1, 256, 256), (2, 2, 24, 24), (2, 1, 8, 8), (40, 1, 40, 20),
]  # fmt: skip


def run(ops, shape, lengths, chunks, dtype, *, block=16, **how):
    """Outputs by sequence [length, heads * v_dim], the sequences fed in the given chunk sizes."""
    heads, kv_heads, k_dim, v_dim = shape
    cache = Cache(kv_heads, k_dim, v_dim, dtype, block)
    sequences = [Sequence() for _ in lengths]
    q = [numbers(n, heads * k_dim, seed=10 + i) for i, n in enumerate(lengths)]
    k = [numbers(n, kv_heads * k_dim, seed=20 + i) for i, n in enumerate(lengths)]
    v = [numbers(n, kv_heads * v_dim, seed=30 + i) for i, n in enumerate(lengths)]
    out = [[] for _ in lengths]
    rng = random.Random(chunks)
    while any(s.done < n for s, n in zip(sequences, lengths, strict=True)):
        parts, rows = [], []
        for i, (s, n) in enumerate(zip(sequences, lengths, strict=True)):
            take = min(n - s.done, rng.randint(1, chunks))
            if take and (rng.random() < 0.7 or not parts):
                rows.append((i, s.done, s.done + take))
                parts.append((s, take))
        pick = [torch.cat([x[i][a:b] for i, a, b in rows]) for x in (q, k, v)]
        got = ops.attend(*pick, WHERE, cache.batch(parts), heads=heads, scale=k_dim**-0.5, **how)
        for (i, _, _), one in zip(rows, got.split([b - a for _, a, b in rows]), strict=True):
            out[i].append(one.clone())
    return [torch.cat(o) for o in out]


@pytest.mark.parametrize("shape", SHAPES)
def test_attention(ops, reference, shape):
    lengths = (37, 1, 300)
    got = run(ops, shape, lengths, 64, torch.float32)
    want = run(reference, shape, lengths, 64, torch.float32)
    for a, b in zip(got, want, strict=True):
        close(a, b, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("how", [{"window": 20}, {"window": 300}, {"softcap": 2.0}])
def test_windows_and_caps(ops, reference, how):
    lengths = (70, 600)
    got = run(ops, SHAPES[0], lengths, 90, torch.float32, **how)
    want = run(reference, SHAPES[0], lengths, 90, torch.float32, **how)
    for a, b in zip(got, want, strict=True):
        close(a, b, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("block", [16, 64])
def test_narrow_caches(ops, reference, dtype, block):
    got = run(ops, SHAPES[0], (40, 270), 50, dtype, block=block)
    want = run(reference, SHAPES[0], (40, 270), 50, dtype, block=block)
    for a, b in zip(got, want, strict=True):
        close(a, b, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("how", [{}, {"window": 40}])
def test_attention_is_bitwise_the_same_in_any_schedule(ops, how):
    lengths = (33, 290, 5, 140)
    alone = [run(ops, SHAPES[0], lengths, 1000, torch.float16, **how)]
    for chunks in (1, 2, 7, 40, 300):
        alone.append(run(ops, SHAPES[0], lengths, chunks, torch.float16, **how))
    for other in alone[1:]:
        for a, b in zip(alone[0], other, strict=True):
            assert torch.equal(a, b)


def test_rope_that_follows_the_length(ops, reference):
    freq = tuple(10000.0 ** (-i / 32) for i in range(32))
    long = tuple(f / 4 for f in freq)
    x = numbers(9, 64)
    batch = rows_of([0] * 9)
    batch = Batch(
        **{
            **vars(batch),
            "positions": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]),
            "seq_starts": torch.tensor([0, 4, 9]),
            "seq_starts_host": (0, 4, 9),
            "kv_lens": torch.tensor([4, 5]),
            "kv_lens_host": (4, 5),
            "rope_lens": torch.tensor([4, 20]),
        }
    )
    for spec in (
        RopeSpec(64, freq, dynamic=(10000.0, 2.0, 8)),
        RopeSpec(64, freq, long_inv_freq=long, long_magnitude=1.2, switch=10),
    ):
        close(ops.rope(x, spec, batch, heads=1), reference.rope(x, spec, batch, heads=1))


@pytest.mark.parametrize("cols", [8, 24, 40, 100])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_embeddings_of_any_width(ops, reference, cols, kind):
    """Widths that are no multiple of the 32 columns that a kernel writes at once, rows after each
    other: as they are in the file, times the scale, and nothing of a row in the next one."""
    w = numbers(20, cols).to({"F32": torch.float32, "F16": torch.float16}.get(kind, torch.bfloat16))
    packed = Packed(w.view(torch.uint8).numpy().reshape(20, -1), kind, (20, cols))
    got = ops.embed(ops.matrix([packed]), rows_of([3, 19, 0, 3]), scale=2.0)
    assert torch.equal(got, w.float()[[3, 19, 0, 3]] * 2)


@pytest.mark.parametrize("cols", [64, 40])
def test_rows_are_held_once(ops, cols):
    data = numbers(48, cols).view(torch.uint8).numpy().copy()
    alive = weakref.ref(data)
    weight = ops.matrix([Packed(data, "F32", (48, cols))])
    del data
    ops.ops.weights_done()
    assert alive() is None
    assert weight.nbytes == 3 * -(-cols // 32) * 16 * 32 * 4  # groups of 16 rows, cells of 32


def test_an_operation_that_a_backend_lacks_is_named(ops):
    error = ops.ops.lacks("scan")
    assert isinstance(error, UnsupportedModel)
    assert "the cpu backend does not have the operation 'scan'" in str(error)
    assert "rbee-worker[torch]" in error.fix
    assert "--backend reference" in error.fix


def test_every_operation_that_inspect_calls_fast_has_a_kernel():
    assert {name for name in NATIVE if getattr(CpuOps, name) is getattr(Ops, name)} == set()
    assert NATIVE | {"sampling", "weights_done"} >= OPERATIONS
