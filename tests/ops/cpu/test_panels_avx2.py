"""Products by AVX2's panels equal those of tiles bit by bit, also where sums fill 16 bits."""

import numpy as np
import pytest

from rbee_worker.checkpoint.formats import FORMATS
from rbee_worker.ops.cpu.kernels.product.panel_layout_avx2 import Layout, suits
from rbee_worker.ops.cpu.kernels.product.panels_avx2 import FEWEST, GROUPS, MOST
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.forms import BYTES, at_once, variant
from rbee_worker.ops.cpu.shared.held import HELD
from rbee_worker.ops.cpu.shared.reading import UNMEASURED
from tests.blocks import SCALES, put_scale, values
from tests.ops.cpu.test_linear import (
    Matrix,
    activations,
    aligned,
    matrix,
    product,
    random_rows,
    repacked,
    rounded,
)

NAME = "avx2"
COUNTS = (FEWEST, FEWEST + 1, 29, MOST + 9)
# A format for each way through the code: an offset, minimums, two sums of 16 bits, 16-bit numbers;
# halves, and these with an offset or minimums; both bytes of an activation.
KINDS = [("q4_0", "i8"), ("q8_0", "i8"), ("q6_k", "k8"), ("q4_k", "k16")]
MORE = [("q4_1", "i8"), ("q5_0", "i8"), ("q5_1", "i16"), ("iq4_nl", "i8"), ("mxfp4", "i16")]
MORE += [("q2_k", "k8"), ("q3_k", "k16"), ("q5_k", "k8"), ("q6_k", "k16"), ("iq4_xs", "k8")]
ALL = [*KINDS, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)]
pytestmark = pytest.mark.skipif(NAME not in isa.names(), reason="this machine has no AVX2")


@pytest.fixture(scope="module")
def avx2():
    return Library(isa.choose(NAME))


def in_tiles(library, m, x, form, bias=None):
    """The product by so few tokens at a time that no panel is made."""
    few = FEWEST - 1
    parts = [
        product(library, m, x[n : n + few], form=form, bias=bias) for n in range(0, len(x), few)
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize(("name", "form"), ALL)
def test_bitwise_what_tiles_give(avx2, name, form):
    """More groups than those whose sums are kept, the last one not whole; columns that do not fill
    the last strip, where a format has such."""
    m = matrix(avx2, name, 16 * GROUPS + 24, 512 if HELD[name].columns == 256 else 352)
    x = activations(max(COUNTS), m.cols)
    x[5, :32], x[6], x[16, 0] = 0.0, -0.0, np.nan
    want = in_tiles(avx2, m, x, form)
    assert np.isnan(want[16]).all()
    assert np.isfinite(np.delete(want, 16, 0)).all()
    for n in COUNTS:
        np.testing.assert_array_equal(product(avx2, m, x[:n], form=form), want[:n])


@pytest.mark.parametrize(("name", "form"), ALL)
def test_the_largest_sums(avx2, name, form):
    """Every bit of a row's weights set, or none, or the highest ones; all activations of a block at
    their ends, or, as two bytes, 0 and -128 but for the first, which makes the scale."""
    if name == "mxfp4":
        pytest.skip("every bit of its exponent is too much for a float")
    rows, cols, most = 48, 512, 127 if form.endswith("8") else 32512
    raw = random_rows(name, rows, cols)[0]
    for row, byte in enumerate((255, 0, 128, 127, 240, 15)):
        raw[8 * row : 8 * row + 8] = byte
    blocks = raw.reshape(rows * cols // FORMATS[name.upper()].block, -1)
    for at in SCALES[name.upper()]:
        put_scale(name.upper(), blocks, at, np.float32(0.01))
    m = Matrix(name, rows, cols, repacked(avx2, name, raw), values(name.upper(), raw).astype("f8"))
    x = np.ones((16, cols), np.float32)
    x[1::2] = -1
    for n, small in enumerate((-128, 127, 128, -129), 2):
        x[n, 1:] = np.float32(small / 32512)
    x[6:] = np.sign(activations(10, cols))
    got = product(avx2, m, x, form=form)
    np.testing.assert_array_equal(got, in_tiles(avx2, m, x, form))
    want = rounded(x, most, 32 * at_once(form)) @ m.values.T
    size = (np.abs(x) @ np.abs(m.values.T)).max(1, keepdims=True)
    assert (np.abs(got - want) <= 1e-6 * size).all()


@pytest.mark.parametrize("name", ["q4_0", "q6_k"])
def test_shares_of_threads_and_bias(avx2, name):
    m = matrix(avx2, name, 200, 256)
    x, bias = activations(FEWEST + 5, 256), activations(1, 208)[0]
    want = in_tiles(avx2, m, x, None, bias)
    for nt in (1, 2, 3, 20):
        np.testing.assert_array_equal(product(avx2, m, x, bias=bias, nt=nt), want)


@pytest.mark.parametrize(("name", "form"), [("q8_0", "i8"), ("q6_k", "k8")])
def test_neighbours_of_a_result_stay_untouched(avx2, name, form):
    """Rows beyond the matrix and tokens beyond the step, which share a tile with the last one."""
    m, n = matrix(avx2, name, 20, 256), FEWEST + 3
    step, x = np.array([n], np.int64), aligned((FEWEST + 8) * 8 * BYTES[form])
    avx2[f"prepare.{form}"](
        step.ctypes.data, x=activations(n, 256), stride=256, cols=256, out=x, count=0,
        per=at_once(form),
    )  # fmt: skip
    y = np.full((n + 1, 24), 7.0, np.float32)
    avx2[f"linear.{variant(HELD[name], form)}"](
        step.ctypes.data, w=m.held, x=x, y=y, cols=256, rows=20, stride=24, count=0, bias=0,
        ticket=0, few=0, many=0, **UNMEASURED._asdict(),
    )  # fmt: skip
    assert (y[:, 20:] == 7).all()
    assert (y[n] == 7).all()
    assert (y[:n, :20] != 7).all()


def test_which_products_have_panels():
    """A sum of 16 bits holds what is put together; other products stay with tiles."""
    assert all(suits(*kind) for kind in [*KINDS, *MORE] if kind[0] != "iq4_xs")
    assert not suits("iq4_xs", "k8")
    assert not suits("q4_0", "exact")
    assert not suits("bf16", "b16")
    for name, form in [*KINDS, *MORE]:
        layout = Layout(name, form)
        if not suits(name, form) or layout.words:
            continue
        top, offset, columns = layout.encoding.top, layout.encoding.offset, 2 * layout.together
        assert 2 * top * 128 < 1 << 15
        if offset:  # sums end with as many signed weights; only low bytes of activations are -128
            assert top == 2 * offset - 1
            assert columns == 16 // layout.runs
            assert columns * offset * 127 < 1 << 15
            assert columns * offset * 128 <= 1 << 15
        else:
            assert columns * top * 128 < 1 << 15
            assert columns >= 4


def test_low_bytes_of_minus_128_by_the_least_weights(avx2):
    """Sums of 16 bits that only fit because they begin with 1 less."""
    rows, cols = 32, 256
    raw = np.zeros((rows, FORMATS["Q6_K"].bytes), np.uint8)
    raw[:, 192:208] = np.where(np.arange(rows) % 2, 127, 128)[:, None]  # scales of -32 each
    raw[:, 208:] = np.full((rows, 1), 0.01, np.float16).view(np.uint8)
    m = Matrix("q6_k", rows, cols, repacked(avx2, "q6_k", raw), values("Q6_K", raw).astype("f8"))
    x = np.full((FEWEST, cols), -128 / 32512, np.float32)
    x[:, 0], x[1::2, 1:] = 1, 128 / 32512
    got = product(avx2, m, x, form="k16")
    np.testing.assert_array_equal(got, in_tiles(avx2, m, x, "k16"))
    np.testing.assert_allclose(got, rounded(x, 32512, 256) @ m.values.T, rtol=1e-6)
