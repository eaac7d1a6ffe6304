"""Held formats, products and embeddings equal the gguf package's decoding in float64."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.decoding import grids
from rbee_worker.checkpoint.formats import DECODABLE, FORMATS
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.forms import (
    B16,
    B16_TAKES,
    BYTES,
    NATIVE,
    WITHIN,
    at_once,
    forms,
    natural,
    variant,
)
from rbee_worker.ops.cpu.shared.held import GRID_OF, HELD, SAME, held_as
from rbee_worker.ops.cpu.shared.pieces import ticket
from rbee_worker.ops.cpu.shared.reading import ONE, SEVERAL, UNMEASURED
from tests.blocks import SCALES, put_scale, random_blocks, values

FLOATS = [name for name, held in HELD.items() if held.is_float]
FILE = [name for name in (*HELD, *SAME) if name.upper() in DECODABLE]  # what files have
PACKED = [name for name in FILE if name not in FLOATS]
TAKEN = [(name, form) for name in FILE for form in forms(held_as(name))]
TAKEN += [(B16_TAKES, B16)]  # every product there is
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in isa.names()[1:]]


@pytest.fixture(scope="module", params=[isa.names()[0], *OTHERS])
def here(request):
    """A library for each instruction set; the best one always, the others where slow tests run."""
    return Library(isa.choose(request.param))


def random_rows(name, rows, cols, seed=0):
    """Raw blocks with finite scales, and their values by the gguf package."""
    rng = np.random.default_rng(seed)
    if name in FLOATS:
        w = rng.standard_normal((rows, cols)).astype(np.float32)
        if name == "f32":
            return w.view(np.uint8), w.astype(np.float64)
        bits = w.astype(np.float16).view(np.uint16)
        if name == "bf16":
            bits = (w.view(np.uint32) >> 16).astype(np.uint16)
            return bits.view(np.uint8), (bits.astype(np.uint32) << 16).view(np.float32).astype("f8")
        return bits.view(np.uint8), w.astype(np.float16).astype(np.float64)
    packed = name.upper()
    raw = random_blocks(packed, rows, cols, rng, lambda n: rng.uniform(-0.02, 0.02, n))
    if name == "mxfp4":
        raw[0, 0], raw[0, 17] = 0, 1  # subnormal scales
    return raw, values(packed, raw).astype(np.float64)


def aligned(nbytes):
    memory = np.zeros(nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes]


@dataclass
class Matrix:
    """A random matrix as held, and its float64 values."""

    name: str
    rows: int
    cols: int
    held: np.ndarray
    values: np.ndarray


def matrix(library, name, rows, cols, seed=0):
    raw, values = random_rows(name, rows, cols, seed)
    return Matrix(name, rows, cols, repacked(library, name, raw), values)


def repacked(library, name, raw):
    """A file's rows as held."""
    rows, unit = len(raw), held_as(name)
    groups = -(-rows // 16)
    padded = np.zeros((16 * groups, raw.shape[1]), np.uint8)
    padded[:rows] = raw
    kind = FORMATS[name.upper()]
    units = raw.shape[1] // kind.bytes * kind.block // unit.columns
    held = aligned(groups * units * unit.nbytes)
    library[f"repack.{name}"](
        raw=padded, stride=raw.shape[1], units=units, out=held, shares=np.array([0, groups]),
        **({"grid": grids.digits(GRID_OF[name])} if name in GRID_OF else {}),
    )  # fmt: skip
    return held


def product(
    library, m, x, *, form=None, ending="", bias=None, nt=1, order=None, pieces=(0, 0),
    reading=UNMEASURED,
):  # fmt: skip
    """y [N, rows] by `nt` threads' shares one after another, in `order`; form: the format's own if
    None; ending: of the kernel's name; pieces: of few and many tokens (`pieces.py`)."""
    n = len(x)
    form = form or natural(held_as(m.name))
    step = np.array([n], np.int64)
    prepared = aligned(-(-max(n, 1) // 8) * 8 * (m.cols // 32) * BYTES[form])
    y = np.full((n, m.rows), np.nan, np.float32)
    prepare = library[f"prepare.{form}"]
    linear = library[f"linear.{variant(held_as(m.name), form)}{ending}"]
    for tid in range(nt):
        prepare(
            step.ctypes.data, tid, nt, x=x, stride=m.cols, cols=m.cols, out=prepared, count=0,
            per=at_once(form),
        )  # fmt: skip
    claims, (few, many) = ticket(), pieces
    for tid in order or range(nt):
        linear(
            step.ctypes.data, tid, nt, w=m.held, x=prepared, y=y, cols=m.cols, rows=m.rows,
            stride=m.rows, count=0, bias=0 if bias is None else bias, ticket=claims, few=few,
            many=many, **reading._asdict(),
        )  # fmt: skip
    assert not claims.any()  # ready for the next replay
    return y


def rounded(x, most=127, columns=32):
    """x as integer activations of magnitude <= most represent it, float64: a scale for so many
    columns."""
    blocks = x.reshape(len(x), -1, columns)
    d = np.abs(blocks).max(-1, keepdims=True) / np.float32(most)
    q = np.rint(blocks * (np.float32(most) / np.abs(blocks).max(-1, keepdims=True)))
    return (q.astype(np.float64) * d).reshape(x.shape)


def activations(n, cols, seed=1):
    return np.random.default_rng(seed).standard_normal((n, cols)).astype(np.float32)


@pytest.mark.parametrize("name", FILE)
def test_embed_is_the_packages_decoding(best, name):
    m = matrix(best, name, 37, 512)
    ids = np.array([36, 0, 17, 16, 15, 99], np.int64)  # 99 does not exist: row 0 stands in
    step = np.array([len(ids), ids.ctypes.data], np.int64)
    y = np.empty((len(ids), m.cols), np.float32)
    best[f"embed.{held_as(name).name}"](
        step.ctypes.data,
        w=m.held,
        cols=m.cols,
        scale=1.0,
        ids=1,
        count=0,
        y=y,
        y_stride=m.cols,
        rows=m.rows,
    )
    want = m.values[[36, 0, 17, 16, 15, 0]]
    np.testing.assert_allclose(y, want, rtol=2e-7, atol=1e-7 * np.abs(want).max())


@pytest.mark.parametrize("name", {**GRID_OF, **SAME})
def test_what_is_held_in_another_way_is_held_exactly(best, name):
    m = matrix(best, name, 40, 768)
    ids = np.arange(40)
    step = np.array([40, ids.ctypes.data], np.int64)
    y = np.empty((40, m.cols), np.float32)
    best[f"embed.{held_as(name).name}"](
        step.ctypes.data,
        w=m.held,
        cols=m.cols,
        scale=1.0,
        ids=1,
        count=0,
        y=y,
        y_stride=m.cols,
        rows=40,
    )
    np.testing.assert_array_equal(y, m.values)


def takers(form):
    """The packed formats of files whose products take a form."""
    return [name for name in PACKED if form in forms(held_as(name))]


@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for form in ("i8", "k8") for name in takers(form)]
)
def test_int8_product(here, best, name, form):
    m = matrix(best, name, 40, 768)
    x = activations(15, m.cols)
    want = rounded(x, 127, 32 * at_once(form)) @ m.values.T
    assert np.abs(product(here, m, x, form=form) - want).max() < 1e-6 * np.abs(want).max()


@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for form in ("i16", "k16") for name in takers(form)]
)
def test_int16_product(here, best, name, form):
    m = matrix(best, name, 40, 768)
    x = activations(15, m.cols)
    together = 32 * at_once(form)
    top = slice(together, 2 * together)
    x[3, top] = 1e30 * np.sign(x[3, top])  # the largest of a block: both bytes at their ends
    got = product(here, m, x, form=form)
    want = rounded(x, 127 * 256, together) @ m.values.T
    top = np.abs(want).max(1, keepdims=True)
    assert (np.abs(got - want) < 1e-6 * top).all()
    close = x.astype(np.float64) @ m.values.T
    assert (np.abs(got - close) < {"i16": 1e-4, "k16": 2e-4}[form] * top).all()


@pytest.mark.parametrize(
    ("name", "form"),
    [  # every bit of MXFP4's exponent is too much for a float
        (n, f) for f in ("i8", "i16", "k8", "k16") for n in takers(f) if n != "mxfp4"
    ],
)
def test_the_largest_integers_fit(best, name, form):
    """Every bit of a block set, or none, or the highest ones; activations at their ends too."""
    rows, cols = 64, 512
    raw = random_rows(name, rows, cols)[0]
    for row, byte in enumerate((255, 0, 128, 127, 240, 15)):
        raw[row] = byte
    blocks = raw.reshape(rows * cols // FORMATS[name.upper()].block, -1)
    for at in SCALES[name.upper()]:
        put_scale(name.upper(), blocks, at, np.float32(0.01))
    m = Matrix(name, rows, cols, repacked(best, name, raw), values(name.upper(), raw).astype("f8"))
    x = np.ones((24, cols), np.float32)
    x[1] = -1
    x[2::2] = np.sign(activations(11, cols))
    x[3::2, ::3] = -np.float32(128 / 32512)  # as two bytes: 0 and -128
    got = product(best, m, x, form=form)
    ends = 127 if form in ("i8", "k8") else 127 * 256
    want = rounded(x, ends, 32 * at_once(form)) @ m.values.T
    most = (np.abs(x) @ np.abs(m.values.T)).max(1, keepdims=True)
    assert (np.abs(got - want) <= 1e-6 * most).all()
    for n in (1, 3, 8):
        np.testing.assert_array_equal(product(best, m, x[:n], form=form), got[:n])


@pytest.mark.parametrize("name", FILE)
def test_exact_product(here, best, name):
    m = matrix(best, name, 40, 768)
    x = activations(15, m.cols)
    want = x.astype(np.float64) @ m.values.T
    assert np.abs(product(here, m, x, form="exact") - want).max() < 2e-6 * np.abs(want).max()


@pytest.mark.parametrize("ending", ["", NATIVE])
def test_bf16_product(here, ending):
    """Weights and activations in bfloat16, products exact, sums in float32; the nearest bfloat16 is
    torch's."""
    if ending and not isa.multiplies_bf16():
        pytest.skip("this processor has no AVX512-BF16")
    m = matrix(here, "bf16", 40, 768)
    x = activations(15, m.cols)
    near = torch.from_numpy(x).to(torch.bfloat16).double().numpy()
    want, close = near @ m.values.T, x.astype(np.float64) @ m.values.T
    got = product(here, m, x, form=B16, ending=ending)
    assert np.abs(got - want).max() < 2e-6 * np.abs(want).max()
    assert 1e-3 < np.linalg.norm(got - close) / np.linalg.norm(close) < WITHIN[B16]


@pytest.mark.skipif(not isa.multiplies_bf16(), reason="this processor has no AVX512-BF16")
def test_processors_that_multiply_bf16_get_the_same_bits(best):
    m = matrix(best, "bf16", 16 * 7 + 5, 768)
    x = activations(15, m.cols)
    x[:, ::7] *= 1e20
    x[:, 1::7] *= 1e-20
    x[2, 5] = np.inf
    for rows in (x, x[:1], x[3:8]):
        with_it = product(best, m, rows, form=B16, ending=NATIVE)
        np.testing.assert_array_equal(with_it, product(best, m, rows, form=B16))


@pytest.mark.parametrize(("name", "form"), TAKEN)
def test_a_token_is_bitwise_the_same_in_every_tile(best, name, form):
    m = matrix(best, name, 33, 512)
    x = activations(23, m.cols)
    whole = product(best, m, x, form=form)
    assert not np.isnan(whole).any()
    for n in (1, 2, 3, 5, 8):
        for start in range(0, 23 - n, n):
            part = product(best, m, x[start : start + n], form=form, nt=1 + n % 3)
            np.testing.assert_array_equal(part, whole[start : start + n])


@pytest.mark.parametrize(("name", "form"), TAKEN)
def test_every_way_to_read_weights_gives_the_same_bits(best, name, form):
    """One token by 4 groups, 2 and 1, with a partial last group; tiles of 8, 4, 2 and 1 tokens."""
    m = matrix(best, name, 16 * 7 + 5, 512)
    x = activations(15, m.cols)
    for way in ONE:
        alone = product(best, m, x[:1], form=form, reading=way)
        np.testing.assert_array_equal(alone, product(best, m, x[:1], form=form))
    whole = product(best, m, x, form=form)
    np.testing.assert_array_equal(whole[:1], alone)
    for way in SEVERAL:
        np.testing.assert_array_equal(product(best, m, x, form=form, reading=way), whole)


@pytest.mark.parametrize("name", ["q4_1", "q6_k", "bf16", "iq2_xs", "iq3_s", "tq1_0"])
def test_instruction_sets_agree_bitwise(here, best, name):
    m = matrix(best, name, 33, 512)
    x = activations(5, m.cols)
    np.testing.assert_array_equal(product(here, m, x), product(best, m, x))


def test_chunks_of_a_long_prefill_are_the_same(best):
    m = matrix(best, "q4_0", 32, 8192)  # 16 kB of activations a token: chunks of 32 tokens
    x = activations(75, m.cols)
    whole = product(best, m, x, nt=2)
    np.testing.assert_array_equal(product(best, m, x[70:71]), whole[70:71])


def test_bias_and_empty_batch(best):
    m = matrix(best, "q8_0", 20, 64)
    bias = np.zeros(32, np.float32)
    bias[:20] = np.arange(20)
    x = activations(3, 64)
    np.testing.assert_array_equal(product(best, m, x, bias=bias), product(best, m, x) + bias[:20])
    assert product(best, m, x[:0]).shape == (0, 20)


def test_a_nan_is_not_lost(best):
    m = matrix(best, "q4_0", 16, 64)
    x = activations(2, 64)
    x[1, 40] = np.nan
    y = product(best, m, x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


def test_neighbours_of_a_result_stay_untouched(best):
    m = matrix(best, "q4_0", 20, 64)
    step = np.array([2], np.int64)
    x = aligned(8 * 2 * 64)
    best["prepare.i8"](
        step.ctypes.data, x=activations(2, 64), stride=64, cols=64, out=x, count=0, per=1
    )
    y = np.full((2, 24), 7.0, np.float32)
    best["linear.q4_0"](
        step.ctypes.data, w=m.held, x=x, y=y, cols=64, rows=20, stride=24, count=0, bias=0,
        ticket=0, few=0, many=0, **UNMEASURED._asdict(),
    )  # fmt: skip
    assert (y[:, 20:] == 7).all()
    assert (y[:, :20] != 7).all()
