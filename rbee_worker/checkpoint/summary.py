"""Counts what a checkpoint holds, by format: tensors, values and bytes. Reads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy would come with it, and a server counts before it needs numpy
    from rbee_worker.checkpoint.formats import TensorSource


@dataclass(frozen=True)
class FormatUse:
    """How much of a checkpoint is in one format."""

    format: str
    tensors: int
    values: int
    nbytes: int


@dataclass(frozen=True)
class Summary:
    """formats: largest first. The other fields are totals over all formats."""

    formats: tuple[FormatUse, ...]
    tensors: int
    values: int
    nbytes: int


def summarize(source: TensorSource) -> Summary:
    """Count the tensors of `source` by their format in the file."""
    uses: dict[str, FormatUse] = {}
    for name in source.names():
        info = source.info(name)
        use = uses.get(info.format, FormatUse(info.format, 0, 0, 0))
        uses[info.format] = FormatUse(
            info.format,
            use.tensors + 1,
            use.values + prod(info.shape),
            use.nbytes + info.nbytes,
        )
    formats = sorted(uses.values(), key=lambda use: (-use.nbytes, use.format))
    return Summary(
        formats=tuple(formats),
        tensors=sum(use.tensors for use in formats),
        values=sum(use.values for use in formats),
        nbytes=sum(use.nbytes for use in formats),
    )
