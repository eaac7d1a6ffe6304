"""Products by panels equal those of tiles bit by bit, also where 16-bit sums would overflow."""

import numpy as np
import pytest

from rbee_worker.ops.cpu.kernels.product.panels import FEWEST, MOST
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.forms import forms, variant
from rbee_worker.ops.cpu.shared.held import HELD, held_as
from rbee_worker.ops.cpu.shared.reading import UNMEASURED
from tests.ops.cpu.test_amx import assembly, on_x86
from tests.ops.cpu.test_linear import (
    Matrix,
    activations,
    aligned,
    matrix,
    product,
    random_rows,
    repacked,
)

NAME = "avx512vnni"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("q3_k", "q2_k", "iq1_s", "iq2_xs")]
COUNTS = (FEWEST, FEWEST + 1, 77, MOST + 9)
has_vnni = pytest.mark.skipif(NAME not in isa.names(), reason="this machine has no AVX-512 VNNI")


@pytest.fixture(scope="module")
def vnni():
    return Library(isa.choose(NAME))


def in_tiles(library, m, x, form):
    """The product by so few tokens at a time that no panel is made."""
    few = FEWEST - 8
    parts = [product(library, m, x[n : n + few], form=form) for n in range(0, len(x), few)]
    return np.concatenate(parts)


def k_forms(name):
    return [form for form in forms(held_as(name)) if form != "exact"]


@has_vnni
@pytest.mark.parametrize("name", ["q6_k", *SLOW])
def test_bitwise_what_tiles_give(vnni, name):
    """More than the 16 groups whose sums are kept, the last one not whole."""
    m = matrix(vnni, name, 280, 512)
    x = activations(max(COUNTS), 512)
    x[5, :32], x[6], x[16, 0] = 0.0, -0.0, np.nan
    for form in k_forms(name):
        want = in_tiles(vnni, m, x, form)
        assert np.isnan(want[16]).all()
        assert np.isfinite(np.delete(want, 16, 0)).all()
        for n in COUNTS:
            np.testing.assert_array_equal(product(vnni, m, x[:n], form=form), want[:n])


@has_vnni
@pytest.mark.parametrize("form", ["k8", "k16"])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_about_the_bounds_of_16_bits(vnni, form, sign):
    """Weights of -32 and 31, and activations whose integers in 16 columns sum to 1,023, 1,024 or
    1,025, in one half of a block, in the other or in both: sums on both sides of +-2^15."""
    raw, _ = random_rows("q6_k", 48, 512)
    blocks = raw.reshape(48, 2, 210)
    blocks[:20, :, :192] = 0  # weights of -32
    blocks[20:30, :, :192] = 0xFF  # of 31
    m = Matrix("q6_k", 48, 512, repacked(vnni, "q6_k", raw), None)
    integers = np.random.default_rng(3).integers(-30, 31, (120, 512))
    integers[:, ::256] = 127  # the largest: it makes the scale
    for n in range(119):
        half = np.full(16, 64)
        half[0] += n % 3 - 1
        first = 32 + 32 * (n % 13)
        if n % 4 != 1:
            integers[n, first : first + 16] = half
        if n % 4 != 2:
            integers[n, first + 16 : first + 32] = -half if n % 5 == 0 else half
    integers[119, :] = 127  # everything at the largest
    x = (sign * integers / 127).astype(np.float32)
    want = in_tiles(vnni, m, x, form)
    np.testing.assert_array_equal(product(vnni, m, x, form=form), want)
    for n in range(0, 112, 8):  # each tile of 8 tokens in other company
        order = np.roll(np.arange(120), -n)[: FEWEST + n]
        np.testing.assert_array_equal(product(vnni, m, x[order], form=form), want[order])


@has_vnni
def test_shares_of_threads_and_bias(vnni):
    m = matrix(vnni, "q6_k", 200, 256)
    x, bias = activations(FEWEST + 8, 256), activations(1, 208)[0]
    want = np.concatenate([product(vnni, m, x[n : n + 8], bias=bias) for n in range(0, len(x), 8)])
    for nt in (1, 2, 3, 20):
        np.testing.assert_array_equal(product(vnni, m, x, bias=bias, nt=nt), want)


@has_vnni
def test_neighbours_of_a_result_stay_untouched(vnni):
    """Rows beyond the matrix and tokens beyond the step, which share a tile with the last one."""
    m, n = matrix(vnni, "q6_k", 20, 256), FEWEST + 3
    step, x = np.array([n], np.int64), aligned((FEWEST + 8) * 8 * 64)
    vnni["prepare.k8"](
        step.ctypes.data, x=activations(n, 256), stride=256, cols=256, out=x, count=0, per=8
    )
    y = np.full((n + 1, 24), 7.0, np.float32)
    vnni["linear.q6_k"](
        step.ctypes.data, w=m.held, x=x, y=y, cols=256, rows=20, stride=24, count=0, bias=0,
        ticket=0, few=0, many=0, **UNMEASURED._asdict(),
    )  # fmt: skip
    assert (y[:, 20:] == 7).all()
    assert (y[n] == 7).all()
    assert (y[:n, :20] != 7).all()


@has_vnni
@pytest.mark.slow
def test_stacked_matrices(vnni):
    """Three matrices, each with 256 columns of its own of the activations."""
    members = [matrix(vnni, "q6_k", 40, 256, seed=n) for n in range(3)]
    n, size, blocks = FEWEST + 3, 96, 24
    x, step = activations(n, 768), np.array([n], np.int64)
    given = aligned((FEWEST + 8) * blocks * size)
    vnni["prepare.k16"](step.ctypes.data, x=x, stride=768, cols=768, out=given, count=0, per=8)
    y, header = np.zeros((n, 120), np.float32), np.zeros(64, np.int64)
    header[0] = n
    vnni[f"stacked.{variant(HELD['q6_k'], 'k16')}"](
        header.ctypes.data, w=np.array([m.held.ctypes.data for m in members]), members=3, x=given,
        x_each=8 * 8 * size, token=blocks * size, by_token=0, lists=0, tokens=0, y=y, y_each=40,
        stride=120, bias=0, bias_each=0, cols=256, rows=40, **UNMEASURED._asdict(),
    )  # fmt: skip
    for k, m in enumerate(members):
        part = np.ascontiguousarray(x[:, 256 * k : 256 * k + 256])
        np.testing.assert_array_equal(y[:, 40 * k : 40 * k + 40], in_tiles(vnni, m, part, "k16"))


@on_x86
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target", "products"),
    # one for each of 8 tokens; with two planes, for each plane
    [("q6_k", NAME, 8), ("q3_k-k16", NAME, 16), ("q4_k", NAME, 0), ("q6_k", "avx512amx", 0)],
)
def test_where_both_halves_of_a_block_are_scaled_at_once(name, target, products):
    text = assembly(f"linear.{name}", isa.target(target))
    assert text.count("\tvpdpwssd\t") == products
