"""The step header: int64 words that change from step to step, at fixed byte offsets.

`header.Header` writes it before each replay; kernels get its address as `step`. One record follows
for each state group and one for each rotary table; their offsets are kernel arguments. Torch-free:
kernels and the engine both import it.
"""

from __future__ import annotations

N = 0  # rows of this step; 0 is allowed
B = 8  # sequences
TOKENS = 16  # address of int64 [N]
POSITIONS = 24  # address of int64 [N]
SEQ_STARTS = 32  # address of int64 [B + 1]
KV_LENS = 40  # address of int64 [B]
SEGMENTS = 48  # address of int64 [N]
ADAPTERS = 56  # address of int64 [N]
FEATURE_ROWS = 64  # address of int64 [N], or 0: no row takes features
FEATURES = 72  # address of float32 [M, width], the memory of features
UNTIL = 80  # address of int64 [N], or 0: every row sees up to itself
RECORDS = 88  # the first record's offset

# a paged group's record
K = 0  # address of the keys of layer 0
K_LAYER = 8  # bytes from a layer's keys to the next layer's
V = 16
V_LAYER = 24
TABLE = 32  # address of int32 [B, TABLE_WIDTH]
TABLE_WIDTH = 40
SLOTS = 48  # address of int64 [N]; in a fixed group's record [B]
LENS = 56  # address of int64 [B]: the group's keys of each sequence
GROUP_BYTES = 64

# a fixed group's record: these words of tensor n are TENSOR_BYTES * n further on, SLOTS is shared
STATE = 0  # address of layer 0
STATE_LAYER = 8  # bytes from a layer to the next one
TENSOR_BYTES = 16
TENSORS = 3  # at most; a layer that keeps more declares two groups

# a rotary table's record
ANGLES = 0  # address of float32 [rows, 2, dim / 2]: cosines, then sines
INDEX = 8  # address of int64 [N]: the table row of each token
ROPE_BYTES = 16


def group_at(group: int) -> int:
    """Offset of a state group's record."""
    return RECORDS + group * GROUP_BYTES


def tensor_at(group: int, tensor: int) -> int:
    """Offset of what a fixed group's record says of one of its tensors."""
    assert tensor < TENSORS
    return group_at(group) + TENSOR_BYTES * tensor


def rope_at(rope: int, groups: int) -> int:
    """Offset of a rotary table's record, in a header with `groups` state groups."""
    return RECORDS + groups * GROUP_BYTES + rope * ROPE_BYTES


def words(groups: int, ropes: int) -> int:
    """int64 words of a header."""
    return rope_at(ropes, groups) // 8
