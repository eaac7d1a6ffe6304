"""What sampling knows of each row of a step: records of 8-byte words at fixed byte offsets.

A replay's header holds the number of rows and the address of their records. Written by the backend
(`sampling.py`, `bias_table.py`), read by `kernels/sampling/`. Torch-free.
"""

from __future__ import annotations

ROWS = 0
RECORDS = 8

# a row that is drawn or scored
LOGITS = 0  # address of float32 [vocabulary]
KIND = 8
TOP_K = 16  # 0 = off; of a scored row, how many of its likeliest tokens to report
SCALE = 24  # float64, 1 / temperature
TOP_P = 32  # float64, 1 = off
MIN_P = 40  # float64, 0 = off
U = 48  # float64, the uniform number of the draw
BEST = 56  # address of (int32 id, float32 logit) [TOP_K] of a scored row
ID = 64  # result: the token, -1 where there is none
PEAK = 72  # result of a scored row: its maximum, float64
TOTAL = 80  # the sum of e^(logit - maximum), float64; both are nan if there is no answer
BITS = 88  # address of uint32 [at least vocabulary / 32], 0 = off: bit id % 32 of word id // 32
WHOLE = 96  # with BITS: address of the logits, of which LOGITS has those that are allowed
RECORD = 104  # bytes

GREEDY, DRAW, SCORE = range(3)  # kinds

# a row of which some logits are changed before it is drawn
EDITED = 0  # address of its logits
IDS = 8  # address of int32 [COUNT]
VALUES = 16  # address of float32 [4, WIDTH]: bias, banned, counts in the window and in the output
WIDTH = 24
COUNT = 32
EARLY = 40  # 1: banned ids are still excluded
FACTORS = 48  # address of float32 [3]: repetition, presence, frequency
BEFORE = 56  # address of float32 [COUNT]: the logits before the change
EDIT_BYTES = 64  # bytes

BLOCK = 512  # columns whose maximum and sum are computed together
LANES = 16


def blocks(vocab: int) -> int:
    """Blocks of a row."""
    return -(-vocab // BLOCK)


def padded(count: int) -> int:
    """`count` rounded up to whole vectors, plus one more that may be read."""
    return -(-count // LANES) * LANES + LANES


def scratch_bytes(vocab: int) -> int:
    """Bytes of a thread's scratch, as `kernels/sampling/candidates.py` describes it."""
    return 8 * padded(vocab) + 8 * 4 * padded(vocab) + 8 * 256 + 64
