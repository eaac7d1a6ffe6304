"""Products with packed weights: repacking, int8 activations, what is done in the same launch."""

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.formats import FORMATS as FILE_FORMATS
from rbee_worker.ops.cuda.kernels.packed.planes import HELD_AS, WORDS, joined, repack
from rbee_worker.ops.cuda.kernels.packed.product import Next, packed_product
from rbee_worker.ops.cuda.kernels.packed.product_shapes import ProductShape
from rbee_worker.ops.cuda.kernels.packed.quantize import empty_quantized, quantize_rows
from tests import blocks

FORMATS = sorted(WORDS)
SMALL = ProductShape(32, 4, False, 1)  # several steps over 512 columns


def matrix(name, rows, cols, device, seed=0):
    """A part and the float64 values that the gguf package decodes."""
    rng = np.random.default_rng(seed)
    raw = blocks.weights(name, rows, cols, rng, 0.05)
    part = repack(torch.from_numpy(raw).to(device), name, rows, cols)
    return part, torch.from_numpy(blocks.values(name, raw)).double()


def some_rows(rows, cols, device, dtype=torch.float32, seed=1):
    """Normal numbers with an outlier, as activations have them."""
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    x[:, 3] *= 20
    return x.to(dtype).to(device)


def exact(q):
    """What quantized rows stand for, before a norm: float64 [N, cols]."""
    values = q.values.cpu().double().view(len(q.values), -1, 32)
    return (values * q.scale.cpu().double()[..., None]).flatten(1)[:, : q.cols]


def poisoned(*shape, device, dtype=torch.float32):
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


def poisoned_next(rows, cols, device, eps=None):
    to = empty_quantized(rows, cols, device, norm_eps=eps)
    used = -(-cols // 32) * 32
    to.values[:, :used] = 99
    for numbers in (to.scale, to.sum, *([] if to.squares is None else [to.squares])):
        numbers[:, : used // 32] = float("nan")
    return to


def close(got, want, bound):
    want = torch.as_tensor(want)
    error = (got.cpu().double() - want).norm() / want.norm()
    assert error < bound, float(error)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format(name, device):
    """40 rows do not fill the layout, nor do 96 columns, which blocks of 32 values allow."""
    cols = 96 if FILE_FORMATS[name].block == 32 else 512
    part, w = matrix(name, 40, cols, device)
    q = quantize_rows(some_rows(1, cols, device))
    whole = poisoned(1, 64, device=device)
    packed_product(q, part, whole[:, 8:48], shape=SMALL)
    close(whole[:, 8:48], exact(q) @ w.T, 1e-6)
    assert whole[:, :8].isnan().all()
    assert whole[:, 48:].isnan().all()


def test_blocks_of_activations(device, dtypes):
    for dtype in dtypes:
        x = some_rows(3, 200, device, dtype)
        x[1] = 0
        q = quantize_rows(x)
        assert q.values.shape == (3, 256)
        assert (q.values[:, 200:] == 0).all()
        v = torch.nn.functional.pad(x.cpu().double(), (0, 56)).view(3, -1, 32)
        largest = v.abs().amax(2)
        assert torch.allclose(q.scale.cpu().double(), largest / 127, rtol=1e-6, atol=0)
        error = (exact(q) - x.cpu().double()).abs().view(3, -1)
        assert (error <= largest.repeat_interleave(32, 1)[:, :200] / 127 * 0.5001).all()
        sums = q.values.cpu().double().view(3, -1, 32).sum(2) * q.scale.cpu().double()
        assert torch.allclose(q.sum.cpu().double(), sums, rtol=1e-6, atol=1e-12)
        assert q.squares is None


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, by the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_lost(bad, device):
    x = some_rows(2, 256, device)
    x[1, 77] = bad
    part, w = matrix("Q4_K", 32, 256, device)
    q = quantize_rows(x)
    out = poisoned(2, 32, device=device)
    packed_product(q, part, out, shape=SMALL)
    close(out[:1], exact(q)[:1] @ w.T, 1e-6)
    assert not out[1].isfinite().any()


@pytest.mark.parametrize("weighted", [True, False])
def test_an_rms_norm_is_folded_in(weighted, device):
    part, w = matrix("Q4_0", 32, 288, device)
    x = some_rows(3, 288, device)
    weight = torch.rand(288, generator=torch.Generator().manual_seed(2)) + 0.5
    q = quantize_rows(x, (weight.to(device) if weighted else None, 1e-5))
    out = poisoned(3, 32, device=device)
    packed_product(q, part, out)
    factor = torch.rsqrt(x.cpu().double().square().mean(1, keepdim=True) + 1e-5)
    close(out, exact(q) * factor @ w.T, 1e-6)
    normed = x.cpu().double() * factor * (weight if weighted else 1)
    close(exact(q) * factor, normed, 0.01)


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "relu2"])
def test_gates_and_ups(kind, device):
    gate, g = matrix("Q4_K", 48, 256, device, seed=4)
    up, u = matrix("Q4_K", 48, 256, device, seed=5)
    q = quantize_rows(some_rows(3 if kind == "silu" else 1, 256, device))
    bias, up_bias = torch.randn(2, 48, generator=torch.Generator().manual_seed(0)).to(device)
    out = poisoned(len(q.values), 48, device=device)
    packed_product(q, gate, out, up=up, gated=kind, bias=bias, up_bias=up_bias, shape=SMALL)
    y = exact(q) @ g.T + bias.cpu()
    act = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
        "relu2": lambda v: v.relu().square(),
    }[kind]
    close(out, act(y) * (exact(q) @ u.T + up_bias.cpu()), 2e-6)


def test_an_activation_and_a_bias(device):
    """y = act(W x + b) + residual, as GPT-2's kind of model has it; the bias is a part of two."""
    part, w = matrix("Q5_0", 32, 64, device)
    q = quantize_rows(some_rows(2, 64, device))
    bias = torch.randn(64, generator=torch.Generator().manual_seed(0)).to(device)[32:]
    residual = some_rows(2, 32, device, seed=3)
    out = poisoned(2, 32, device=device)
    packed_product(q, part, out, act="gelu_tanh", bias=bias, residual=residual)
    y = exact(q) @ w.T + bias.cpu()
    want = torch.nn.functional.gelu(y, approximate="tanh") + residual.cpu()
    close(out, want, 2e-6)


def test_gates_and_ups_become_the_next_products_activations(device):
    """Nothing is written in floats between the two products."""
    gate, g = matrix("Q8_0", 96, 64, device, seed=4)
    up, u = matrix("Q8_0", 96, 64, device, seed=5)
    down, d = matrix("Q4_0", 32, 96, device, seed=6)
    q = quantize_rows(some_rows(2, 64, device))
    to = poisoned_next(2, 96, device)
    packed_product(q, gate, up=up, gated="silu", after=Next(to))
    want = torch.nn.functional.silu(exact(q) @ g.T) * (exact(q) @ u.T)
    alone = quantize_rows(want.float().to(device))
    assert (to.values.int() - alone.values.int()).abs().max() <= 1
    assert (to.values[:, 96:] == 0).all()
    close(exact(to), want, 0.01)
    out = poisoned(2, 32, device=device)
    packed_product(to, down, out)
    close(out, exact(to) @ d.T, 1e-6)


def test_gates_are_quantized_alone_too(device):
    x = some_rows(2, 192, device)
    gate, up = x.cpu().double().chunk(2, 1)
    q = quantize_rows(x, gated="silu")
    assert q.cols == 96
    close(exact(q), torch.nn.functional.silu(gate) * up, 0.01)


def test_a_residual_is_added_and_the_sum_is_normed_for_the_next_product(device, dtypes):
    """Two parts of a matrix write the columns of one result, in place of the residual."""
    first, f = matrix("Q6_K", 32, 256, device, seed=7)
    second, s = matrix("Q4_1", 40, 256, device, seed=8)
    weight = torch.rand(72, generator=torch.Generator().manual_seed(2)) + 0.5
    for dtype in dtypes:
        stream = some_rows(3, 72, device, dtype, seed=9)
        before = stream.cpu().double()
        q = quantize_rows(some_rows(3, 256, device))
        to = poisoned_next(3, 72, device, eps=1e-6)
        for part, columns in ((first, slice(0, 32)), (second, slice(32, 72))):
            after = Next(to, weight.to(device), columns.start)
            out = stream[:, columns]
            packed_product(q, part, out, residual=out, after=after)
        want = exact(q) @ torch.cat([f, s]).T + before
        rounded = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 2**-9}
        close(stream, want, rounded[dtype])
        alone = quantize_rows(stream, (weight.to(device), 1e-6))
        assert torch.equal(to.values, alone.values)
        assert torch.equal(to.scale, alone.scale)
        assert torch.equal(to.sum, alone.sum)
        assert torch.allclose(to.squares, alone.squares, rtol=1e-6)


@pytest.mark.usefixtures("rows_alike")
def test_rows_of_activations_do_not_change_each_other(device):
    """Computed alone, in pairs, eight at a time or as what is left of nine: the same bits."""
    part, _ = matrix("Q4_K", 32, 512, device)
    x = some_rows(9, 512, device)
    whole = poisoned(9, 32, device=device)
    packed_product(quantize_rows(x), part, whole, shape=SMALL)
    for rows in (slice(0, 1), slice(8, 9), slice(3, 5)):
        some = poisoned(rows.stop - rows.start, 32, device=device)
        packed_product(quantize_rows(x[rows]), part, some, shape=SMALL)
        assert torch.equal(some, whole[rows])


def test_program_shapes(device):
    """Every way to walk over rows and columns gives the same result."""
    part, w = matrix("Q5_K", 32, 768, device)
    q = quantize_rows(some_rows(1, 768, device))
    for shape in (
        ProductShape(8, 8, False, 1),
        ProductShape(16, 4, True, 1),
        ProductShape(32, 16, True, 4),
        ProductShape(32, 8, True, 2, 128),
    ):
        out = poisoned(1, 32, device=device)
        packed_product(q, part, out, shape=shape)
        close(out, exact(q) @ w.T, 1e-6)


def test_parts_of_one_format_are_joined(device):
    a, wa = matrix("Q4_K", 64, 256, device, seed=1)
    b, wb = matrix("Q4_K", 40, 256, device, seed=2)
    c, _ = matrix("Q6_K", 32, 256, device, seed=3)
    ab, last = joined([a, b, c])
    assert (ab.rows, last) == (104, c)
    assert [p.rows for p in joined([a, a, b, b])] == [168, 40]  # b fills no group
    assert [p.rows for p in joined([b, a])] == [40, 64]  # a's rows would begin within a group
    q = quantize_rows(some_rows(1, 256, device))
    for part, want in ((ab, torch.cat([wa, wb])), (ab.row_range(64, 104), wb)):
        out = poisoned(1, part.rows, device=device)
        packed_product(q, part, out, shape=SMALL)
        close(out, exact(q) @ want.T, 1e-6)


def test_nothing_to_do(device):
    part, _ = matrix("Q4_0", 32, 64, device)
    out = torch.empty((0, 32), device=device)
    packed_product(quantize_rows(torch.empty((0, 64), device=device)), part, out)


def test_bytes_held(device):
    """Hardly more than in the file, where rows and columns fill the layout."""
    for name in set(FORMATS) - set(HELD_AS):
        rng = np.random.default_rng(0)
        raw = blocks.weights(name, 32, 512, rng, 0.05)
        part = repack(torch.from_numpy(raw).to(device), name, 32, 512)
        assert part.nbytes <= (1.09 if name == "IQ4_XS" else 1.06) * raw.size, name
