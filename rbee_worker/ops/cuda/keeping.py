"""What is kept beside packed matrices, for steps of several rows, by the room that there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

_SHARE = 0.6  # of the free memory, for weights with all that is kept beside them


class Kept(NamedTuple):
    """resident, integers: see `matrix.Forms`. note: what a person is told."""

    resident: bool
    integers: bool
    note: str


_EIGHT = "as 8-bit integers with a scale for 128 columns for up to 64"
CHOICES = (  # the fastest first; the last one needs no room
    Kept(
        True,
        True,
        f"packed matrices are kept as they are for steps of up to 4 rows, {_EIGHT}, as floats for "
        "more",
    ),
    Kept(
        False,
        True,
        f"packed matrices are kept as they are for steps of up to 4 rows, {_EIGHT}; for more, "
        "floats are made each time",
    ),
    Kept(
        False,
        False,
        "packed matrices are kept as they are; for steps of more than 4 rows, floats are made each "
        "time",
    ),
)


def chosen(held: Sequence[Mapping[str, int]], free: int) -> Kept:
    """The first choice that there is room for. held: the bytes of each choice by form; free: bytes
    of the device."""
    for one, sizes in zip(CHOICES[:-1], held, strict=False):
        if sum(sizes.values()) < _SHARE * free:
            return one
    return CHOICES[-1]
