"""Memory for the results of splits, chosen and allocated for one launch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.attention.columns import Columns, power_of_two
from rbee_worker.ops.cuda.kernels.attention.combine import combine_rows
from rbee_worker.ops.cuda.kernels.attention.rows import DIRECT, LAST_COMBINES, LATER
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles
from rbee_worker.ops.cuda.kernels.workspace import Workspace

COMBINED = 4096  # float32 numbers of all splits that a warp keeps while they are combined


class Scratch(NamedTuple):
    """How the splits of a launch become one result; without partial there are none.

    partial: float32 [units, heads, splits, v_dim], extremes: float32 [units, heads, splits, 2].
    counters: the last program combines (None: `combine` does, with a kernel of its own).
    """

    partial: Tensor | None = None
    extremes: Tensor | None = None
    counters: Tensor | None = None
    together: int = 1  # heads that one program combines
    v: Columns = Columns(0, 0, 0)

    @classmethod
    def of(
        cls, batch: int, heads: int, kv_heads: int, tiles: Tiles, v: Columns, workspace: Workspace
    ) -> Scratch:
        """What sequences of one row need."""
        if tiles.splits == 1:
            return cls()
        units = (batch, heads, tiles.splits)
        device = workspace.device
        partial = torch.empty((*units, v.dim), dtype=torch.float32, device=device)
        extremes = torch.empty((*units, 2), dtype=torch.float32, device=device)
        width = tiles.splits * (v.first + v.second)
        group = heads // kv_heads
        together = power_of_two(group)
        if group <= tiles.BM and width * together <= COMBINED * tiles.warps:
            counters = workspace.counters(batch * kv_heads)
            return cls(partial, extremes, counters, together, v)
        together = max(1, min(power_of_two(heads), 2 * COMBINED // width))
        return cls(partial, extremes, None, together, v)

    def arguments(self) -> dict[str, Any]:
        """Kernel arguments."""
        combine = DIRECT if self.partial is None else LATER
        if self.counters is not None:
            combine = LAST_COMBINES
        return {
            "partial": self.partial,
            "extremes": self.extremes,
            "counters": self.counters,
            "COMBINE": combine.value,
            "COMBINED_HEADS": self.together,
        }

    def combine(
        self, sinks: Tensor | None, out: Tensor, seq_starts: Tensor | None, *, pdl: bool
    ) -> None:
        """Launch the kernel that combines, if the attention kernel does not.

        seq_starts: only sequences with one row have parts (None: every row of `out` has).
        """
        if self.partial is None or self.counters is not None:
            return
        batch, heads, splits, _ = self.partial.shape
        combine_rows[(batch, -(-heads // self.together))](
            self.partial,
            self.extremes,
            sinks,
            out,
            seq_starts,
            HEADS=heads,
            BLOCK_HEADS=self.together,
            SPLITS=splits,
            V_DIM=self.v.dim,
            V0=self.v.first,
            V1=self.v.second,
            SINKS=sinks is not None,
            SINGLE=seq_starts is not None,
            PDL=pdl,
            num_warps=4,
            launch_pdl=pdl,
        )
