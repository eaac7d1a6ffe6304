"""Packed formats become floats on the device, with the values of the `gguf` package."""

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import DECODABLE, FORMATS, Packed
from rbee_worker.ops.cuda.kernels.packed.dequantize import READABLE, dequantize
from tests import blocks

PACKED = sorted(blocks.SCALES)


def every_exponent(n):
    """Scales of all sizes and both signs, subnormal ones too."""
    return np.resize([1.5, -0.75, 3e-7, 6e-5, -2.0, 3.0, 0.0, 1e-3], n)


def test_every_format_that_the_project_reads_is_dequantized():
    assert READABLE == DECODABLE
    assert set(PACKED) | {"F8_B128"} == {n for n in READABLE if not FORMATS[n].is_float}


@pytest.mark.parametrize("name", PACKED)
def test_values_equal_those_of_gguf(name, device, dtypes):
    rows, cols = 11, 768  # the last program's blocks are not all real
    rng = np.random.default_rng(PACKED.index(name))
    raw = blocks.random_blocks(name, rows, cols, rng, every_exponent)
    if name == "MXFP4":
        raw.reshape(-1, 17)[:8, 0] = [0, 1, 2, 3, 110, 127, 128, 100]  # subnormal scales too
    want = torch.from_numpy(blocks.values(name, raw))
    for dtype in dtypes:
        whole = torch.full((rows, cols + 64), float("nan"), dtype=dtype, device=device)
        out = dequantize(torch.from_numpy(raw).to(device), name, rows, cols, whole[:, :cols])
        assert out.data_ptr() == whole.data_ptr()
        assert torch.equal(out.cpu(), want.to(dtype))
        assert whole[:, cols:].isnan().all()


@pytest.mark.parametrize("name", PACKED)
def test_each_place_of_each_block(name, device):
    """One bit of the bytes after another is one, so that no field is read from a wrong place."""
    size = FORMATS[name].bytes
    raw = np.zeros((size * 8, size), np.uint8)
    raw[np.arange(size * 8), np.arange(size * 8) // 8] = 1 << (np.arange(size * 8) % 8)
    for at in blocks.SCALES[name]:  # a scale is 1, but for the bits that are tried
        blocks.put_scale(name, raw, at, np.ones(1))
    want = torch.from_numpy(blocks.values(name, raw))
    out = torch.full(want.shape, float("nan"), device=device)
    dequantize(torch.from_numpy(raw).to(device), name, *want.shape, out)
    assert torch.equal(out.cpu(), want)


def test_8_bit_floats_with_scales(device):
    rng = np.random.default_rng(5)
    raw = rng.integers(0, 256, (3, 2, 132), np.uint8)
    raw[0, 0, 4:] = np.arange(128)  # all codes, nan too
    raw[0, 1, 4:] = np.arange(128, 256)
    scales = rng.uniform(-2, 2, (3, 2, 1)).astype(np.float32)
    raw[:, :, :4] = scales.view(np.uint8)
    values = torch.from_numpy(raw[:, :, 4:].copy()).view(torch.float8_e4m3fn).float()
    want = (values * torch.from_numpy(scales)).reshape(3, 256)
    out = torch.full((3, 256), 7.0, device=device)
    dequantize(torch.from_numpy(raw.reshape(3, -1)).to(device), "F8_B128", 3, 256, out)
    assert torch.equal(out.cpu().isnan(), want.isnan())
    assert torch.equal(out.cpu().nan_to_num(1e9), want.nan_to_num(1e9))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64"])
def test_floats_are_converted(name, device, dtypes):
    values = np.random.default_rng(2).standard_normal((5, 24)) * 100
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    data = torch.from_numpy(values).to(types.get(name, torch.float64))
    raw = data.view(torch.uint8).to(device)
    packed = Packed(data.view(torch.uint8).numpy(), name, (5, 24))
    for dtype in dtypes:
        out = torch.full((5, 24), float("nan"), dtype=dtype, device=device)
        dequantize(raw, name, 5, 24, out)
        assert torch.equal(out.cpu(), torch.from_numpy(decode(packed)).to(dtype))


def test_no_rows(device):
    out = torch.empty((0, 256), device=device)
    assert dequantize(torch.empty((0, 144), dtype=torch.uint8), "Q4_K", 0, 256, out) is out
