"""Every block format equals the gguf package, bit for bit, on random blocks."""

import gguf
import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import decoding
from rbee_worker.checkpoint.decoding import DECODERS, as_floats, decode, decode_spans
from rbee_worker.checkpoint.formats import DECODABLE, FORMATS, Packed
from rbee_worker.errors import UnsupportedModel
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


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Bit for bit, but for what nan carries."""
    assert got.shape == want.shape
    nan = np.isnan(want)
    equal = got.view(np.uint32) == want.view(np.uint32)
    return bool((equal | nan).all() and np.isnan(got[nan]).all())


@pytest.mark.parametrize("name", SCALES)
def test_blocks_equal_the_gguf_package(name):
    packed = random_packed(name, 9, 64)
    got = decode(packed)
    assert got.dtype == np.float32
    assert same(got, oracle(packed))


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
        assert same(decode(packed), want)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 7), (2, 3, 4), (0, 3)])
def test_floats_of_any_shape(name, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(FLOATS[name])
    rows = int(np.prod(shape[:-1]))
    data = np.zeros((rows, 0), np.uint8)
    if values.numel():
        data = values.reshape(rows, -1).contiguous().view(torch.uint8).numpy()
    got = decode(Packed(data, name, shape))
    assert got.shape == shape
    assert got.dtype == np.float32
    assert np.array_equal(got, values.float().numpy())


FLOATS = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_16_bit_float(name):
    """Subnormals, infinities, both zeros and nan among them: as torch has them."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    want = torch.from_numpy(bits.view(np.int16)).view(FLOATS[name]).float().numpy()
    assert same(decode(Packed(bits.view(np.uint8)[None], name, (1, 1 << 16)))[0], want)
    finite = bits[np.isfinite(want)]
    packed = Packed(finite.view(np.uint8)[None], name, (1, len(finite)))
    assert same(decode(packed)[0], want[np.isfinite(want)])


def test_every_8_bit_float():
    codes = np.arange(256, dtype=np.uint8)
    data = np.empty((2, 132), np.uint8)
    for row, scale in enumerate((1.0, 0.37)):
        data[row, :4] = np.frombuffer(np.float32(scale).tobytes(), np.uint8)
        data[row, 4:] = codes[128 * row :][:128]
    want = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy().reshape(2, 128)
    want[1] *= np.float32(0.37)
    assert same(decode(Packed(data, "F8_B128", (2, 128))), want)


def test_float64_is_rounded_and_may_be_too_large():
    values = np.array([[1e300, -1e300, 1e-300, 1 / 3]])
    got = decode(Packed(values.view(np.uint8), "F64", (1, 4)))
    assert got.tolist() == [[np.inf, -np.inf, 0.0, float(np.float32(1 / 3))]]


def test_scales_that_are_no_numbers_warn_of_nothing():
    for name in SCALES:
        decode(
            Packed(np.full((1, FORMATS[name].bytes), 255, np.uint8), name, (FORMATS[name].block,))
        )


def test_shapes_of_more_dimensions():
    packed = random_packed("Q8_0", 6, 3)
    stack = Packed(packed.data, "Q8_0", (2, 3, 96))
    assert np.array_equal(decode(stack), decode(packed).reshape(2, 3, 96))


def test_rows_out_of_order_and_bytes_out_of_line():
    packed = random_packed("Q5_K", 8, 2)
    moved = Packed(packed.data[::-2], "Q5_K", (4, 512))
    assert np.array_equal(decode(moved), decode(packed)[::-2])
    raw = np.zeros(4 * 6 + 1, np.uint8)
    raw[1:] = np.arange(6, dtype=np.float32).view(np.uint8)
    raw.flags.writeable = False  # as a mapped file is
    unaligned = Packed(raw[1:].reshape(2, 12), "F32", (2, 3))
    assert decode(unaligned).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_in_spans_and_threads(threads, monkeypatch):
    rows = decoding.THREADED_VALUES // 1024 + 3
    packed = random_packed("Q4_0", rows, 32)
    spans = []
    original = DECODERS["Q4_0"]

    def watched(blocks, out):
        spans.append(out.size)
        original(blocks, out)

    monkeypatch.setitem(DECODERS, "Q4_0", watched)
    got = decode(packed, threads=threads)
    assert np.array_equal(got, oracle(packed))
    assert sum(spans) == got.size
    assert max(spans) <= decoding.SPAN_VALUES  # what is needed beyond the result is bounded
    parts = {}
    decode_spans(packed, lambda at, values: parts.update({at.start: values}), threads=threads)
    assert np.array_equal(np.concatenate([parts[at] for at in sorted(parts)]), got)
    assert max(part.size for part in parts.values()) <= decoding.SPAN_VALUES


def test_as_floats():
    packed = random_packed("Q6_K", 3, 2)
    floats = as_floats(packed)
    assert (floats.format, floats.shape) == ("F32", (3, 512))
    assert np.array_equal(floats.data.view(np.float32), oracle(packed))
    assert as_floats(floats) is floats


def test_formats_without_a_decoder_are_refused():
    assert {*DECODERS} == DECODABLE
    for name in ("Q8_K", "I32", "F8_E4M3"):
        fmt = FORMATS[name]
        with pytest.raises(UnsupportedModel, match=name):
            decode(Packed(np.zeros((1, fmt.bytes), np.uint8), name, (fmt.block,)))


def test_block_sizes_are_those_of_the_gguf_package():
    for name, fmt in FORMATS.items():
        if fmt.ggml is not None:
            kind = gguf.GGMLQuantizationType[name]
            assert (fmt.block, fmt.bytes) == gguf.constants.GGML_QUANT_SIZES[kind]
            assert fmt.ggml == int(kind)
