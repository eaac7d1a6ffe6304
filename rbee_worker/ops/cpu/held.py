"""How weights are held: 16 rows interleaved, so that a lane of a vector is a row.

A unit is 16 rows times `columns` columns in `nbytes` bytes; units of a group of 16 rows follow each
other along the row, groups follow each other. What lies inside a unit is written beside the code
that reads it, `kernels/blocks.py`, and beside the code that makes it, `kernels/repack.py`.
"""

from __future__ import annotations

from typing import NamedTuple

ROWS = 16


class Held(NamedTuple):
    """One held format: `columns` of 16 rows take `nbytes`."""

    name: str
    columns: int
    nbytes: int
    is_float: bool = False


HELD: dict[str, Held] = {
    held.name: held
    for held in (
        Held("q4_0", 32, 288),
        Held("q4_1", 32, 320),
        Held("q5_0", 32, 352),
        Held("q5_1", 32, 384),
        Held("q8_0", 32, 544),
        Held("q2_k", 256, 1344),
        Held("q3_k", 256, 1824),
        Held("q4_k", 256, 2368),
        Held("q5_k", 256, 2880),
        Held("q6_k", 256, 3360),
        Held("iq4_nl", 32, 288),
        Held("iq4_xs", 256, 2208),
        Held("mxfp4", 32, 272),
        Held("bf16", 32, 1024, True),
        Held("f16", 32, 1024, True),
        Held("f32", 32, 2048, True),
    )
}
