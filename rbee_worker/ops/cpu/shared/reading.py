"""How a product reads its weights: arguments of its kernel that change its speed, never a result.

Which reading is fastest depends on the processor: Sapphire Rapids reads memory faster in four
streams with prefetching, Zen 4 in one stream without. `runtime/readings.py` measures and chooses.
"""

from __future__ import annotations

from typing import NamedTuple

NEXT = -1  # instead of a distance: the same place in the next group of 16 rows
_NEXT = "next"
SHAPE = "STREAMS:NEAR:FAR"  # a reading as text


class Reading(NamedTuple):
    """streams: groups of 16 rows that one token is multiplied with at a time, 4 or 1. near, far:
    how many bytes after the weights in use those lie that are prefetched, with one token and with
    several. 0 prefetches the weights in use, little more than nothing; `far` may be NEXT."""

    streams: int
    near: int
    far: int

    @property
    def with_one(self) -> str:
        """The part for one token, as text."""
        return f"{self.streams}:{self.near}"

    @property
    def with_several(self) -> str:
        """The part for several tokens, as text."""
        return _NEXT if self.far == NEXT else str(self.far)

    def __str__(self) -> str:
        return f"{self.with_one}:{self.with_several}"


UNMEASURED = Reading(4, 2048, NEXT)  # where nothing was measured, as in tests
STREAMS = (1, 4)
FARTHEST = 1 << 20  # bytes; no prefetching reaches beyond a second-level cache
ONE = tuple(Reading(s, near, NEXT) for s in STREAMS for near in (0, 2048, 3072))
SEVERAL = tuple(Reading(*UNMEASURED[:2], far) for far in (0, 2048, 4096, NEXT))


def parsed(text: str) -> Reading | None:
    """The reading that a text names; None if it names none."""
    parts = text.split(":")
    if len(parts) != len(Reading._fields):
        return None
    numbers = [NEXT if n == 2 and p == _NEXT else _number(p) for n, p in enumerate(parts)]
    if None in numbers or numbers[0] not in STREAMS:
        return None
    return Reading(*(n for n in numbers if n is not None))


def _number(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else FARTHEST + 1
    return number if number <= FARTHEST else None
