"""How weights are held in memory: 16 rows interleaved, so that each lane of a vector is a row.

A unit is 16 rows times `columns` columns and takes `nbytes` bytes. The units of a group of 16 rows
follow each other along the row, and groups follow each other. The layout inside a unit is described
where it is read, `kernels/product/blocks.py`; `kernels/repacking/` makes it.
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
        Held("iq1", 256, 1824),
        Held("iq2", 256, 1824),
        Held("iq3_xxs", 256, 2208),
        Held("iq3_s", 256, 2208),
        Held("bf16", 32, 1024, True),
        Held("f16", 32, 1024, True),
        Held("f32", 32, 2048, True),
    )
}

# Formats that are held as another one, which has all their values exactly. Grid points are held
# value by value: 3 bits where a grid has 6 different values, 4 bits where it has 16.
SAME: dict[str, str] = {
    "iq1_s": "iq1",
    "iq1_m": "iq1",
    "iq2_xxs": "iq2",
    "iq2_xs": "iq2",
    "iq2_s": "iq2",
    "tq1_0": "q2_k",
    "tq2_0": "q2_k",
}
GRID_OF: dict[str, str] = {  # formats on grids: the grid's name
    "iq1_s": "IQ1",
    "iq1_m": "IQ1",
    "iq2_xxs": "IQ2_XXS",
    "iq2_xs": "IQ2_XS",
    "iq2_s": "IQ2_S",
    "iq3_xxs": "IQ3_XXS",
    "iq3_s": "IQ3_S",
}


def taken_as(format: str) -> str:
    """The format to repack from: the file's own, or float32 where no kernel knows it."""
    name = format.lower()
    return name if name in HELD or name in SAME else "f32"


def held_as(format: str) -> Held:
    """How a matrix in a file's format is held."""
    name = taken_as(format)
    return HELD[SAME.get(name, name)]


def planned(format: str, rows: int, cols: int) -> tuple[str, int]:
    """The held format of a matrix in a file's format, and its bytes."""
    held = held_as(format)
    return held.name, -(-rows // ROWS) * -(-cols // held.columns) * held.nbytes
