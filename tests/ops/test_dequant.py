"""Every block format equals the gguf package, bit for bit, on random blocks."""

import gguf
import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.ops.dequant import dequantize

# Byte offsets of the float16 scales in a block: random bits there must be finite.
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


def random_packed(name: str, rows: int, blocks: int, seed: int = 0) -> Packed:
    rng = np.random.default_rng(seed)
    fmt = FORMATS[name]
    data = rng.integers(0, 256, (rows * blocks, fmt.bytes), dtype=np.uint8)
    for at in SCALES[name]:
        scale = rng.standard_normal(rows * blocks).astype(np.float16)
        data[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return Packed(data.reshape(rows, -1), name, (rows, blocks * fmt.block))


def oracle(packed: Packed) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[packed.format]
    return gguf.quants.dequantize(packed.data, kind).reshape(packed.shape)


@pytest.mark.parametrize("name", SCALES)
def test_blocks_equal_the_gguf_package(name):
    packed = random_packed(name, 9, 64)
    got = dequantize(packed)
    assert got.dtype == torch.float32
    assert np.array_equal(got.numpy().view(np.uint32), oracle(packed).view(np.uint32))
