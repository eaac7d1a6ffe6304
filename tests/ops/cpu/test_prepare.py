"""Prepared activations hold what products start from: integers, their scale, and multiples of
their sums."""

import numpy as np
import pytest

from rbee_worker.ops.cpu import tile
from rbee_worker.ops.cpu.forms import BYTES
from tests.ops.cpu.test_linear import activations, aligned

MOST = {"i8": 127, "i16": 127 * 256}


def prepared(library, form, x):
    """One token's blocks [cols / 32, bytes]."""
    cols = x.shape[1]
    out = aligned(8 * cols // 32 * BYTES[form])
    step = np.array([1], np.int64)
    library[f"prepare.{form}"](
        step.ctypes.data, x=x, stride=cols, cols=cols, out=out, count=0, per=1
    )
    return out.reshape(-1, 8, BYTES[form])[:, 0]


def field(blocks, at, kind):
    return np.ascontiguousarray(blocks[:, at : at + 4]).view(kind)[:, 0]


@pytest.mark.parametrize("form", MOST)
def test_blocks_hold_multiples_of_their_sums(library, form):
    x = activations(1, 256)
    x[0, 32:64] = 3.0  # the largest sum there is
    x[0, 64:96] = -3.0
    blocks = prepared(library, form, x)
    high = np.ascontiguousarray(blocks[:, :32]).view(np.int8).astype(np.int64)
    q = high
    if form == "i16":
        q = 256 * high + np.ascontiguousarray(blocks[:, tile.LOW : tile.LOW + 32]).view(np.int8)
    top = np.abs(x.reshape(-1, 32)).max(1, keepdims=True)
    np.testing.assert_array_equal(q, np.rint(x.reshape(-1, 32) * (np.float32(MOST[form]) / top)))
    assert q[1].sum() == 32 * MOST[form] == -q[2].sum()
    d = field(blocks, tile.SCALE, np.float32)
    np.testing.assert_array_equal(d, top[:, 0] / np.float32(MOST[form]))
    total = q.sum(1)
    np.testing.assert_array_equal(field(blocks, tile.LESS8, np.int32), -8 * total)
    np.testing.assert_array_equal(field(blocks, tile.LESS128, np.int32), -128 * total)
    np.testing.assert_array_equal(field(blocks, tile.SUM, np.float32), d * total.astype(np.float32))
    for half in (0, 1):
        part = q[:, 16 * half : 16 * half + 16].sum(1)
        np.testing.assert_array_equal(field(blocks, tile.LESS32[half], np.int32), -32 * part)
        want = d * part.astype(np.float32)
        np.testing.assert_array_equal(field(blocks, tile.SUMS[half], np.float32), want)
