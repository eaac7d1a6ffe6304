"""Products of bfloat16 on AMX's tiles: bit by bit what Intel's description gives in numpy."""

import numpy as np
import pytest
import torch

from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.forms import B16, NATIVE, TILES
from rbee_worker.ops.cpu.shared.reading import ONE, SEVERAL
from tests.ops.cpu.test_amx import NAME, assembly, on_x86
from tests.ops.cpu.test_linear import activations, matrix, product

KERNEL = f"linear.bf16-b16{TILES}"
COUNTS = (1, 2, 7, 8, 9, 16, 17, 24, 25, 32, 33, 47)
has_tiles = pytest.mark.skipif(not isa.tiles_bf16(), reason="this machine has no AMX-BF16 to use")


@pytest.fixture(scope="module")
def amx():
    return Library(isa.choose(NAME))


def described(x, w):
    """TDPBF16PS for every 32 columns in order. x [tokens, cols], w [rows, cols]: values that are
    bfloat16, so a product is exact in float32 and a fused multiply-add is a rounded addition."""
    total = np.zeros((len(x), len(w)), np.float32)
    for first in range(0, x.shape[1], 32):
        chains = np.zeros((2, len(x), len(w)), np.float32)
        for column in range(32):
            at = first + column
            chains[column % 2] += x[:, None, at] * w[None, :, at]
        total += chains[0] + chains[1]
    return total


@has_tiles
@pytest.mark.parametrize("cols", [32, 96, 768])
def test_bits_are_those_that_intel_describes(amx, cols):
    m = matrix(amx, "bf16", 16 * 7 + 5, cols)
    x, bias = activations(max(COUNTS), cols), activations(1, 128)[0]
    near = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    want = described(near, m.values.astype(np.float32))
    np.testing.assert_array_equal(product(amx, m, x, form=B16, ending=TILES), want)
    np.testing.assert_array_equal(
        product(amx, m, x, form=B16, ending=TILES, bias=bias), want + bias[: m.rows]
    )


@has_tiles
def test_a_token_is_bitwise_the_same_beside_others(amx):
    """Any number of tokens, every way to read weights, shares of threads, rows taken in pieces."""
    m = matrix(amx, "bf16", 16 * 37 + 3, 416)
    x = activations(max(COUNTS), m.cols)
    x[5, 0] = np.nan
    want = product(amx, m, x, form=B16, ending=TILES)
    assert np.isnan(want[5]).all()
    assert np.isfinite(np.delete(want, 5, 0)).all()
    for n in COUNTS:
        np.testing.assert_array_equal(product(amx, m, x[:n], form=B16, ending=TILES), want[:n])
    for reading in (*ONE, *SEVERAL):
        for n in (1, 6, 20):
            got = product(amx, m, x[:n], form=B16, ending=TILES, reading=reading, nt=3)
            np.testing.assert_array_equal(got, want[:n])
    for n in (3, max(COUNTS)):
        got = product(amx, m, x[:n], form=B16, ending=TILES, nt=2, pieces=(3, 1))
        np.testing.assert_array_equal(got, want[:n])


def test_without_tiles_it_is_the_product_of_every_processor():
    for name in isa.names():
        if name != NAME:
            library = Library(isa.choose(name))
            break
    m, x = matrix(library, "bf16", 40, 96), activations(11, 96)
    got = product(library, m, x, form=B16, ending=TILES)
    np.testing.assert_array_equal(got, product(library, m, x, form=B16))


@on_x86
def test_only_the_target_with_tiles_has_them():
    """Compiled anywhere: 4 groups of rows, and 1 to 4 times 8 tokens."""
    text = assembly(KERNEL, isa.target(NAME))
    assert text.count("\ttdpbf16ps\t") == 4 + 1 + 2 + 3 + 4
    assert text.count("\tldtilecfg\t") == text.count("\ttilerelease") == 1
    vectors = assembly(KERNEL, isa.target("avx512vnni"))
    assert "\ttile" not in vectors
    assert "\tvdpbf16ps\t" in vectors
    for other in (KERNEL.replace(TILES, NATIVE), KERNEL.replace(TILES, "")):
        assert "\ttile" not in assembly(other, isa.target(NAME))


def test_a_processor_gets_the_best_that_it_has(monkeypatch):
    has: dict[str, bool] = {}
    monkeypatch.setattr(isa, "_host_features", lambda: has)
    monkeypatch.setattr(isa, "tiles_permitted", lambda: True)
    assert isa.bf16_ending() == ""
    has[isa.BF16] = True
    assert isa.bf16_ending() == NATIVE
    has[isa.TILES_BF16] = True
    assert isa.bf16_ending() == TILES
    monkeypatch.setattr(isa, "tiles_permitted", lambda: False)
    assert isa.bf16_ending() == NATIVE
