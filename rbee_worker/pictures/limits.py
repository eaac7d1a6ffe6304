"""`Limits`: how much of pictures one request may bring."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Pictures of a request, bytes of each file, pixels of each picture."""

    count: int
    bytes: int
    pixels: int
