"""`Adapter`: what an adapter's files say, before it meets a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rbee_worker.checkpoint.formats import Packed


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one linear map: scale * B (A x).

    modules: the names that the map may have in a model, under Hugging Face's names, likeliest
    first. a [rank, in] and b [out, rank] are views of the file, with b's rows in Hugging Face's
    order. tensor: the name of A in the file, for messages.
    """

    modules: tuple[str, ...]
    a: Packed
    b: Packed
    scale: float
    tensor: str


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. base: the model that it says it was trained on, as it writes it."""

    path: Path
    base: str
    parts: tuple[LowRank, ...]

    @property
    def rank(self) -> int:
        """The highest rank of its parts."""
        return max(part.a.shape[0] for part in self.parts)
