"""Random blocks of every packed format with finite scales, and their values by the gguf package."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np

# Byte offsets of the float16 scales in a block; IQ1_M's is spread over its last eight bytes.
SCALES: dict[str, tuple[int, ...]] = {
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
    "IQ1_S": (0,),
    "IQ1_M": (48,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "MXFP4": (),  # the first byte is an exponent
}


def kind_of(name: str) -> gguf.GGMLQuantizationType:
    """The gguf package's number of a format."""
    return gguf.GGMLQuantizationType[name]


def put_scale(name: str, blocks: np.ndarray, at: int, scale: np.ndarray) -> None:
    """Write one number for each of `blocks` [n, bytes] as the float16 scale at byte `at`."""
    half = np.broadcast_to(scale, len(blocks)).astype(np.float16)
    if name != "IQ1_M":
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
        return
    bits = half.view(np.uint16)
    for k in range(4):  # four bits of the scale at the top of each of four 16-bit words
        low = blocks[:, at + 2 * k + 1] & 15
        blocks[:, at + 2 * k + 1] = low | (((bits >> (4 * k)) & 15) << 4)


def random_blocks(
    name: str, rows: int, cols: int, rng: np.random.Generator, scale: Callable[[int], np.ndarray]
) -> np.ndarray:
    """uint8 [rows, row bytes]; scale(n): the scales of n blocks."""
    columns, size = gguf.GGML_QUANT_SIZES[kind_of(name)]
    count = rows * cols // columns
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[name]:
        put_scale(name, blocks, at, scale(count))
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(118, 130, count)
    return blocks.reshape(rows, -1)


def values(name: str, raw: np.ndarray) -> np.ndarray:
    """float32, as the gguf package decodes them."""
    return gguf.quants.dequantize(raw, kind_of(name))


def weights(name: str, rows: int, cols: int, rng: np.random.Generator, size: float) -> np.ndarray:
    """Random blocks whose values are about `size` (root mean square); formats without a float16
    scale keep theirs."""
    sample = random_blocks(name, 1, 256 * 64, rng, lambda n: rng.uniform(0.5, 1.0, n))
    unit = size / float(np.sqrt(np.mean(np.square(values(name, sample), dtype=np.float64))))
    return random_blocks(name, rows, cols, rng, lambda n: unit * rng.uniform(0.5, 1.0, n))
