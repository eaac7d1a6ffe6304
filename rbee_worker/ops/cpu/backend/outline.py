"""Which kernels a model needs, found before any weight is read, so that all compile at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Weight
from rbee_worker.ops.adapted import Sites
from rbee_worker.ops.cpu.backend.model import kernel_names
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.backend.sampling import KERNELS as SAMPLING
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.matrix import outline, repacker
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.stack import outline_stack, weight_of
from rbee_worker.ops.cpu.runtime.team import KERNELS, Team
from rbee_worker.ops.plan import blank

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder


@dataclass(frozen=True)
class _Threads:
    """Stands in for a team, and only has its size."""

    threads: int


class OutlineOps(CpuOps):
    """`CpuOps` for a model without weight data, which can be recorded but not run."""

    def __init__(
        self, *, exact: bool = False, bf16: bool = False, sites: Sites | None = None
    ) -> None:
        nothing = cast(Library, None), cast(Team, _Threads(1))
        super().__init__(*nothing, exact=exact, bf16=bf16, arena=Arena(0), sites=sites)
        self._repackers: set[str] = set()

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        """See `Ops.matrix`; the stored form without data."""
        matrix = outline(parts)
        self._repackers |= {repacker(p.format) for p in parts}
        formats = "+".join(dict.fromkeys(p.format for p in parts))
        return Weight(matrix, matrix.rows, matrix.cols, formats, matrix.formats, 0)

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        """See `Ops.stack`; without data."""
        stack = outline_stack(members)
        self._repackers |= {repacker(p.format) for p in members[0]}
        return weight_of(stack)

    def floats(self, packed: Packed) -> Packed:
        """See `Ops.floats`; without data."""
        return blank("F32", packed.shape)

    def needed(self, decoder: Decoder, shape: Shape) -> list[str]:
        """The kernels for loading and running `decoder`, built with these operations, and
        sampling."""
        return sorted({*KERNELS, *SAMPLING, *self._repackers, *kernel_names(decoder, self, shape)})
