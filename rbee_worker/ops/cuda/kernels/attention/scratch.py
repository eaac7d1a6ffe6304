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

REGISTERS = 2048  # float32 numbers of splits that a warp holds while it combines them
COMBINING_WARPS = 4  # of the kernel that only combines


class Scratch(NamedTuple):
    """How the splits of a launch become one result; without partial there are none.

    partial: float32 [units, heads, splits, v_dim], extremes: float32 [units, heads, splits, 2].
    counters: the last program combines (None: `combine` does, with a kernel of its own).
    """

    partial: Tensor | None = None
    extremes: Tensor | None = None
    counters: Tensor | None = None
    together: int = 1  # heads that one program combines
    at_once: int = 1  # splits in its registers at a time
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
        width = v.first + v.second
        group = power_of_two(heads // kv_heads)
        at_once = min(tiles.splits, _whole_power(REGISTERS * tiles.warps // (width * group)))
        if group <= tiles.BM and at_once >= min(tiles.splits, 4):
            counters = workspace.counters(batch * kv_heads)
            return cls(partial, extremes, counters, group, at_once, v)
        return cls(partial, extremes, None, *_combined(heads, tiles.splits, v), v)

    @classmethod
    def of_rows(
        cls, rows: int, heads: int, tiles: Tiles, v: Columns, device: torch.device
    ) -> Scratch:
        """What sequences of several rows need. Rows of other sequences keep their total of -1."""
        if tiles.splits == 1:
            return cls()
        units = (rows, heads, tiles.splits)
        partial = torch.empty((*units, v.dim), dtype=torch.float32, device=device)
        extremes = torch.full((*units, 2), -1.0, dtype=torch.float32, device=device)
        return cls(partial, extremes, None, *_combined(heads, tiles.splits, v), v)

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
            "TOGETHER": self.together,
            "AT_ONCE": self.at_once,
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
            TOGETHER=self.together,
            SPLITS=splits,
            AT_ONCE=self.at_once,
            V_DIM=self.v.dim,
            V0=self.v.first,
            V1=self.v.second,
            SINKS=sinks is not None,
            SINGLE=seq_starts is not None,
            PDL=pdl,
            num_warps=COMBINING_WARPS,
            launch_pdl=pdl,
        )


def _combined(heads: int, splits: int, v: Columns) -> tuple[int, int]:
    """How many heads a program of the kernel that combines takes, and how many splits at once."""
    width = v.first + v.second
    room = REGISTERS * COMBINING_WARPS
    together = min(power_of_two(heads), max(1, _whole_power(room // (width * splits))))
    return together, min(splits, max(1, _whole_power(room // (width * together))))


def _whole_power(number: int) -> int:
    """The highest power of two that is at most `number`; 0 of 0."""
    return (1 << number.bit_length()) >> 1
