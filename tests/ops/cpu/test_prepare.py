"""Prepared activations hold what products start from: integers, their scale, and multiples of
their sums."""

import numpy as np
import pytest

from rbee_worker.ops.cpu.kernels.product import k_steps, steps
from rbee_worker.ops.cpu.shared.forms import BYTES, LOW, SCALE, SUM, at_once
from tests.ops.cpu.test_linear import activations, aligned

MOST = {"i8": 127, "i16": 127 * 256, "k8": 127, "k16": 127 * 256}


def prepared(library, form, x):
    """One token's blocks [cols / 32, bytes]."""
    cols = x.shape[1]
    out = aligned(8 * cols // 32 * BYTES[form])
    step = np.array([1], np.int64)
    library[f"prepare.{form}"](
        step.ctypes.data, x=x, stride=cols, cols=cols, out=out, count=0,
        per=at_once(form),
    )  # fmt: skip
    return out.reshape(-1, 8, BYTES[form])[:, 0]


def field(blocks, at, kind):
    return np.ascontiguousarray(blocks[:, at : at + 4]).view(kind)[:, 0]


@pytest.mark.parametrize("form", ["i8", "i16"])
def test_blocks_hold_multiples_of_their_sums(library, form):
    x = activations(1, 256)
    x[0, 32:64] = 3.0  # the largest sum there is
    x[0, 64:96] = -3.0
    blocks = prepared(library, form, x)
    high = np.ascontiguousarray(blocks[:, :32]).view(np.int8).astype(np.int64)
    q = high
    if form == "i16":
        q = 256 * high + np.ascontiguousarray(blocks[:, LOW : LOW + 32]).view(np.int8)
    top = np.abs(x.reshape(-1, 32)).max(1, keepdims=True)
    np.testing.assert_array_equal(q, np.rint(x.reshape(-1, 32) * (np.float32(MOST[form]) / top)))
    assert q[1].sum() == 32 * MOST[form] == -q[2].sum()
    d = field(blocks, SCALE, np.float32)
    np.testing.assert_array_equal(d, top[:, 0] / np.float32(MOST[form]))
    total = q.sum(1)
    np.testing.assert_array_equal(field(blocks, steps.LESS8, np.int32), -8 * total)
    np.testing.assert_array_equal(field(blocks, steps.LESS128, np.int32), -128 * total)
    np.testing.assert_array_equal(field(blocks, SUM, np.float32), d * total.astype(np.float32))


@pytest.mark.parametrize("form", ["k8", "k16"])
def test_units_have_one_scale_and_sums_of_each_byte(library, form):
    x = activations(1, 768)
    x[0, 256:512] = 3.0  # the largest sum there is
    x[0, 544:576] = -3.0
    blocks = prepared(library, form, x)
    planes = [np.ascontiguousarray(blocks[:, :32]).view(np.int8).astype(np.int64)]
    if form == "k16":
        planes.append(
            np.ascontiguousarray(blocks[:, LOW : LOW + 32]).view(np.int8).astype(np.int64)
        )
    q = planes[0] if form == "k8" else 256 * planes[0] + planes[1]
    top = np.abs(x.reshape(-1, 256)).max(1, keepdims=True)
    want = np.rint(x.reshape(-1, 256) * (np.float32(MOST[form]) / top)).reshape(-1, 32)
    np.testing.assert_array_equal(q, want)
    d = np.repeat(top[:, 0] / np.float32(MOST[form]), 8)
    np.testing.assert_array_equal(field(blocks, SCALE, np.float32), d)
    whole = d * q.sum(1).astype(np.float32)
    np.testing.assert_array_equal(field(blocks, SUM, np.float32), whole)
    for half in (0, 1):
        part = slice(16 * half, 16 * half + 16)
        want = d * q[:, part].sum(1).astype(np.float32)
        np.testing.assert_array_equal(field(blocks, k_steps.SUMS[half], np.float32), want)
        for plane, at in zip(planes, (k_steps.LESS_HIGH, k_steps.LESS_LOW), strict=False):
            less = field(blocks, at[half], np.int32)
            np.testing.assert_array_equal(less, -32 * plane[:, part].sum(1))


@pytest.mark.parametrize("form", ["k8", "k16"])
def test_a_nan_or_infinity_spoils_its_unit_alone(library, form):
    x = activations(1, 768)
    x[0, 300], x[0, 700] = np.nan, np.inf
    d = field(prepared(library, form, x), SCALE, np.float32)
    assert np.isfinite(d[:8]).all()
    assert np.isnan(d[8:]).all()
