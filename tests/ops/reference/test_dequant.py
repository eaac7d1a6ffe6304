"""Every block format equals the gguf package, bit for bit, on random blocks."""

import gguf
import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.formats import DECODABLE, FORMATS, Packed
from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.reference import dequant
from rbee_worker.ops.reference.dequant import dequantize
from tests.blocks import SCALES, put_scale, random_blocks, values

MOST = {"MXFP4": 250}  # of a first byte that is an exponent: nothing overflows


def random_packed(name: str, rows: int, blocks: int, seed: int = 0) -> Packed:
    rng = np.random.default_rng(seed)
    cols = blocks * FORMATS[name].block
    data = random_blocks(name, rows, cols, rng, rng.standard_normal)
    if name in MOST:
        data.reshape(rows * blocks, -1)[:, 0] = rng.integers(0, MOST[name] + 1, rows * blocks)
    return Packed(data, name, (rows, cols))


def oracle(packed: Packed) -> np.ndarray:
    return values(packed.format, packed.data).reshape(packed.shape)


@pytest.mark.parametrize("name", SCALES)
def test_blocks_equal_the_gguf_package(name):
    packed = random_packed(name, 9, 64)
    got = dequantize(packed)
    assert got.dtype == torch.float32
    assert np.array_equal(got.numpy().view(np.uint32), oracle(packed).view(np.uint32))


def test_a_zero_scale_and_the_extremes_of_every_format():
    for name in SCALES:
        packed = random_packed(name, 3, 2)
        rows = packed.data.reshape(6, -1)
        rows[0], rows[1], rows[2:4] = 0, 255, 0x80
        for at in SCALES[name]:
            put_scale(name, rows[1:2], at, np.array(1.5))
            put_scale(name, rows[2:3], at, np.array(6e-8))  # subnormal
        if name in MOST:
            rows[1, 0], rows[3, 0], rows[4, 0] = MOST[name], 1, 2  # 0 and 1 are subnormal
        want = oracle(packed)
        assert np.array_equal(dequantize(packed).numpy().view(np.uint32), want.view(np.uint32))


FLOATS = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", [(), (5,), (3, 7), (2, 3, 4), (0, 3)])
def test_floats(name, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(FLOATS[name])
    rows = int(np.prod(shape[:-1]))
    data = np.zeros((rows, 0), np.uint8)
    if values.numel():
        data = values.reshape(rows, -1).contiguous().view(torch.uint8).numpy()
    got = dequantize(Packed(data, name, shape))
    assert got.shape == shape
    assert torch.equal(got, values.float())


def test_other_types_are_rounded_from_float32():
    packed = random_packed("Q4_K", 3, 2)
    for dtype in (torch.float16, torch.bfloat16):
        got = dequantize(packed, dtype)
        assert got.dtype == dtype
        assert torch.equal(got, dequantize(packed).to(dtype))


def test_shapes_of_more_dimensions():
    packed = random_packed("Q8_0", 6, 3)
    stack = Packed(packed.data, "Q8_0", (2, 3, 96))
    assert torch.equal(dequantize(stack), dequantize(packed).view(2, 3, 96))


def test_rows_out_of_order_and_bytes_out_of_line():
    packed = random_packed("Q5_K", 8, 2)
    moved = Packed(packed.data[::-2], "Q5_K", (4, 512))
    assert torch.equal(dequantize(moved), dequantize(packed).flip(0)[::2])
    raw = np.zeros(4 * 6 + 1, np.uint8)
    raw[1:] = np.arange(6, dtype=np.float32).view(np.uint8)
    raw.flags.writeable = False  # as a mapped file is
    unaligned = Packed(raw[1:].reshape(2, 12), "F32", (2, 3))
    assert dequantize(unaligned).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_in_spans_and_threads(threads, monkeypatch):
    rows = dequant.THREADED_VALUES // 1024 + 3
    packed = random_packed("Q4_0", rows, 32)
    spans = []
    decode = dequant._DECODERS["Q4_0"]

    def watched(blocks):
        spans.append(len(blocks) * 32)
        return decode(blocks)

    monkeypatch.setattr(dequant, "_DECODERS", {"Q4_0": watched})
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():  # which is a thread's own
            got = dequantize(packed)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(got.numpy(), oracle(packed))
    assert sum(spans) == got.numel()
    assert max(spans) <= dequant.SPAN_VALUES  # what is needed beyond the result is bounded


def test_formats_without_a_decoder_are_refused():
    assert {*dequant._DECODERS} == DECODABLE
    for name in ("Q8_K", "I32", "F8_E4M3"):
        fmt = FORMATS[name]
        with pytest.raises(UnsupportedModel, match=name):
            dequantize(Packed(np.zeros((1, fmt.bytes), np.uint8), name, (fmt.block,)))


def test_block_sizes_are_those_of_the_gguf_package():
    for name, fmt in FORMATS.items():
        if fmt.ggml is not None:
            kind = gguf.GGMLQuantizationType[name]
            assert (fmt.block, fmt.bytes) == gguf.constants.GGML_QUANT_SIZES[kind]
            assert fmt.ggml == int(kind)
