"""Products on AMX's tiles equal those of AVX-512 VNNI bit by bit, for every packed format."""

import platform

import llvmlite.binding as llvm
import numpy as np
import pytest

from rbee_worker.ops.cpu.compiler.compile import build
from rbee_worker.ops.cpu.compiler.kernel import compile_kernel
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.forms import forms, variant
from rbee_worker.ops.cpu.shared.held import HELD, held_as
from rbee_worker.ops.cpu.shared.reading import UNMEASURED
from tests.ops.cpu.test_linear import PACKED, activations, aligned, matrix, product

NAME = "avx512amx"
BY_HELD = {"iq1": "iq1_s", "iq2": "iq2_xs"}  # a file's format for what is held under another name
HELD_PACKED = [BY_HELD.get(name, name) for name, held in HELD.items() if not held.is_float]
TAKEN = [(name, form) for name in HELD_PACKED for form in forms(held_as(name)) if form != "exact"]
COUNTS = (1, 7, 8, 9, 15, 16, 17, 24, 40, 130, 300)
has_tiles = pytest.mark.skipif(NAME not in isa.names(), reason="this machine has no AMX to use")
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM here knows no x86")


@pytest.fixture(scope="module")
def amx():
    return Library(isa.choose(NAME))


@pytest.fixture(scope="module")
def vnni():
    return Library(isa.choose("avx512vnni"))


def columns(name):
    """Widths of one unit, of several, and of more than a slice that is unpacked at a time."""
    one = 64 if name == "mxfp4" else 32  # `random_rows` writes two blocks of that
    return (256, 512, 1280) if HELD_COLUMNS[name] == 256 else (one, 96, 416, 576)


HELD_COLUMNS = {BY_HELD.get(name, name): held.columns for name, held in HELD.items()}


def test_all_packed_formats_are_here():
    assert set(HELD_PACKED) <= set(PACKED)
    assert len(HELD_PACKED) == 17


@has_tiles
@pytest.mark.parametrize(("name", "form"), TAKEN)
def test_bitwise_what_vnni_gives(amx, vnni, name, form):
    rows = 280  # more than the 8 or 16 groups that share activations, the last one not whole
    for cols in columns(name):
        m = matrix(vnni, name, rows, cols)
        x = activations(max(COUNTS), cols)
        x[5, :32], x[6] = 0.0, -0.0
        x[16, 0] = np.nan
        want = product(vnni, m, x, form=form)
        assert np.isnan(want[16]).all()
        assert np.isfinite(np.delete(want, 16, 0)).all()
        for n in COUNTS:
            np.testing.assert_array_equal(product(amx, m, x[:n], form=form), want[:n])


@has_tiles
def test_shares_of_threads_and_bias(amx, vnni):
    """Groups that are no multiple of 8 for a thread; a bias; a stride wider than the rows."""
    m = matrix(vnni, "q5_1", 200, 96)
    x, bias = activations(40, 96), activations(1, 208)[0]
    want = product(vnni, m, x, bias=bias)
    for nt in (1, 2, 3, 20):
        np.testing.assert_array_equal(product(amx, m, x, bias=bias, nt=nt), want)


@has_tiles
def test_neighbours_of_a_result_stay_untouched(amx):
    m = matrix(amx, "q4_0", 20, 64)
    step, x = np.array([19], np.int64), aligned(24 * 2 * 64)
    amx["prepare.i8"](
        step.ctypes.data, x=activations(19, 64), stride=64, cols=64, out=x, count=0, per=1
    )
    y = np.full((20, 24), 7.0, np.float32)
    amx["linear.q4_0"](
        step.ctypes.data, w=m.held, x=x, y=y, cols=64, rows=20, stride=24, count=0, bias=0,
        ticket=0, few=0, many=0, **UNMEASURED._asdict(),
    )  # fmt: skip
    assert (y[:, 20:] == 7).all()
    assert (y[19] == 7).all()
    assert (y[:19, :20] != 7).all()


@has_tiles
@pytest.mark.parametrize("form", ["i8", "i16"])
def test_stacked_matrices(amx, vnni, form):
    """Three matrices, each with 64 columns of its own of the activations."""
    members = [matrix(vnni, "q5_0", 40, 64, seed=n) for n in range(3)]
    x, size, blocks = activations(35, 192), {"i8": 64, "i16": 96}[form], 6
    step, given = np.array([35], np.int64), aligned(40 * blocks * size)
    amx[f"prepare.{form}"](step.ctypes.data, x=x, stride=192, cols=192, out=given, count=0, per=1)
    y = np.zeros((35, 120), np.float32)
    header = np.zeros(64, np.int64)
    header[0] = 35
    amx[f"stacked.{variant(HELD['q5_0'], form)}"](
        header.ctypes.data, w=np.array([m.held.ctypes.data for m in members]), members=3, x=given,
        x_each=2 * 8 * size, token=blocks * size, by_token=0, lists=0, tokens=0, y=y, y_each=40,
        stride=120, bias=0, bias_each=0, cols=64, rows=40, **UNMEASURED._asdict(),
    )  # fmt: skip
    for n, m in enumerate(members):
        part = np.ascontiguousarray(x[:, 64 * n : 64 * n + 64])
        np.testing.assert_array_equal(y[:, 40 * n : 40 * n + 40], product(vnni, m, part, form=form))


def assembly(name, target):
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return compile_kernel(build(name), target.cpu, target.features, assembly=True)[1]


@on_x86
@pytest.mark.parametrize(
    ("name", "products", "stores"),
    [
        *[("linear.q4_0", 1, 1), ("stacked.q4_1-i16", 2, 2), ("stacked.q8_0", 1, 1)],
        # of 256 columns at a time: 4 by 64, times 2 bytes of the weights; the first of an
        # activation's bytes are written before the second are multiplied
        *[("linear.q4_k-k16", 16, 3), ("linear.q6_k", 8, 1), ("stacked.q2_k", 8, 1)],
    ],
)
def test_a_block_takes_its_products_once(name, products, stores):
    """Compiled anywhere: before the loop for the first block and in it for the next; C tiles are
    written once, tile state is given back, and no other instruction set has tiles."""
    text = assembly(name, isa.target(NAME))
    assert text.count("\ttdpbssd\t") == 2 * products
    assert text.count("\ttilestored\t") == stores * (2 if products > 2 else 1)
    assert text.count("\tldtilecfg\t") == text.count("\ttilerelease") == 1
    assert "tile" not in assembly(name, isa.target("avx512vnni"))


@on_x86
@pytest.mark.parametrize("name", ["linear.bf16", "linear.q4_0-exact", "stacked.q2_k-exact"])
def test_products_in_float32_have_no_tiles(name):
    assert "tile" not in assembly(name, isa.target(NAME))


def test_a_refused_permission_means_the_next_best(monkeypatch):
    monkeypatch.setattr(isa, "tiles_permitted", lambda: False)
    names = isa.names.__wrapped__()
    assert NAME not in names
    assert list(names) == [n for n in isa.names() if n != NAME]


@has_tiles
def test_tiles_are_the_first_choice_and_everything_else_stays():
    assert isa.choose().name == NAME == isa.names()[0]
    tiles, vectors = (set(isa.target(n).features.split(",")) for n in (NAME, "avx512vnni"))
    assert tiles - vectors == {"+amx-int8", "+amx-tile"}
    assert vectors <= tiles
