"""Random rows in any weight format, for benchmarks: such a model is timed, not read.

Values are finite and about as large as those of a trained model. The scales inside the blocks are
fixed, all other bits are random. Block layouts: ggml's structs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rbee_worker.checkpoint.formats import DECODABLE, FORMATS
from rbee_worker.errors import UsageError

SPREAD = 0.02  # approximate standard deviation of the values

# Format -> its float16 scales: (byte in the block, scale that gives a standard deviation of 1).
_MIN = -7.5  # in steps: moves the middle of 16 steps to 0
_SCALES: dict[str, tuple[tuple[int, float], ...]] = {
    "Q4_0": ((0, 1 / 4.6),),
    "Q4_1": ((0, 1 / 4.6), (2, _MIN / 4.6)),
    "Q5_0": ((0, 1 / 9.2),),
    "Q5_1": ((0, 1 / 9.2), (2, -15.5 / 9.2)),
    "Q8_0": ((0, 1 / 74),),
    "Q2_K": ((80, 1 / 11), (82, 1.5 / 11)),
    "Q3_K": ((108, 1 / 43),),
    "Q4_K": ((0, 1 / 230), (2, 7.5 / 230)),
    "Q5_K": ((0, 1 / 450), (2, 15.5 / 450)),
    "Q6_K": ((208, 1 / 1370),),
    "IQ4_NL": ((0, 1 / 70),),
    "IQ4_XS": ((0, 1 / 1300),),
    "IQ3_S": ((0, 1 / 140),),
    "IQ3_XXS": ((0, 1 / 140),),
    "IQ2_S": ((0, 1 / 56),),
    "IQ2_XS": ((0, 1 / 56),),
    "IQ2_XXS": ((0, 1 / 53),),
    "IQ1_S": ((0, 1 / 7.2),),
    "TQ1_0": ((52, 1 / 0.8),),
    "TQ2_0": ((64, 1 / 1.1),),
}
_EXPONENT = 120  # of MXFP4: 2^-8, times values up to 12
_NIBBLES, _IQ1_M = (49, 51, 53, 55), 1 / 7.2  # IQ1_M's scale is in the high halves of these bytes
RANDOM = tuple(  # the formats that `random_rows` can make
    n for n in ("BF16", "F16", "F32", "MXFP4", *_SCALES, "IQ1_M") if n in DECODABLE
)


def random_rows(rng: np.random.Generator, name: str, rows: int, cols: int) -> npt.NDArray[np.uint8]:
    """uint8 [rows, bytes of `cols` values]. `cols` must fill whole blocks.

    Raises UsageError for a format that `random_rows` cannot make.
    """
    if name not in RANDOM:
        raise UsageError(
            f"no random weights can be made in format {name}.",
            fix=f"use one of: {', '.join(n.lower() for n in RANDOM)}.",
        )
    form = FORMATS[name]
    assert cols % form.block == 0
    if form.is_float:
        return _floats(rng, name, rows, cols)
    blocks = rng.integers(0, 256, (rows * cols // form.block, form.bytes), np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = _EXPONENT
    if name == "IQ1_M":
        bits = int(np.float16(SPREAD * _IQ1_M).view(np.uint16))
        for k, at in enumerate(_NIBBLES):
            blocks[:, at] = blocks[:, at] & 15 | (bits >> 4 * k & 15) << 4
    for at, scale in _SCALES.get(name, ()):
        blocks[:, at : at + 2] = np.frombuffer(np.float16(SPREAD * scale).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def _floats(rng: np.random.Generator, name: str, rows: int, cols: int) -> npt.NDArray[np.uint8]:
    values = rng.standard_normal((rows, cols), np.float32) * np.float32(SPREAD)
    if name == "BF16":
        return np.ascontiguousarray(values.view(np.uint16)[:, 1::2]).view(np.uint8)
    return values.astype(np.float16 if name == "F16" else np.float32).view(np.uint8)
